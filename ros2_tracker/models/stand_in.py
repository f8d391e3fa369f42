"""`multistage-tiny` from the weights of the stand-in network, onestream-192: a start for its training.

The stand-in has the same local and main stages and the same head. What it has not, the integration of the two local
stages and of the last tokens, starts at zero: at first both networks give the same answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from ros2_tracker.models.build import build_network
from ros2_tracker.models.multistage import MultiStage
from ros2_tracker.models.variant import load_variant

_VARIANT = "multistage-tiny"


def stand_in_weights(graph: str | Path) -> dict[str, Tensor]:
    """State dict of `multistage-tiny` with what the stand-in learned.

    Its batch normalisations are folded into its convolutions: ours get no more than their biases, and statistics that
    change nothing. Train with the network's setting `frozen_norms`, or the first step forgets all of it.

    Args:
        graph: the stand-in's fp32 graph, as delivered or as shipped; needs `onnx`.

    Raises:
        ValueError: it is another graph; the text says what it lacks.

    """
    network = build_network(load_variant(_VARIANT))
    state = network.state_dict()
    entries = _Entries(Path(graph))
    for name, value in _taken(entries, network):
        if state[name].shape != value.shape:
            raise ValueError(f"{graph}: {name} would have shape {tuple(value.shape)}, not {tuple(state[name].shape)}")
        state[name] = value
    return state


class _Entries:
    """A graph's weights, by the names of the operations that use them."""

    def __init__(self, graph: Path) -> None:
        import onnx
        from onnx import numpy_helper

        model = onnx.load(graph).graph
        values = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in model.initializer}
        self._graph = graph
        self._values = values
        self._operands = {n.name: [values[i] for i in n.input if i in values] for n in model.node}

    def __getitem__(self, name: str) -> Tensor:
        """A weight with a name of its own."""
        if name not in self._values:
            raise ValueError(f"{self._graph} is not the stand-in network: it has no weight {name}")
        return self._values[name]

    def of(self, node: str, count: int) -> list[Tensor]:
        """The `count` weights of an operation."""
        operands = self._operands.get(node, [])
        if len(operands) != count:
            raise ValueError(f"{self._graph} is not the stand-in network: it has no operation {node} with weights")
        return operands


def _taken(entries: _Entries, network: MultiStage) -> Iterator[tuple[str, Tensor]]:
    """(name of our entry, its value) for all that the stand-in has."""
    names = {module: name for name, module in network.named_modules()}

    def conv_norms(inside: nn.Module, nodes: Iterator[str]) -> Iterator[tuple[str, Tensor]]:
        """Convolutions with their batch normalisations, in order."""
        modules = list(inside.modules())
        for conv, norm in ((m, modules[i + 1]) for i, m in enumerate(modules) if isinstance(m, nn.Conv2d)):
            kernel, bias = entries.of(next(nodes), 2)
            yield f"{names[conv]}.weight", kernel
            yield f"{names[norm]}.weight", torch.ones_like(bias)
            yield f"{names[norm]}.bias", bias
            yield f"{names[norm]}.running_mean", torch.zeros_like(bias)
            yield f"{names[norm]}.running_var", torch.full_like(bias, 1.0 - norm.eps)

    local, head = network.local, network.box_head
    yield from conv_norms(local.embed, iter(["/stem/stem.0/stem.0.0/Conv"]))
    for i, block in enumerate([*local.stage1, *local.stage2], start=1):
        yield from conv_norms(block, (f"/stem/stem.{i}/f/f.{j}/f.{j}.0/Conv" for j in range(3)))
    yield from conv_norms(local.merge2, iter(["/pe/pe.0/Conv"]))
    for ours, add in (("z", "/Add_1"), ("x", "/Add_3")):
        yield f"pos_{ours}", entries[f"p{ours}"] + entries.of(add, 1)[0]

    for i in range(len(network.main.blocks)):
        for ours, theirs in (("norm1", "n1"), ("norm2", "n2")):
            for kind in ("weight", "bias"):
                yield f"main.blocks.{i}.{ours}.{kind}", entries[f"blocks.{i}.{theirs}.{kind}"]
        for ours, theirs in (("attn.qkv", "a/qkv"), ("attn.proj", "a/p"), ("mlp.0", "m/m.0"), ("mlp.2", "m/m.2")):
            matrix, bias = _linear(entries, f"blocks.{i}/{theirs}")
            yield f"main.blocks.{i}.{ours}.weight", matrix
            yield f"main.blocks.{i}.{ours}.bias", bias
    for kind in ("weight", "bias"):
        yield f"main.norm.{kind}", entries[f"n.{kind}"]

    fuse = network.integration.fuse
    width = fuse.out_features
    laterals = [_linear(entries, f"lat.{i}") for i in range(len(network.main.levels))]
    matrix = torch.zeros_like(fuse.weight)
    # In front of the last tokens' columns, which stay at zero.
    matrix[:, -(len(laterals) + 1) * width : -width] = torch.cat([own for own, _ in laterals], dim=1)
    yield "integration.fuse.weight", matrix
    yield "integration.fuse.bias", sum(bias for _, bias in laterals)

    for tower, module in (("cls", head.cls), ("reg", head.reg)):
        nodes = (f"/h/{tower}/{tower}.{i}/{tower}.{i}.{j}/{tower}.{i}.{j}.0/Conv" for i in range(3) for j in range(2))
        yield from conv_norms(module[:-1], nodes)
        for kind in ("weight", "bias"):
            yield f"{names[module[-1]]}.{kind}", entries[f"h.{tower}.3.{kind}"]


def _linear(entries: _Entries, name: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of `nn.Linear` from a product and an addition."""
    (matrix,), (bias,) = entries.of(f"/{name}/MatMul", 1), entries.of(f"/{name}/Add", 1)
    return matrix.T.contiguous(), bias
