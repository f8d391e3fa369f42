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
    _order_gelus(model.graph)
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


def _order_gelus(graph: ir.Graph) -> None:
    """Halve a GELU at its end: x * (0.5 * (1 + erf)) becomes (x * (1 + erf)) * 0.5, which ONNX Runtime fuses."""
    for node in tuple(graph):
        factors = [value.producer() for value in node.inputs if value is not None]
        if node.op_type != "Mul" or len(factors) != 2:
            continue
        for half, x in ((factors[0], node.inputs[1]), (factors[1], node.inputs[0])):
            if half is None or half.op_type != "Mul" or len(half.outputs[0].uses()) != 1:
                continue
            constant, error = half.inputs
            tensor = ir.convenience.get_const_tensor(constant)
            if tensor is None or tensor.size != 1 or float(tensor.numpy()) != 0.5 or not _is_one_plus_erf(error):
                continue
            graph.remove(half)
            graph.insert_before(node, half)  # x may be made after it
            half.replace_input_with(0, x)
            node.replace_input_with(0, half.outputs[0])
            node.replace_input_with(1, constant)
            break


def _is_one_plus_erf(value: ir.Value | None) -> bool:
    add = value and value.producer()
    if not add or add.op_type != "Add":
        return False
    return any(term.producer() is not None and term.producer().op_type == "Erf" for term in add.inputs)


def add_weights(graph: ir.Graph, name: str, weights: NDArray) -> ir.Value:
    """A new initializer of a graph."""
    tensor = ir.tensor(np.ascontiguousarray(weights), name=name)
    value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
