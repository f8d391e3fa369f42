"""How well boxes agree with the truth: overlap, success and precision over the frames of one sequence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SUCCESS_THRESHOLDS: NDArray[np.float64] = np.linspace(0.0, 1.0, 21)
"""IoU thresholds 0, 0.05 ... 1 of the success plot (Wu et al., TPAMI 2015; as in pytracking)."""
PRECISION_THRESHOLD_PX = 20.0


def overlap(boxes: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU per row of two (N, 4) arrays of x, y, w, h px: (N,) in [0, 1].

    A row of NaNs in `boxes` (no box given) has IoU 0; one in `truth` (not known) gives NaN.
    """
    low = np.maximum(boxes[:, :2], truth[:, :2])
    high = np.minimum(boxes[:, :2] + boxes[:, 2:], truth[:, :2] + truth[:, 2:])
    intersection = np.prod(np.maximum(high - low, 0.0), axis=1)
    union = boxes[:, 2] * boxes[:, 3] + truth[:, 2] * truth[:, 3] - intersection
    iou = np.divide(intersection, union, out=np.zeros(len(boxes)), where=union > 0.0)
    iou[np.isnan(boxes).any(axis=1)] = 0.0
    iou[np.isnan(truth).any(axis=1)] = np.nan
    return iou


def center_error(boxes: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of the centres per row, px: (N,). Infinite where no box was given, NaN where no truth is known."""
    difference = boxes[:, :2] + boxes[:, 2:] / 2 - truth[:, :2] - truth[:, 2:] / 2
    distance = np.hypot(difference[:, 0], difference[:, 1])
    distance[np.isnan(boxes).any(axis=1)] = np.inf
    distance[np.isnan(truth).any(axis=1)] = np.nan
    return distance


def success_auc(iou: NDArray[np.float64]) -> float:
    """Mean over 21 thresholds of the share of frames with IoU strictly above; IoU without NaNs, at least one frame."""
    return float(np.mean(iou[None, :] > SUCCESS_THRESHOLDS[:, None]))


@dataclass(frozen=True, slots=True)
class Agreement:
    """Boxes against the truth over one sequence; a frame without a box counts as a miss."""

    frames: int
    """Frames whose truth is known."""
    mean_iou: float
    success_auc: float
    precision: float
    """Share of frames whose centre is at most 20 px off."""


def agreement(boxes: NDArray[np.float64], truth: NDArray[np.float64]) -> Agreement | None:
    """Compare (N, 4) boxes with the (N, 4) truth, x, y, w, h px; None when no frame's truth is known.

    Raises:
        ValueError: the shapes differ or are not (N, 4).

    """
    if boxes.shape != truth.shape or boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes and truth must both be (N, 4), got {boxes.shape} and {truth.shape}")
    iou = overlap(boxes, truth)
    known = ~np.isnan(iou)
    if not known.any():
        return None
    iou = iou[known]
    precision = np.mean(center_error(boxes, truth)[known] <= PRECISION_THRESHOLD_PX)
    return Agreement(int(known.sum()), float(iou.mean()), success_auc(iou), float(precision))
