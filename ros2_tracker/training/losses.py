"""Losses. Boxes are (cx, cy, w, h) in search sides; everything is computed in float32, whatever the network ran in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_MIN_SIGMA = 0.25
# bfloat16 rounds 1 - 1e-4 up to 1.
_SCORE_MIN = 1e-4


def truth_cells(box: Tensor, side: int) -> Tensor:
    """(B, 2) int64 x, y of the cell in which each box has its centre; those outside go to the border."""
    return (box[:, :2] * side).floor().long().clamp(0, side - 1)


def gaussian_label(box: Tensor, side: int, sigma: float) -> Tensor:
    """Score that a map should have: 1 in the truth's cell, falling off with the target's size.

    Args:
        box: (B, 4).
        side: cells a side.
        sigma: of the Gaussian over width and height of the target; wider tolerates more neighbours.

    Returns:
        (B, side, side) in [0, 1].

    """
    cell = truth_cells(box, side).float()
    spread = (sigma * box[:, 2:].float() * side).clamp_min(_MIN_SIGMA)
    place = torch.arange(side, device=box.device)
    x, y = (torch.exp(-0.5 * ((place - cell[:, a : a + 1]) / spread[:, a : a + 1]) ** 2) for a in (0, 1))
    return y[:, :, None] * x[:, None, :]


def focal_loss(score: Tensor, label: Tensor, used: Tensor) -> Tensor:
    """Penalty-reduced focal loss of CornerNet (arXiv 1808.01244, eq. 1: alpha 2, beta 4), a positive's share.

    Args:
        score: (B, F, F) in [0, 1].
        label: (B, F, F); exactly 1 at the target, 0 everywhere in negatives.
        used: (B,) bool; the others count for nothing.

    """
    p = score.float().clamp(_SCORE_MIN, 1.0 - _SCORE_MIN)
    positive = label == 1.0
    near = (1.0 - p) ** 2 * p.log()
    far = (1.0 - label) ** 4 * p**2 * (1.0 - p).log()
    loss = -torch.where(positive, near, far) * used[:, None, None]
    return loss.sum() / (positive & used[:, None, None]).sum().clamp_min(1)


def focal_hinge_loss(
    score: Tensor, label: Tensor, used: Tensor, tau: float = 0.05, gamma: float = 0.1, alpha: float = 0.9
) -> Tensor:
    """IBFP's loss of a linear score (SPEC 4.1), mean over the cells of the used samples.

    `label^gamma * |score - label|` where the label is `tau` or more; elsewhere `alpha * max(0, score)`: background may
    score as low as it likes. Arguments as those of `focal_loss`.
    """
    s = score.float()
    near = label**gamma * (s - label).abs()
    loss = torch.where(label >= tau, near, alpha * s.clamp_min(0.0)) * used[:, None, None]
    return loss.sum() / (used.sum() * label[0].numel()).clamp_min(1)


def score_loss(logit: Tensor, present: Tensor, used: Tensor) -> Tensor:
    """Binary cross-entropy of STARK's score head (SPEC 2.6): whether the target is there. (B,) each."""
    loss = F.binary_cross_entropy_with_logits(logit.float(), present.float(), reduction="none") * used
    return loss.sum() / used.sum().clamp_min(1)


def box_losses(box: Tensor, truth: Tensor, used: Tensor) -> tuple[Tensor, Tensor]:
    """GIoU loss and mean absolute difference of the corners.

    Args:
        box: (B, 4) predicted; a negative width or height counts as none.
        truth: (B, 4).
        used: (B,) bool.

    Returns:
        Means over the used samples: `1 - GIoU` (arXiv 1902.09630), in [0, 2], and L1.

    """
    a, b = corners(box.float()), corners(truth.float())
    count = used.sum().clamp_min(1)
    l1 = ((a - b).abs().mean(dim=1) * used).sum() / count
    _, giou = iou_giou(box, truth)
    return ((1.0 - giou) * used).sum() / count, l1


def iou_giou(box: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) overlap, and generalised overlap, of (B, 4) boxes."""
    a, b = (corners(torch.cat([t[:, :2], t[:, 2:].clamp_min(0.0)], dim=1).float()) for t in (box, truth))
    overlap = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp_min(0.0).prod(dim=1)
    union = (a[:, 2:] - a[:, :2]).prod(dim=1) + (b[:, 2:] - b[:, :2]).prod(dim=1) - overlap
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(dim=1)
    iou = overlap / union.clamp_min(1e-9)
    return iou, iou - (hull - union) / hull.clamp_min(1e-9)


def corners(box: Tensor) -> Tensor:
    """(B, 4) x0, y0, x1, y1 of cx, cy, w, h."""
    half = box[:, 2:] / 2
    return torch.cat([box[:, :2] - half, box[:, :2] + half], dim=1)


def boxes_in_cells(size: Tensor, offset: Tensor, cells: Tensor) -> Tensor:
    """Boxes that a centre head says in given cells (SPEC 1.4): `c = (cell + offset) / F`.

    Args:
        size: (B, 2, F, F) w, h in search sides.
        offset: (B, 2, F, F) in cells.
        cells: (B, 2) int64 x, y.

    Returns:
        (B, 4) float32.

    """
    side = size.shape[-1]
    sample = torch.arange(len(cells), device=cells.device)
    x, y = cells[:, 0], cells[:, 1]
    center = (cells.float() + offset[sample, :, y, x].float()) / side
    return torch.cat([center, size[sample, :, y, x].float()], dim=1)
