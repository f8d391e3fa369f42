"""InMo from camera pixels to maps, in the way of `models.graphs`.

Two graphs: `tokens` and, with target-aware attention, `key0`, `value0`, ... `key3`, `value3` of `template`; then the
same with `template_` before their names, and `search`. All maps are handed out, because the published loops rank cells
by how the size changes; `box` and `score` are those of the best windowed cell, without that.

| name | shape | type |
|---|---|---|
| `box_map` of TransInMo | (N, 4, F, F) | float32 cx, cy, w, h in search sides |
| `ltrb` of CNNInMo | (N, 4, F, F) | float32 distances to the sides, in search sides |
| `center_map` of CNNInMo | (N, F, F) | float32 centerness, logits |
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ros2_tracker.models.inmo import STRIDE, CnnInMo, Template, TransInMo
from ros2_tracker.models.inmo_swin import Memory
from ros2_tracker.models.layers import normalized
from ros2_tracker.models.window import hann_window

FIRST_CELL_PX = 31
"""Centre of CNNInMo's first cell in the search region."""


class InMoTemplateGraph(nn.Module):
    """Everything about a template that does not depend on the search region."""

    inputs = ("template",)

    def __init__(self, network: TransInMo | CnnInMo) -> None:
        super().__init__()
        self.network = network
        self.outputs = feature_names(network)

    def forward(self, template: Tensor) -> tuple[Tensor, ...]:
        """Crop -> features."""
        found = self.network.template(network_image(self.network, template))
        return (found.tokens, *(part for memory in found.memories for part in memory))


class InMoSearchGraph(nn.Module):
    """From template features and a search crop to maps."""

    def __init__(self, network: TransInMo | CnnInMo) -> None:
        super().__init__()
        self.network = network
        self.inputs = (*(f"template_{name}" for name in feature_names(network)), "search")
        transformer = isinstance(network, TransInMo)
        self.outputs = ("box", "score", "score_map", *(("box_map",) if transformer else ("ltrb", "center_map")))
        self.window: Tensor
        self.register_buffer("window", torch.from_numpy(hann_window(network.settings.cells)))

    def forward(
        self,
        tokens: Tensor,
        key0: Tensor,
        value0: Tensor,
        key1: Tensor,
        value1: Tensor,
        key2: Tensor,
        value2: Tensor,
        key3: Tensor,
        value3: Tensor,
        search: Tensor,
    ) -> tuple[Tensor, ...]:
        """Features and crop -> box, score and maps."""
        pairs = ((key0, value0), (key1, value1), (key2, value2), (key3, value3))
        return self.find(Template(tokens, tuple(Memory(*pair) for pair in pairs)), search)

    def find(self, template: Template, search: Tensor) -> tuple[Tensor, ...]:
        """Box, score and maps."""
        maps = self.network(template, network_image(self.network, search))
        if isinstance(self.network, TransInMo):
            side = round(maps.logits.shape[1] ** 0.5)
            score_map = maps.logits.float().softmax(-1)[..., 0].unflatten(1, (side, side))
            boxes = maps.boxes.float().transpose(1, 2).unflatten(2, (side, side))
            return *best_cell(score_map, boxes, self.window), score_map, boxes
        pixels = search.shape[1]
        score_map = maps.logits.float().softmax(1)[:, 1]
        ltrb = maps.ltrb.float() / pixels
        boxes = as_boxes(ltrb, (FIRST_CELL_PX + 0.5) / pixels, STRIDE / pixels)
        return *best_cell(score_map, boxes, self.window), score_map, ltrb, maps.centerness.float()[:, 0]


class InMoBlindSearchGraph(InMoSearchGraph):
    """The same without target-aware attention: there are no features of the stages."""

    def forward(self, tokens: Tensor, search: Tensor) -> tuple[Tensor, ...]:
        """Features and crop -> box, score and maps."""
        return self.find(Template(tokens, ()), search)


def search_graph(network: TransInMo | CnnInMo) -> InMoSearchGraph:
    """The graph of every frame."""
    aware = network.settings.interactions.target_aware
    return InMoSearchGraph(network) if aware else InMoBlindSearchGraph(network)


def feature_names(network: TransInMo | CnnInMo) -> tuple[str, ...]:
    """Outputs of the template graph."""
    stages = range(4) if network.settings.interactions.target_aware else ()
    return ("tokens", *(f"{kind}{i}" for i in stages for kind in ("key", "value")))


def network_image(network: TransInMo | CnnInMo, crops: Tensor) -> Tensor:
    """(B, S, S, 3) uint8 RGB -> (B, 3, S, S), for CNNInMo BGR in 0..255."""
    if isinstance(network, TransInMo):
        return normalized(crops)
    return crops.float().permute(0, 3, 1, 2)[:, [2, 1, 0]]


def as_boxes(ltrb: Tensor, first: float, step: float) -> Tensor:
    """Distances to the sides from cells at `first`, `first + step`, ... to cx, cy, w, h: (B, 4, F, F), search sides."""
    place = first + step * torch.arange(ltrb.shape[-1], device=ltrb.device)
    left, top, right, bottom = ltrb.unbind(1)
    cx, cy = place + (right - left) / 2, place[:, None] + (bottom - top) / 2
    return torch.stack([cx, cy, left + right, top + bottom], dim=1)


def best_cell(score_map: Tensor, boxes: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
    """Box (B, 4) and score (B,) where the windowed score is highest."""
    best = (score_map * window).flatten(1).argmax(1, keepdim=True)
    box = boxes.flatten(2).gather(2, best.unsqueeze(1).expand(-1, 4, -1)).squeeze(2)
    return box, score_map.flatten(1).gather(1, best).squeeze(1)
