"""How well boxes agree with the truth: overlap, success, precision and time to failure over frames of one sequence.

Pure functions on arrays. Boxes are (N, 4) x, y, w, h px. A row of NaNs is "no box given" among boxes, and "not known"
in the truth. Curves and shares are taken over frames without NaNs in the overlap; what counts is the caller's choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SUCCESS_THRESHOLDS: NDArray[np.float64] = np.linspace(0.0, 1.0, 21)
"""IoU thresholds 0, 0.05 ... 1 of the success plot (Wu et al., TPAMI 2015; as in pytracking)."""
PRECISION_THRESHOLD_PX = 20.0
PRECISION_THRESHOLDS_PX: NDArray[np.float64] = np.arange(51.0)
"""Centre errors 0, 1 ... 50 px of the precision plot (Wu et al., TPAMI 2015)."""
NORMALIZED_PRECISION_THRESHOLD = 0.2
NORMALIZED_PRECISION_THRESHOLDS: NDArray[np.float64] = np.arange(51) / 100.0
"""Centre errors 0, 0.01 ... 0.5 of the target's size (Müller et al., ECCV 2018; score at 0.2 as in LaSOT's toolkit)."""
NT2F_THRESHOLDS = (0.2, 0.5)
"""IoU under which a target counts as lost for the normalised time to failure (MATA, arXiv 2603.03904)."""


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


def clipped(boxes: NDArray[np.float64], width: float, height: float) -> NDArray[np.float64]:
    """The parts of (N, 4) boxes that lie inside a width x height image; of size 0 where nothing does."""
    low = np.clip(boxes[:, :2], 0.0, (width, height))
    high = np.clip(boxes[:, :2] + boxes[:, 2:], 0.0, (width, height))
    return np.hstack([low, high - low])


def center_error(boxes: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of the centres per row, px: (N,). Infinite where no box was given, NaN where no truth is known."""
    return _distance(boxes, truth, np.ones_like(truth[:, 2:]))


def normalized_center_error(boxes: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same with the difference in x as a share of the true width, in y of the true height."""
    return _distance(boxes, truth, truth[:, 2:])


def _distance(
    boxes: NDArray[np.float64], truth: NDArray[np.float64], unit: NDArray[np.float64]
) -> NDArray[np.float64]:
    difference = (boxes[:, :2] + boxes[:, 2:] / 2 - truth[:, :2] - truth[:, 2:] / 2) / unit
    distance = np.hypot(difference[:, 0], difference[:, 1])
    distance[np.isnan(boxes).any(axis=1)] = np.inf
    distance[np.isnan(truth).any(axis=1)] = np.nan
    return distance


def success_curve(iou: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of frames with IoU strictly above each of the 21 thresholds: (21,). At least one frame, no NaNs."""
    return np.mean(iou[None, :] > SUCCESS_THRESHOLDS[:, None], axis=1)


def success_auc(iou: NDArray[np.float64]) -> float:
    """Mean over 21 thresholds of the share of frames with IoU strictly above; IoU without NaNs, at least one frame."""
    return float(np.mean(success_curve(iou)))


def precision_curve(error: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of frames with a centre error of at most each threshold: as long as `thresholds`. No NaNs."""
    return np.mean(error[None, :] <= thresholds[:, None], axis=1)


def success_rate(iou: NDArray[np.float64], threshold: float) -> float:
    """Share of frames with IoU strictly above `threshold` (SR50, SR75 of GOT-10k). No NaNs."""
    return float(np.mean(iou > threshold))


def normalized_time_to_failure(iou: NDArray[np.float64], threshold: float) -> float:
    """Share of a sequence before IoU first falls below `threshold`; 1 when it never does. No NaNs.

    MATA (arXiv 2603.03904). Which frames are in `iou` decides what the share is of: those with a known truth.
    """
    failed = np.flatnonzero(iou < threshold)
    return float(failed[0] / len(iou)) if len(failed) else 1.0


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
