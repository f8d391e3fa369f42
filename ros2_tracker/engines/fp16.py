"""From a fp32 ONNX graph to a strongly typed fp16 one: every cast is in the graph, a run time chooses nothing.

Half precision are matrix products, convolutions, and what prepares their inputs from another one's result. fp32 are

* what comes before the first of them (normalised crops, sine positions) and after the last (sigmoid, decoding, soft
  arg-max), and the last two convolutions of each tower of a head;
* LayerNormalization, whose variance and eps of 1e-6 fp16 cannot hold, and Softmax;
* what only these read: residual sums, and attention masks, whose -3.4e38 is no fp16 number;
* what only ranks and never reaches an output (candidate elimination, argmax): its order is its result. Products with
  weights are fp16 there too, or a matrix that others read in fp16 would be kept twice.

That is much as `torch.autocast` has it, and keeps the patterns by which TensorRT finds attention.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx_ir as ir

from ros2_tracker.engines.onnx_graph import add_weights

_PRODUCTS = {"Conv", "Gemm", "MatMul"}
_PRECISE = {"LayerNormalization", "Softmax"}
# Convolutions of a head's end that stay fp32: scores and corners are as exact as they are, and they are small.
_LAST = 2
_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
_LARGEST = float(np.finfo(np.float16).max)


def to_fp16(model: ir.Model, half_outputs: Collection[str] = (), float_inputs: Collection[str] = ()) -> None:
    """Convert in place.

    Args:
        model: topologically sorted, with the types of all values, without subgraphs.
        half_outputs: outputs that become float16; the others stay as they are.
        float_inputs: float inputs that stay as they are; the others become float16.

    Raises:
        ValueError: a weight is beyond what fp16 holds.

    """
    graph = model.graph
    features = [value for value in graph.inputs if value.name not in float_inputs]
    half = _half_nodes(graph, half_outputs, features)
    for value in (*features, *(output for node in half for output in node.outputs)):
        if value.dtype == _FLOAT:
            value.dtype = _HALF
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
    for node in tuple(graph):
        wanted = _HALF if node in half else _FLOAT
        for i, value in enumerate(node.inputs):
            if value is None or value.dtype not in (_FLOAT, _HALF) or value.dtype == wanted:
                continue
            if (value, wanted) not in casts:
                make = _converted_weight if value.is_initializer() else _cast
                casts[value, wanted] = make(graph, value, wanted)
            node.replace_input_with(i, casts[value, wanted])
    for i, value in enumerate(graph.outputs):
        wanted = _HALF if value.name in half_outputs else _FLOAT
        if value.dtype in (_FLOAT, _HALF) and value.dtype != wanted:
            name, value.name = value.name, f"{value.name}.{value.dtype.name.lower()}"
            graph.outputs[i] = _cast(graph, value, wanted)
            graph.outputs[i].name = name
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]


def _half_nodes(graph: ir.Graph, half_outputs: Collection[str], features: Collection[ir.Value]) -> set[ir.Node]:
    """The nodes that compute in fp16; see the module's text."""
    nodes = tuple(graph)
    # A template's features come from products, too, in another graph.
    behind = {value for value in features if value.dtype == _FLOAT}
    after = set()
    for node in nodes:
        if node.op_type in _PRODUCTS or not behind.isdisjoint(node.inputs):
            after.add(node)
            behind.update(value for value in node.outputs if value.dtype == _FLOAT)
    reaching = {value for value in graph.outputs if value.dtype == _FLOAT}
    half: set[ir.Node] = set()
    # A template's features are no end: another graph goes on with them.
    last = set() if half_outputs else _last_convolutions(nodes)
    for node in reversed(nodes):
        if node in last:
            reaching.update(value for value in node.inputs if value is not None and value.dtype == _FLOAT)
            continue
        if reaching.isdisjoint(node.outputs):
            if node.op_type in _PRODUCTS and any(value.is_initializer() for value in node.inputs if value is not None):
                half.add(node)
            continue
        reaching.update(value for value in node.inputs if value is not None and value.dtype == _FLOAT)
        read_in_half = any(
            value.name in half_outputs or any(user in half for user, _ in value.uses()) for value in node.outputs
        )
        if node.op_type in _PRODUCTS or (node in after and read_in_half and node.op_type not in _PRECISE):
            half.add(node)
    return half


def _last_convolutions(nodes: Sequence[ir.Node]) -> set[ir.Node]:
    """Convolutions with at most one other product between them and the end."""
    products: dict[ir.Node, int] = {}
    """Behind a node, on the longest way."""
    for node in reversed(nodes):
        users = {user for value in node.outputs for user, _ in value.uses()}
        products[node] = max((products[user] + (user.op_type in _PRODUCTS) for user in users), default=0)
    return {node for node, count in products.items() if node.op_type == "Conv" and count < _LAST}


def _converted_weight(graph: ir.Graph, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    weights = value.const_value.numpy()
    if np.abs(weights).max(initial=0.0) > _LARGEST:
        raise ValueError(f"{value.name} holds {np.abs(weights).max():g}, fp16 ends at {_LARGEST:g}")
    return add_weights(graph, f"{value.name}.{dtype.name.lower()}", weights.astype(dtype.numpy()))


def _cast(graph: ir.Graph, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    name = f"{value.name}.{dtype.name.lower()}"
    result = ir.Value(name=name, shape=value.shape, type=ir.TensorType(dtype))
    node = ir.node("Cast", [value], {"to": dtype.value}, outputs=[result], name=f"cast_{name}")
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], node)
    else:
        graph.insert_after(producer, node)
    return result
