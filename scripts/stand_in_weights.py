#!/usr/bin/env python3
"""Write `multistage-tiny`'s weights as the stand-in network has them, for `init_from` of `ros2-tracker train`.

Train from them with `frozen_norms: true` among the network's settings: see ros2_tracker/models/stand_in.py.

Example: python scripts/stand_in_weights.py stand-in.safetensors
(needs `pip install onnx safetensors torch`)
"""

from __future__ import annotations

import argparse

from safetensors.torch import save_file

from ros2_tracker.models.stand_in import stand_in_weights
from ros2_tracker.models.variant import WEIGHTS_DIR


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output")
    parser.add_argument("--graph", default=WEIGHTS_DIR / "onestream-192.onnx", help="the stand-in (default: shipped)")
    arguments = parser.parse_args()
    save_file(stand_in_weights(arguments.graph), arguments.output)


if __name__ == "__main__":
    main()
