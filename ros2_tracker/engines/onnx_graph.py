"""What torch's exporter leaves to be simplified in an ONNX graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxscript import optimizer


def simplify(model: ir.Model) -> None:
    """Simplify in place: same numbers from fewer operations."""
    _drop_nan_guards(model.graph)
    _split_weights(model.graph)
    optimizer.fold_constants(model)
    optimizer.remove_unused_nodes(model)


def _drop_nan_guards(graph: ir.Graph) -> None:
    """Use a masked softmax as it is, not where(isnan(it), 0, it).

    It has no NaN even with every key masked, because the exporter masks with a large finite number. The guard would
    turn the NaN of broken weights into a plausible box, and hides attention from TensorRT's fusion.
    """
    for node in tuple(graph):
        if node.op_type != "Where":
            continue
        condition, _, value = node.inputs
        test = condition.producer()
        if test is not None and test.op_type == "IsNaN" and test.inputs[0] is value:
            ir.convenience.replace_all_uses_with(node.outputs[0], value)
            graph.remove((node, test), safe=True)


def _split_weights(graph: ir.Graph) -> None:
    """Cut weights that are used in parts (q, k and v), which the optimizer does not do with large ones."""
    for node in tuple(graph):
        weights = node.inputs[0] if node.op_type == "Split" else None
        if weights is None or not weights.is_initializer():
            continue
        cuts: int | NDArray = len(node.outputs)
        if len(node.inputs) > 1:
            sizes = ir.convenience.get_const_tensor(node.inputs[1])
            if sizes is None:
                continue
            cuts = np.cumsum(sizes.numpy())[:-1]
        parts = np.split(weights.const_value.numpy(), cuts, axis=node.attributes.get_int("axis", 0))
        for i, (part, output) in enumerate(zip(parts, node.outputs, strict=True)):
            name = f"{weights.name}.{len(parts)}.{i}"
            cut = graph.initializers.get(name) or add_weights(graph, name, part)
            ir.convenience.replace_all_uses_with(output, cut)
        graph.remove(node, safe=True)


def add_weights(graph: ir.Graph, name: str, weights: NDArray) -> ir.Value:
    """A new initializer of a graph."""
    tensor = ir.tensor(np.ascontiguousarray(weights), name=name)
    value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
