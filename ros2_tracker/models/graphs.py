"""Networks from camera pixels to boxes: what an engine runs every frame, in torch or exported to ONNX.

A graph normalises uint8 crops itself and decodes its own maps, so that a frame costs one small copy in and a few
numbers out.

OSTrack is one graph: `template`, `search` -> `box`, `score`, `score_map`.
STARK is two, because a template's features are computed once: the template graph makes `tokens`, `position` and
`cells` of `template` and `template_padded`; the search graph takes them as `template_tokens`, `template_position` and
`template_cells` (templates one after another), with `search` and `search_padded`.
Multi-Stage is two as well: `tokens` of `template`; then `template_tokens`, `search` and `learnt`.
InMo is two, with features of every stage: `models.inmo_graphs`.
IBFP is two: `deep`, `middle` and `size` of `template` and `template_target`; then `template_deep`, `template_middle`,
`template_size` and `search`.

| name | shape | type |
|---|---|---|
| `template`, `search` | (N, S, S, 3) | uint8 RGB |
| `template_padded`, `search_padded` | (N, S, S) | bool, True outside the camera's image |
| `template_target` | (N, 2) | int32 width and height of the target in the template, px of the crop |
| `learnt` | (N, C + 2) | float32 classifier of `features`; zeros: none |
| `cell` | (N, 2) | int32 row and column of the score map that the box is of |
| `features` | (N, F^2, C) | float32 unit vectors, one a cell |
| `box` | (N, 4) | float32 cx, cy, w, h in search sides |
| `score` | (N,) | float32 in [0, 1]; of STARK without score head how concentrated its corners are |
| `score_map` | (N, F, F) of a centre, before windowing; (N, 2, F, F) corner probabilities of STARK | float32 |
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ros2_tracker.models.ibfp import Ibfp, TemplateFeatures, as_centers
from ros2_tracker.models.inmo import CnnInMo, TransInMo
from ros2_tracker.models.inmo_graphs import InMoSearchGraph, InMoTemplateGraph, search_graph
from ros2_tracker.models.layers import normalized
from ros2_tracker.models.learnt import LEARNT, LEAST_RESPONSE
from ros2_tracker.models.multistage import MultiStage
from ros2_tracker.models.ostrack import CenterMaps, OSTrack, decode_centers
from ros2_tracker.models.stark import Features, Stark, StarkLightning
from ros2_tracker.models.variant import Variant
from ros2_tracker.models.window import hann_window

OUTPUTS = ("box", "score", "score_map")


class OSTrackGraph(nn.Module):
    """OSTrack from crops to the windowed box."""

    inputs = ("template", "search")
    outputs = OUTPUTS

    def __init__(self, network: OSTrack) -> None:
        super().__init__()
        self.network = network
        window = hann_window(network.settings.search_size // 16)
        self.register_buffer("window", torch.from_numpy(window))

    def forward(self, template: Tensor, search: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Crops -> box, score, score map."""
        maps = self.network(self.network.template(normalized(template)), normalized(search))
        # In fp16 a place at the far end of the map would be off by 1/128 of a cell.
        maps = CenterMaps(*(values.float() for values in maps))
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
    outputs = OUTPUTS

    def __init__(self, network: Stark | StarkLightning) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, tokens: Tensor, position: Tensor, cells: Tensor, search: Tensor, padded: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features, crop and mask -> box, score, corner probabilities."""
        region = self.network.search(normalized(search), padded)
        output = self.network([Features(tokens, position, cells)], region)
        corners = output.corner_logits.float().flatten(2).softmax(-1).view_as(output.corner_logits)
        score = concentration(corners) if output.confidence is None else output.confidence.float().sigmoid()
        return output.box, score, corners


class MultiStageTemplateGraph(nn.Module):
    """Multi-Stage's tokens of a template, before they meet those of a search region."""

    inputs = ("template",)
    outputs = ("tokens",)

    def __init__(self, network: MultiStage) -> None:
        super().__init__()
        self.network = network

    def forward(self, template: Tensor) -> tuple[Tensor]:
        """Crop -> tokens."""
        return (self.network.template(normalized(template)),)


