#!/usr/bin/env python3
"""Give a float-input ONNX tracker the inputs and outputs that this package's engines expect.

The stand-in network was delivered with normalised float NCHW inputs `z`, `x` and raw outputs `c` (logits) and `r`.
This puts the normalisation in front (inputs `template`, `search`: (1, S, S, 3) uint8 RGB) and the activations behind
(`score_map` = sigmoid(c), (1, F, F); `ltrb` = softplus(r) / 4, (1, 4, F, F)), so that a frame costs one small copy in.

Example: python scripts/wrap_network.py onestream-192-raw.onnx ros2_tracker/weights/onestream-192.onnx
(needs `pip install onnx`)
"""

from __future__ import annotations

import argparse

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def wrap(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with uint8 HWC inputs and activated outputs."""
    graph = model.graph
    mean = np.array(IMAGENET_MEAN, np.float32).reshape(1, 3, 1, 1) * 255.0
    scale = 1.0 / (np.array(IMAGENET_STD, np.float32).reshape(1, 3, 1, 1) * 255.0)
    quarter = np.array(0.25, np.float32)
    axis = np.array([1], np.int64)
    constants = {"input_mean": mean, "input_scale": scale, "quarter": quarter, "channel_axis": axis}
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())

    before, inputs = [], []
    for old, new in (("z", "template"), ("x", "search")):
        size = next(i for i in graph.input if i.name == old).type.tensor_type.shape.dim[-1].dim_value
        inputs.append(helper.make_tensor_value_info(new, TensorProto.UINT8, (1, size, size, 3)))
        before += [
            # The cast comes first: TensorRT does nothing else with uint8.
            helper.make_node("Cast", [new], [f"{new}_float"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", [f"{new}_float"], [f"{new}_chw"], perm=[0, 3, 1, 2]),
            helper.make_node("Sub", [f"{new}_chw", "input_mean"], [f"{new}_centred"]),
            helper.make_node("Mul", [f"{new}_centred", "input_scale"], [old]),
        ]
    cells = next(o for o in graph.output if o.name == "c").type.tensor_type.shape.dim[-1].dim_value
    after = [
        helper.make_node("Sigmoid", ["c"], ["c_sigmoid"]),
        helper.make_node("Squeeze", ["c_sigmoid", "channel_axis"], ["score_map"]),
        helper.make_node("Softplus", ["r"], ["r_softplus"]),
        helper.make_node("Mul", ["r_softplus", "quarter"], ["ltrb"]),
    ]
    outputs = [
        helper.make_tensor_value_info("score_map", TensorProto.FLOAT, (1, cells, cells)),
        helper.make_tensor_value_info("ltrb", TensorProto.FLOAT, (1, 4, cells, cells)),
    ]
    nodes = [*before, *graph.node, *after]
    for field, values in (("node", nodes), ("input", inputs), ("output", outputs)):
        graph.ClearField(field)
        getattr(graph, field).extend(values)
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("target")
    arguments = parser.parse_args()
    onnx.save(wrap(onnx.load(arguments.source)), arguments.target)


if __name__ == "__main__":
    main()
