#!/usr/bin/env python3
"""Make the int8 graph of a variant: matrix products with int8 weights (per channel) and activations scaled at run time.

Convolutions stay in fp32. Each attention becomes one operation of ONNX Runtime's own, which takes tokens as they are
and never holds a whole map of it. No calibration data is needed; measure the result before shipping it.

Example: python scripts/quantize_network.py ros2_tracker/weights/onestream-192.onnx out.int8.onnx
(needs `pip install onnx sympy`)
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto, helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.onnx_model import OnnxModel

# What an exported attention does to its projections on their way to and from the products.
_ARRANGES = {"Mul", "Reshape", "Slice", "Split", "Squeeze", "Transpose"}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("target")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepared, quantized = (str(Path(folder) / name) for name in ("prepared.onnx", "quantized.onnx"))
        # ONNX Runtime's own optimisation would put a reshape before and behind each product.
        quant_pre_process(arguments.source, prepared, skip_symbolic_shape=True, skip_optimization=True)
        quantize_dynamic(
            prepared,
            quantized,
            op_types_to_quantize=["MatMul"],
            weight_type=QuantType.QInt8,
            per_channel=True,
            # 7-bit weights: with 8, processors without VNNI (AVX2) saturate their 16-bit sums without a word.
            reduce_range=True,
        )
        made = with_fused_attention(onnx.load(quantized), _heads(onnx.load(arguments.source)))
    onnx.checker.check_model(made)
    onnx.save(made, arguments.target)


def with_fused_attention(model: ModelProto, heads: dict[str, int]) -> ModelProto:
    """Softmax(q k') v, from the projections to the joined heads, as one `MultiHeadAttention` each.

    Args:
        model: whose attention is what torch exports of `scaled_dot_product_attention`: scaled by 1 / sqrt(d), unmasked.
        heads: their number, by the name of the softmax's result.

    Raises:
        ValueError: an attention is of another kind.

    """
    graph, versions = OnnxModel(model), {each.domain: each.version for each in model.opset_import}
    consumers, producers = graph.input_name_to_nodes(), graph.output_name_to_node()
    for softmax in graph.get_nodes_by_op_type("Softmax"):
        (attended,) = consumers[softmax.output[0]]
        (apart,) = consumers[attended.output[0]]
        (joined,) = consumers[apart.output[0]]
        if (attended.op_type, apart.op_type, joined.op_type) != ("MatMul", "Transpose", "Reshape"):
            raise ValueError(f"{softmax.name} is not followed by an attention's product and its heads' joining")
        products = producers[softmax.input[0]]
        if products.op_type != "MatMul":
            raise ValueError(f"{softmax.name} follows {products.op_type}, not the product of q and k: is there a mask?")
        q, k, v = (_projection(name, producers) for name in (*products.input, attended.input[1]))
        if k != v:
            raise ValueError(f"{softmax.name}: k and v are projected apart, to {k} and {v}")
        # One projection holds q, k and v one after another, or k and v.
        shared = [q, k, v] if q == k else [k, v]
        parts = [f"{joined.output[0]}_{name}" for name in "qkv"[-len(shared) :]]
        fused = helper.make_node(
            "MultiHeadAttention",
            [*([] if q == k else [q]), *parts],
            [joined.output[0]],
            name=f"{joined.output[0]}_attention",
            domain="com.microsoft",
            num_heads=heads[softmax.output[0]],
        )
        # Before opset 18 the number of its results said it, since then it is an attribute.
        counted = {"num_outputs": len(parts)} if versions[""] >= 18 else {}
        graph.add_nodes([helper.make_node("Split", [k], parts, axis=2, **counted), fused])
        graph.remove_node(joined)
    graph.prune_graph()
    graph.topological_sort()
    if "com.microsoft" not in versions:
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    # Of tensors that are no more.
    del model.graph.value_info[:]
    return model


def _projection(name: str, producers: dict[str, NodeProto]) -> str:
    """What q, k or v is arranged from."""
    while name in producers and producers[name].op_type in _ARRANGES:
        name = producers[name].input[0]
    return name


def _heads(model: ModelProto) -> dict[str, int]:
    known = onnx.shape_inference.infer_shapes(model).graph.value_info
    axes = {info.name: info.type.tensor_type.shape.dim for info in known}
    found = [node.output[0] for node in model.graph.node if node.op_type == "Softmax"]
    return {name: axes[name][1].dim_value for name in found}


if __name__ == "__main__":
    main()
