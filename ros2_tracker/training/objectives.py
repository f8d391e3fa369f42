"""How a network of a family is run on training views, and which losses it gets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ros2_tracker.models.ibfp import Ibfp, as_centers
from ros2_tracker.models.inmo import CnnInMo, TransInMo
from ros2_tracker.models.ostrack import CenterMaps, decode_centers
from ros2_tracker.models.stark import Stark, StarkLightning, StarkOutput
from ros2_tracker.training.inmo_objective import InMoObjective
from ros2_tracker.training.limits import check_range
from ros2_tracker.training.losses import (
    box_losses,
    boxes_in_cells,
    focal_hinge_loss,
    focal_loss,
    gaussian_label,
    score_loss,
    truth_cells,
)
from ros2_tracker.training.render import Views

OBJECTIVES = ("center", "ibfp", "ibfp-start", "inmo", "stark-box", "stark-score")
# Scores of 1 and 0 are probabilities of 0.98 and 0.02.
_ODDS_PER_SCORE = 8.0


@dataclass(frozen=True, slots=True)
class LossSettings:
    """Weights of the losses."""

    score: float = 1.0
    """Of the focal loss of a score map, or of the cross-entropy of a score head."""
    giou: float = 2.0
    l1: float = 5.0
    sigma: float = 0.16
    """Of the label, over the target's width and height (shared/data/README: first experiment)."""

    def __post_init__(self) -> None:
        """ValueError naming a value out of range."""
        for name in ("score", "giou", "l1"):
            check_range(name, getattr(self, name), 0.0, 1e3)
        check_range("sigma", self.sigma, 0.01, 1.0)


class Objective(Protocol):
    """What is learnt."""

    losses: tuple[str, ...]
    """Names of its losses."""
    needs_recent: bool
    """Whether the network looks at two templates."""

    def set_training(self, network: nn.Module) -> None:
        """Put the parts that learn into training mode, and the rest into evaluation."""
        ...

    def learns(self, name: str) -> bool:
        """Whether the parameter of this name is trained."""
        ...

    def loss(self, network: nn.Module, views: Views) -> dict[str, Tensor]:
        """The weighted losses, whose sum is minimised."""
        ...

    def boxes(self, network: nn.Module, views: Views) -> Tensor:
        """(B, 4) what the network finds, cx, cy, w, h in search sides."""
        ...


class _WholeNetwork:
    """What is common to objectives that train all of a network with one template."""

    needs_recent = False

    def __init__(self, settings: LossSettings) -> None:
        self._settings = settings

    def set_training(self, network: nn.Module) -> None:
        """All of it learns."""
        network.train()

    def learns(self, name: str) -> bool:
        """All of it."""
        return True


class CenterObjective(_WholeNetwork):
    """Centre maps (OSTrack, Multi-Stage): focal loss of the score, GIoU and L1 of the box in the truth's cell."""

    losses = ("score", "giou", "l1")

    def loss(self, network: nn.Module, views: Views) -> dict[str, Tensor]:
        """Weighted losses."""
        maps: CenterMaps = network(network.template(views.template), views.search)
        side = maps.score.shape[-1]
        label = gaussian_label(views.box, side, self._settings.sigma) * views.present[:, None, None]
        found = boxes_in_cells(maps.size, maps.offset, truth_cells(views.box, side))
        giou, l1 = box_losses(found, views.box, views.used & views.present)
        return {
            "score": self._settings.score * focal_loss(maps.score[:, 0], label, views.used),
            "giou": self._settings.giou * giou,
            "l1": self._settings.l1 * l1,
        }

    def boxes(self, network: nn.Module, views: Views) -> Tensor:
        """At the highest score."""
        maps: CenterMaps = network(network.template(views.template), views.search)
        return decode_centers(CenterMaps(*(part.float() for part in maps)))[0]


class IbfpObjective(_WholeNetwork):
    """IBFP: focal hinge loss of a linear score, L1 of the distances to the sides at the points around the centre."""

    losses = ("score", "l1")

    def loss(self, network: nn.Module, views: Views) -> dict[str, Tensor]:
        """Weighted losses."""
        maps = network.find(network.template(views.template, views.template_size), views.search)
        side = maps.score.shape[-1]
        label = gaussian_label(views.box, side, self._settings.sigma) * views.present[:, None, None]
        return {
            "score": self._settings.score * focal_hinge_loss(maps.score[:, 0], label, views.used),
            "l1": self._settings.l1 * sides_loss(maps.sides, views.box, views.used & views.present),
        }

    def boxes(self, network: nn.Module, views: Views) -> Tensor:
        """At the highest score."""
        maps = network.find(network.template(views.template, views.template_size), views.search)
        # The highest of all scores, also where none is above 0.
        return decode_centers(as_centers(maps)._replace(score=maps.score))[0]


class IbfpStartObjective(IbfpObjective):
    """IBFP from random weights: focal loss of the score, taken as log odds that are 0 half-way up to the label's peak.

    Ours. The paper starts from ImageNet weights; features that cannot yet tell the target from the rest are best off,
    by the paper's loss of absolute values, with a score of 0 everywhere, and stay there.
    """

    def loss(self, network: nn.Module, views: Views) -> dict[str, Tensor]:
        """Weighted losses."""
        maps = network.find(network.template(views.template, views.template_size), views.search)
        side = maps.score.shape[-1]
        label = gaussian_label(views.box, side, self._settings.sigma) * views.present[:, None, None]
        odds = torch.sigmoid(_ODDS_PER_SCORE * (maps.score[:, 0].float() - 0.5))
        return {
            "score": self._settings.score * focal_loss(odds, label, views.used),
            "l1": self._settings.l1 * sides_loss(maps.sides, views.box, views.used & views.present),
        }


