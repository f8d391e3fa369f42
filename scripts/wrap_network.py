#!/usr/bin/env python3
"""Give a float-input ONNX tracker the inputs and outputs that this package's engines expect.

The stand-in network was delivered with normalised float NCHW inputs `z`, `x` and raw outputs `c` (logits) and `r`.
This puts the normalisation in front (inputs `template`, `search`: (1, S, S, 3) uint8 RGB) and the activations behind
(`score_map` = sigmoid(c), (1, F, F); `ltrb` = softplus(r) / 4, (1, 4, F, F)), so that a frame costs one small copy in.

With `--batch any` one run handles any number of targets, with `--batch N` that many, with the answers of single runs; a
graph that is wrapped already, such as the shipped one, gets its batch alone.

Examples: python scripts/wrap_network.py onestream-192-raw.onnx ros2_tracker/weights/onestream-192.onnx --batch any
          python scripts/wrap_network.py ros2_tracker/weights/onestream-192.onnx onestream-192.b4.onnx --batch 4
(needs `pip install onnx`)
"""

from __future__ import annotations

import argparse

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ros2_tracker.engines.origin import ANY_BATCH, BATCH_AXIS

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


def set_batch(model: onnx.ModelProto, batch: int | None) -> onnx.ModelProto:
    """The model, changed in place to handle `batch` targets in a run, exactly, or any number of them with None.

    ValueError when it is quantised at run time: all targets of a run would share one scale.
    """
    graph = model.graph
    if any(node.op_type == "DynamicQuantizeLinear" for node in graph.node):
        raise ValueError("the graph is quantised at run time: give the fp32 graph a batch")
    reshapes = {node.input[1] for node in graph.node if node.op_type == "Reshape"}
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] in reshapes:
            shape = numpy_helper.to_array(node.attribute[0].t).copy()
            if shape[0] == 1:
                shape[0] = 0  # Reshape's word for "as it is"
                node.attribute[0].t.CopyFrom(numpy_helper.from_array(shape))
    for value in (*graph.input, *graph.output):
        axis = value.type.tensor_type.shape.dim[0]
        if batch is None:
            axis.dim_param = BATCH_AXIS
        else:
            axis.dim_value = batch
    graph.ClearField("value_info")
    helper.set_model_props(model, {"precision": "fp32", "batch": ANY_BATCH if batch is None else str(batch)})
    onnx.checker.check_model(model, full_check=True)
    return model


def _batch(text: str) -> int | None:
    if text == ANY_BATCH:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of at least 1 nor {ANY_BATCH!r}")
    return int(text)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--batch", type=_batch, default=1, metavar="N|any", help="targets a run handles (default: 1)")
    arguments = parser.parse_args()
    model = onnx.load(arguments.source)
    if {value.name for value in model.graph.input} == {"z", "x"}:
        model = wrap(model)
    model = set_batch(model, arguments.batch)
    onnx.save(model, arguments.target)


if __name__ == "__main__":
    main()
