"""InMo's losses: which cells are the target, and the box in each of them.

SPEC and paper name no weights: TransInMo learns as TransT, whose neck and head it has (arXiv 2103.15436, sec. 3.4),
CNNInMo as SiamCAR (arXiv 1911.07241, sec. 3.3). The configuration says how much each loss counts.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ros2_tracker.models.inmo import STRIDE, CnnInMo, TransInMo
from ros2_tracker.models.inmo_graphs import FIRST_CELL_PX, as_boxes, best_cell
from ros2_tracker.models.layers import IMAGE_MEAN, IMAGE_STD
from ros2_tracker.training.losses import box_losses
from ros2_tracker.training.render import Views

_BACKGROUND = 1.0 / 16.0
"""TransT's weight of a background cell in the classification."""


class Weights(Protocol):
    """The part of `objectives.LossSettings` that is read here."""

    score: float
    giou: float
    l1: float


class Found(NamedTuple):
    """A network's answer as the losses take it; F cells a side."""

    logit: Tensor
    """(B, F, F) target against background."""
    boxes: Tensor
    """(B, 4, F, F) cx, cy, w, h in search sides."""
    places: Tensor
    """(F,) centres of the cells, in search sides."""
    centerness: Tensor | None
    """(B, F, F) logits, of CNNInMo."""


class InMoObjective:
    """Cross-entropy of the cells, GIoU and L1 of the boxes in the target's cells; of CNNInMo also the centerness."""

    needs_recent = False

    def __init__(self, settings: Weights, network: TransInMo | CnnInMo) -> None:
        self._settings = settings
        self._centered = isinstance(network, CnnInMo)
        self.losses = ("score", "giou", "l1", *(("center",) if self._centered else ()))

    def set_training(self, network: nn.Module) -> None:
        """All of it learns."""
        network.train()

    def learns(self, name: str) -> bool:
        """All of it."""
        return True

    def loss(self, network: nn.Module, views: Views) -> dict[str, Tensor]:
        """Weighted losses."""
        found, settings = find(network, views), self._settings
        inside = target_cells(views.box, found.places) & (views.used & views.present)[:, None, None]
        score = cell_loss(found.logit, inside, views.used, None if self._centered else _BACKGROUND)
        boxes = found.boxes.permute(0, 2, 3, 1).reshape(-1, 4)
        truth = views.box.repeat_interleave(inside[0].numel(), dim=0)
        giou, l1 = box_losses(boxes, truth, inside.flatten())
        weighted = {"score": settings.score * score, "giou": settings.giou * giou, "l1": settings.l1 * l1}
        if found.centerness is not None:
            weighted["center"] = settings.score * center_loss(found.centerness, views.box, found.places, inside)
        return weighted

    def boxes(self, network: nn.Module, views: Views) -> Tensor:
        """At the highest score."""
        found = find(network, views)
        score = found.logit.sigmoid()
        if found.centerness is not None:
            score = score * found.centerness.sigmoid()
        return best_cell(score, found.boxes, torch.ones_like(score[0]))[0]


def find(network: nn.Module, views: Views) -> Found:
    """What the network says of all cells, in float32."""
    if isinstance(network, TransInMo):
        maps = network(network.template(views.template), views.search)
        side = round(maps.logits.shape[1] ** 0.5)
        logits = maps.logits.float().unflatten(1, (side, side))
        places = (torch.arange(side, device=logits.device) + 0.5) / side
        boxes = maps.boxes.float().transpose(1, 2).unflatten(2, (side, side))
        return Found(logits[..., 0] - logits[..., 1], boxes, places, None)
    pixels = views.search.shape[-1]
    maps = network(network.template(_bgr(views.template)), _bgr(views.search))
    first, step = (FIRST_CELL_PX + 0.5) / pixels, STRIDE / pixels
    boxes = as_boxes(maps.ltrb.float() / pixels, first, step)
    places = first + step * torch.arange(boxes.shape[-1], device=boxes.device)
    logits = maps.logits.float()
    return Found(logits[:, 1] - logits[:, 0], boxes, places, maps.centerness.float()[:, 0])


def _bgr(image: Tensor) -> Tensor:
    """Normalised RGB to BGR in 0..255, as CNNInMo takes it."""
    std, mean = (torch.tensor(values, device=image.device).view(1, 3, 1, 1) for values in (IMAGE_STD, IMAGE_MEAN))
    return ((image * std + mean) * 255.0)[:, [2, 1, 0]]


def target_cells(box: Tensor, places: Tensor) -> Tensor:
    """(B, F, F) bool: the cell's centre is in the box, or the nearest to its centre, so that each box has one."""
    near = []
    for axis in (0, 1):
        away = (places - box[:, axis, None]).abs()
        near.append((away <= box[:, 2 + axis, None] / 2) | (away == away.amin(dim=1, keepdim=True)))
    return near[1][:, :, None] & near[0][:, None, :]


def cell_loss(logit: Tensor, inside: Tensor, used: Tensor, background: float | None) -> Tensor:
    """Cross-entropy over the cells of the used samples.

    Args:
        logit: (B, F, F).
        inside: (B, F, F) bool.
        used: (B,) bool.
        background: weight of a background cell; None: as much for all of them as for all of the target's.

    """
    loss = F.binary_cross_entropy_with_logits(logit.float(), inside.float(), reduction="none")
    outside = ~inside & used[:, None, None]
    if background is not None:
        weight = inside + background * outside
        return (loss * weight).sum() / weight.sum().clamp_min(1e-6)
    return sum((loss * part).sum() / part.sum().clamp_min(1) for part in (inside, outside)) / 2


def center_loss(logit: Tensor, box: Tensor, places: Tensor, inside: Tensor) -> Tensor:
    """Cross-entropy with how central a cell is in the box: 1 in the middle, 0 at a side."""
    shares = []
    for axis in (0, 1):
        away, half = places - box[:, axis, None], box[:, 2 + axis, None] / 2
        low, high = (half + away).clamp_min(0.0), (half - away).clamp_min(0.0)
        shares.append(torch.minimum(low, high) / torch.maximum(low, high).clamp_min(1e-6))
    label = (shares[1][:, :, None] * shares[0][:, None, :]).sqrt()
    loss = F.binary_cross_entropy_with_logits(logit, label, reduction="none")
    return (loss * inside).sum() / inside.sum().clamp_min(1)