def sides_loss(sides: Tensor, box: Tensor, used: Tensor, reach: float = 0.25) -> Tensor:
    """IBFP's L1 of the distances to a box's sides (SPEC 4.1), mean over the points near its centre.

    Args:
        sides: (B, 4, F, F) left, top, right, bottom in search sides, from the cells' centres.
        box: (B, 4).
        used: (B,) bool; the others count for nothing.
        reach: how far from the centre a point counts, in widths and heights.

    """
    count = sides.shape[-1]
    place = (torch.arange(count, device=box.device) + 0.5) / count
    half, near = box[:, 2:, None] / 2, []
    to_low, to_high = [], []
    for axis in (0, 1):
        away = place - box[:, axis, None]
        to_low.append(half[:, axis] + away)
        to_high.append(half[:, axis] - away)
        # A target may be so thin that only the cell of its centre is near.
        near.append((away.abs() <= reach * box[:, 2 + axis, None]) | (away.abs() <= 0.5 / count))
    left, right = (v[:, None, :].expand(-1, count, -1) for v in (to_low[0], to_high[0]))
    top, bottom = (v[:, :, None].expand(-1, -1, count) for v in (to_low[1], to_high[1]))
    counted = (near[1][:, :, None] & near[0][:, None, :]) * used[:, None, None]
    off = (sides.float() - torch.stack([left, top, right, bottom], dim=1)).abs().mean(dim=1)
    return (off * counted).sum() / counted.sum().clamp_min(1)


class StarkBoxObjective:
    """STARK's first stage: GIoU and L1 of the box between the corners."""

    losses = ("giou", "l1")

    def __init__(self, settings: LossSettings, templates: int) -> None:
        self._settings = settings
        self.needs_recent = templates == 2

    def set_training(self, network: nn.Module) -> None:
        """All of it learns, but the score head."""
        network.train()

    def learns(self, name: str) -> bool:
        """All but the score head."""
        return not name.startswith("cls_head.")

    def loss(self, network: nn.Module, views: Views) -> dict[str, Tensor]:
        """Weighted losses."""
        found = _stark(network, views).box
        giou, l1 = box_losses(found, views.box, views.used & views.present)
        return {"giou": self._settings.giou * giou, "l1": self._settings.l1 * l1}

    def boxes(self, network: nn.Module, views: Views) -> Tensor:
        """Between the corners."""
        return _stark(network, views).box.float()


class StarkScoreObjective(StarkBoxObjective):
    """STARK's second stage: the score head learns whether the target is there; everything else stays as it is."""

    losses = ("score",)

    def set_training(self, network: nn.Module) -> None:
        """Batch normalisations stay, too."""
        network.eval()
        network.cls_head.train()

    def learns(self, name: str) -> bool:
        """Only the score head."""
        return name.startswith("cls_head.")

    def loss(self, network: nn.Module, views: Views) -> dict[str, Tensor]:
        """Weighted loss."""
        confidence = _stark(network, views).confidence
        return {"score": self._settings.score * score_loss(confidence, views.present, views.used)}


def _stark(network: Stark | StarkLightning, views: Views) -> StarkOutput:
    templates = [network.template(views.template, views.template_padded)]
    if views.recent is not None and views.recent_padded is not None:
        templates.append(network.template(views.recent, views.recent_padded))
    return network(templates, network.search(views.search, views.search_padded))


def make_objective(name: str, settings: LossSettings, network: nn.Module, templates: int) -> Objective:
    """The objective of this name (`TrainingConfig.objective` lists them); ValueError when the network does not fit."""
    stark = isinstance(network, Stark | StarkLightning)
    ibfp = isinstance(network, Ibfp)
    if name == "inmo" and isinstance(network, TransInMo | CnnInMo):
        return InMoObjective(settings, network)
    if name in ("ibfp", "ibfp-start") and ibfp:
        return (IbfpObjective if name == "ibfp" else IbfpStartObjective)(settings)
    if name == "center" and not (stark or ibfp or isinstance(network, TransInMo | CnnInMo)) and templates == 1:
        return CenterObjective(settings)
    if name == "stark-box" and stark:
        return StarkBoxObjective(settings, templates)
    if name == "stark-score" and isinstance(network, Stark) and network.cls_head is not None:
        return StarkScoreObjective(settings, templates)
    if name not in OBJECTIVES:
        raise ValueError(f"objective is {name!r}, must be one of {', '.join(OBJECTIVES)}")
    raise ValueError(f"objective {name} does not fit a {type(network).__name__} of {templates} template(s)")


def trained_parameters(network: nn.Module, objective: Objective) -> Iterator[tuple[str, nn.Parameter]]:
    """Name and parameter of all that learn; `requires_grad` is set on these and cleared on the others."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(objective.learns(name))
        if parameter.requires_grad:
            yield name, parameter


class Trainee(nn.Module):
    """Network and losses as one module: what DistributedDataParallel wraps."""

    def __init__(self, network: nn.Module, objective: Objective, autocast: torch.dtype | None) -> None:
        """`autocast`: type of the network's arithmetic, None for float32."""
        super().__init__()
        self.network = network
        self.objective = objective
        self._autocast = autocast

    def forward(self, views: Views) -> Mapping[str, Tensor]:
        """Weighted losses."""
        with torch.autocast(views.search.device.type, self._autocast, enabled=self._autocast is not None):
            return self.objective.loss(self.network, views)

    def find(self, network: nn.Module, views: Views) -> Tensor:
        """(B, 4) boxes that another copy of the network finds."""
        with torch.autocast(views.search.device.type, self._autocast, enabled=self._autocast is not None):
            return self.objective.boxes(network, views)