class MultiStageSearchGraph(nn.Module):
    """Multi-Stage from template tokens and a search crop to the windowed box.

    Beside the template it takes what was `learnt` of the target since (`tracking.discriminator`): a linear classifier
    of the cells' `features`, whose answer is mixed into the score map before the box is chosen. So a frame stays one
    run.
    """

    inputs = ("template_tokens", "search", LEARNT)
    outputs = (*OUTPUTS, "cell", "features")

    def __init__(self, network: MultiStage) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("window", torch.from_numpy(hann_window(network.settings.search_size // 16)))

    def forward(self, tokens: Tensor, search: Tensor, learnt: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Tokens, crop and what was learnt -> box, score, score map, the box's cell, features."""
        maps, shown = self.network.with_tokens(tokens, normalized(search))
        maps = CenterMaps(*(values.float() for values in maps))  # as in `OSTrackGraph`
        # Not `F.normalize`, for which an exported graph asks the crop for its shape: TensorRT wants that cast at once.
        features = shown.float()
        features = features / features.square().sum(-1, keepdim=True).clamp_min(1e-12).sqrt()
        score = mixed_score(maps.score, features, learnt)
        box, best = decode_centers(maps._replace(score=score), self.window)
        # Run times find that this was computed already.
        chosen, side = (score * self.window).flatten(1).argmax(1, keepdim=True), score.shape[-1]
        cell = torch.cat([chosen // side, chosen % side], dim=1).to(torch.int32)
        return box, best, score.squeeze(1), cell, features


def mixed_score(score: Tensor, features: Tensor, learnt: Tensor) -> Tensor:
    """The network's score and a classifier's response, geometric mean by the classifier's share.

    Args:
        score: (B, 1, F, F) in (0, 1).
        features: (B, F^2, C).
        learnt: (B, C + 2) of `tracking.discriminator.Discriminator.learnt`: weights, bias, share.

    """
    weights, bias, share = learnt[:, None, :-2], learnt[:, -2:-1], learnt[:, -1:]
    # As a sum of products, which no quantisation takes for a layer of the network.
    response = ((features * weights).sum(-1) + bias).clamp(LEAST_RESPONSE, 1.0)
    mixed = torch.exp((1.0 - share) * score.flatten(1).log() + share * response.log())
    return mixed.view_as(score)


class IbfpTemplateGraph(nn.Module):
    """IBFP's maps of a template; `middle` is also what its online branch learns from."""

    inputs = ("template", "template_target")
    outputs = ("deep", "middle", "size")

    def __init__(self, network: Ibfp) -> None:
        super().__init__()
        self.network = network

    def forward(self, template: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Crop and target's size -> maps, and the size in template sides."""
        size = target.float() / template.shape[1]
        return tuple(part.float() for part in self.network.template(normalized(template), size))


class IbfpSearchGraph(MultiStageSearchGraph):
    """The same for IBFP, whose score is linear and not windowed.

    Its `box` and `score` are of the offline map alone. For the online branch there are `linear_map` (N, F, F), in which
    scores may be negative, `ltrb` (N, 4, F, F), distances to the sides in search sides, and `features`
    (N, C, F / 2, F / 2).
    """

    inputs = ("template_deep", "template_middle", "template_size", "search")
    outputs = (*OUTPUTS, "linear_map", "ltrb", "features")

    def __init__(self, network: Ibfp) -> None:
        nn.Module.__init__(self)
        self.network = network
        self.register_buffer("window", torch.ones(network.settings.cells, network.settings.cells))

    def forward(self, deep: Tensor, middle: Tensor, size: Tensor, search: Tensor) -> tuple[Tensor, ...]:
        """Maps, target's size and crop -> box, score, and all maps."""
        maps = self.network.find(TemplateFeatures(deep, middle, size), normalized(search))
        centers = as_centers(maps)
        box, score = decode_centers(centers)
        return box, score, centers.score.squeeze(1), maps.score.squeeze(1), maps.sides, maps.middle.float()


def concentration(corners: Tensor) -> Tensor:
    """How far both corners are in one place: their probabilities within 3x3 cells, geometric mean.

    Ours: near 1 for two sharp corners, 9 / F^2 for flat maps, at most 0.5 for one that wavers between two places.

    Args:
        corners: (B, 2, F, F) probabilities.

    Returns:
        (B,) in [0, 1].

    """
    within = F.avg_pool2d(corners, 3, stride=1, padding=1) * 9.0
    return within.flatten(2).amax(-1).prod(1).clamp(0.0, 1.0).sqrt()


TemplateGraph = StarkTemplateGraph | MultiStageTemplateGraph | InMoTemplateGraph | IbfpTemplateGraph
Graph = OSTrackGraph | StarkSearchGraph | MultiStageSearchGraph | InMoSearchGraph | TemplateGraph


def graphs_of(network: nn.Module) -> tuple[Graph, TemplateGraph | None]:
    """The graph that runs every frame, and that of a template for families that keep template features.

    Raises:
        ValueError: the network's family has no graph.

    """
    if isinstance(network, OSTrack):
        return OSTrackGraph(network).eval(), None
    if isinstance(network, Stark | StarkLightning):
        return StarkSearchGraph(network).eval(), StarkTemplateGraph(network).eval()
    if isinstance(network, TransInMo | CnnInMo):
        return search_graph(network).eval(), InMoTemplateGraph(network).eval()
    if isinstance(network, Ibfp):
        return IbfpSearchGraph(network).eval(), IbfpTemplateGraph(network).eval()
    if isinstance(network, MultiStage):
        return MultiStageSearchGraph(network).eval(), MultiStageTemplateGraph(network).eval()
    raise ValueError(f"no graph for {type(network).__name__}")


def example_inputs(
    variant: Variant,
    per_template: TemplateGraph | None,
    batch: int = 1,
    device: torch.device | str = "cpu",
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Black crops in the shapes that the variant's graphs take: for the graph of every frame, and the template's."""
    sizes = variant.template.size, variant.search.size
    z, x = (torch.zeros(batch, size, size, 3, dtype=torch.uint8, device=device) for size in sizes)
    if per_template is None:
        return (z, x), ()
    shown, searched = (z,), (x,)
    if "template_padded" in per_template.inputs:
        shown, searched = ((t, torch.zeros(t.shape[:3], dtype=torch.bool, device=device)) for t in (z, x))
    if "template_target" in per_template.inputs:
        side = round(sizes[0] / variant.template.factor)
        shown = (z, torch.full((batch, 2), side, dtype=torch.int32, device=device))
    with torch.inference_mode():
        features = per_template(*shown)
    if isinstance(per_template, MultiStageTemplateGraph):
        searched = (*searched, torch.zeros(batch, features[0].shape[-1] + 2, device=device))
    kept = [torch.cat([value] * variant.templates, dim=1) for value in features]
    return (*kept, *searched), shown
