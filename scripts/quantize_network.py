#!/usr/bin/env python3
"""Make the int8 graph of a variant: matrix products with int8 weights (per channel) and activations scaled at run time.

Convolutions stay in fp32. No calibration data is needed; measure the result before shipping it.

Example: python scripts/quantize_network.py ros2_tracker/weights/onestream-192.onnx out.int8.onnx
(needs `pip install onnx sympy`)
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("target")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepared = str(Path(folder) / "prepared.onnx")
        quant_pre_process(arguments.source, prepared, skip_symbolic_shape=True)
        quantize_dynamic(
            prepared,
            arguments.target,
            op_types_to_quantize=["MatMul"],
            weight_type=QuantType.QInt8,
            per_channel=True,
            # 7-bit weights: with 8, processors without VNNI (AVX2) saturate their 16-bit sums without a word.
            reduce_range=True,
        )


if __name__ == "__main__":
    main()
