"""Torch networks to ONNX graphs that take camera pixels and give boxes.

A graph normalises uint8 crops itself and decodes its own maps, so that a frame costs one small copy in and a few
numbers out. Shapes are fixed, batch included.

OSTrack is one graph: `template`, `search` -> `box`, `score`, `score_map`.
STARK is two, because a template's features are computed once: `<name>.template.onnx` makes `tokens`, `position` and
`cells` of `template` and `template_padded`; `<name>.onnx` takes them as `template_tokens`, `template_position` and
`template_cells` (templates one after another), with `search` and `search_padded`.

| name | shape | type |
|---|---|---|
| `template`, `search` | (N, S, S, 3) | uint8 RGB |
| `template_padded`, `search_padded` | (N, S, S) | bool, True outside the camera's image |
| `box` | (N, 4) | float32 cx, cy, w, h in search sides |
| `score` | (N,) | float32 in [0, 1]; of STARK without score head the sharpness of its corners |
| `score_map` | (N, F, F) of OSTrack before windowing; (N, 2, F, F) corner probabilities of STARK | float32 |
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ros2_tracker.engines.base import EngineError
from ros2_tracker.models.layers import fuse_repvgg, normalized
from ros2_tracker.models.ostrack import OSTrack, decode_centers
from ros2_tracker.models.stark import Features, Stark, StarkLightning
from ros2_tracker.models.variant import Variant
from ros2_tracker.models.window import hann_window

OPSET = 18
OUTPUTS = ("box", "score", "score_map")


class OSTrackGraph(nn.Module):
    """OSTrack from crops to the windowed box."""

    inputs = ("template", "search")

    def __init__(self, network: OSTrack) -> None:
        super().__init__()
        self.network = network
        window = hann_window(network.settings.search_size // 16)
        self.register_buffer("window", torch.from_numpy(window))

    def forward(self, template: Tensor, search: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Crops -> box, score, score map."""
        maps = self.network(self.network.template(normalized(template)), normalized(search))
        box, score = decode_centers(maps, self.window)
        return box, score, maps.score.squeeze(1)


class StarkTemplateGraph(nn.Module):
    """STARK's features of a template."""

    inputs = ("template", "template_padded")
    outputs = ("tokens", "position", "cells")

    def __init__(self, network: Stark | StarkLightning) -> None:
        super().__init__()
        self.network = network

    def forward(self, template: Tensor, padded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Crop and mask -> features."""
        return tuple(self.network.template(normalized(template), padded))


class StarkSearchGraph(nn.Module):
    """STARK from template features and a search crop to the box."""

    inputs = ("template_tokens", "template_position", "template_cells", "search", "search_padded")

    def __init__(self, network: Stark | StarkLightning) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, tokens: Tensor, position: Tensor, cells: Tensor, search: Tensor, padded: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features, crop and mask -> box, score, corner probabilities."""
        region = self.network.search(normalized(search), padded)
        output = self.network([Features(tokens, position, cells)], region)
        corners = output.corner_logits.flatten(2).softmax(-1)
        # Without a score head: how sharp both corners are.
        sharpness = corners.amax(-1).prod(1).sqrt()
        score = sharpness if output.confidence is None else output.confidence.sigmoid()
        return output.box, score, corners.view_as(output.corner_logits)


def export_onnx(network: nn.Module, variant: Variant, output: str | Path, batch: int = 1) -> tuple[Path, ...]:
    """Write a network's graphs in fp32.

    Args:
        network: of `models.build.load_network`; it is not changed.
        variant: whose network it is.
        output: the ONNX file; STARK's template graph is written beside it.
        batch: targets that one run of the graph handles.

    Returns:
        The files, the one that runs every frame first.

    Raises:
        EngineError: onnxscript is not installed.
        ValueError: the network's family has no export.

    """
    target = Path(output)
    network = copy.deepcopy(network).eval()
    fuse_repvgg(network)
    z, x = (torch.zeros(batch, s, s, 3, dtype=torch.uint8) for s in (variant.template.size, variant.search.size))
    if isinstance(network, OSTrack):
        return (_write(OSTrackGraph(network), (z, x), OUTPUTS, target, variant),)
    if isinstance(network, Stark | StarkLightning):
        padded_z, padded_x = (torch.zeros(t.shape[:3], dtype=torch.bool) for t in (z, x))
        template = StarkTemplateGraph(network)
        with torch.no_grad():
            features = template(z, padded_z)
        templates = 2 if variant.template_update else 1
        kept = [torch.cat([value] * templates, dim=1) for value in features]
        first = _write(StarkSearchGraph(network), (*kept, x, padded_x), OUTPUTS, target, variant)
        beside = template_graph(target)
        return first, _write(template, (z, padded_z), StarkTemplateGraph.outputs, beside, variant)
    raise ValueError(f"model {variant.name}: no ONNX export for {type(network).__name__}")


def template_graph(search_graph: Path) -> Path:
    """Where STARK's template graph lies."""
    return search_graph.with_name(f"{search_graph.stem}.template.onnx")


def _write(
    graph: nn.Module, inputs: tuple[Tensor, ...], outputs: Sequence[str], target: Path, variant: Variant
) -> Path:
    try:
        program: Any = torch.onnx.export(
            graph.eval().requires_grad_(False),
            inputs,
            dynamo=True,
            opset_version=OPSET,
            input_names=graph.inputs,
            output_names=outputs,
            verbose=False,
        )
    except ImportError as error:
        raise EngineError("the ONNX export needs `pip install onnx onnxscript`") from error
    program.model.metadata_props["variant"] = variant.name
    target.parent.mkdir(parents=True, exist_ok=True)
    program.save(target, external_data=False)
    return target
