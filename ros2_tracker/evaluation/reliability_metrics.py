"""How much a reliability is worth: failure detection, calibration, and the long-term F-score. Pure functions on arrays.

A frame is good when its box has IoU >= 0.5 with the target, and bad when it has less or the target cannot be seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CALIBRATION_BINS = 10
_LONG_TERM_THRESHOLDS = 100


@dataclass(frozen=True, slots=True, eq=False)
class Roc:
    """How many good frames are kept at the price of how many bad ones, over all thresholds from high to low."""

    bad_kept: NDArray[np.float64]
    """Share of bad frames at the threshold or above (the false positive rate); begins with 0, ends with 1."""
    good_kept: NDArray[np.float64]
    """Share of good ones (the true positive rate)."""

    @property
    def area(self) -> float:
        """AUROC: the probability that a good frame has a higher value than a bad one, ties counted half."""
        steps, heights = np.diff(self.bad_kept), (self.good_kept[1:] + self.good_kept[:-1]) / 2
        return float(np.sum(steps * heights))


def roc(value: NDArray[np.float64], good: NDArray[np.bool_]) -> Roc | None:
    """ROC of telling good frames from bad ones by (N,) values; None when there are none of either."""
    if good.all() or not good.any():
        return None
    order = np.argsort(-value, kind="stable")
    last_of_equals = np.append(np.flatnonzero(np.diff(value[order])), len(value) - 1)
    kept_good = np.cumsum(good[order])[last_of_equals]
    kept_bad = last_of_equals + 1 - kept_good
    return Roc(np.append(0.0, kept_bad / kept_bad[-1]), np.append(0.0, kept_good / kept_good[-1]))


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Frames sorted into ten bins of equal width by the probability they were given."""

    count: NDArray[np.intp]
    """(10,) frames in each."""
    confidence: NDArray[np.float64]
    """(10,) mean probability in each, NaN where there is none."""
    accuracy: NDArray[np.float64]
    """(10,) share of good frames, NaN where there is none."""

    @property
    def error(self) -> float:
        """Expected calibration error: sum of n_b / n |accuracy - confidence| over bins (Guo et al., 2017, eq. 3)."""
        gap = np.nan_to_num(np.abs(self.accuracy - self.confidence))
        return float(np.sum(self.count * gap) / self.count.sum()) if self.count.any() else np.nan


def calibration(probability: NDArray[np.float64], good: NDArray[np.bool_]) -> Calibration:
    """Bin (N,) probabilities; bin b holds ((b - 1) / 10, b / 10], the first also 0."""
    bins = np.clip(np.ceil(probability * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    count = np.bincount(bins, minlength=CALIBRATION_BINS)
    means = []
    for values in (probability, good.astype(np.float64)):
        total = np.bincount(bins, weights=values, minlength=CALIBRATION_BINS)
        means.append(np.divide(total, count, out=np.full(CALIBRATION_BINS, np.nan), where=count > 0))
    return Calibration(count, *means)


def brier(probability: NDArray[np.float64], good: NDArray[np.bool_]) -> float:
    """Mean squared difference between (N,) probabilities and what came true; NaN without frames."""
    return float(np.mean((probability - good) ** 2)) if len(good) else np.nan


def kept_at(value: NDArray[np.float64], good: NDArray[np.bool_], others: NDArray[np.bool_], doubted: float) -> float:
    """Share of all (N,) frames that are of `others` and stay when a share `doubted` of the good ones is given up.

    What a threshold on the value does, without any memory; NaN without good frames.
    """
    if not good.any():
        return np.nan
    return float((others & (value >= np.quantile(value[good], doubted))).mean())


class LongTermFrames(NamedTuple):
    """What the long-term measure needs of one sequence, without frames that nobody can judge."""

    certainty: NDArray[np.float64]
    """(N,) of the box; -inf where none was given."""
    overlap: NDArray[np.float64]
    """(N,) IoU with the target; NaN where it cannot be seen."""


@dataclass(frozen=True, slots=True, eq=False)
class LongTerm:
    """Tracking precision, recall and F of VOT-LT (Lukezic et al., 2018), at the threshold with the highest F."""

    precision: float
    recall: float
    f: float
    threshold: float
    """On certainty, at which boxes are taken."""
    precisions: NDArray[np.float64]
    """(T,) over thresholds from high to low."""
    recalls: NDArray[np.float64]


def long_term(sequences: Sequence[LongTermFrames]) -> LongTerm | None:
    """Score sequences together: means over them at each threshold, F of the means. None when nothing can be scored.

    Pr is the mean IoU of the boxes that are taken, 0 where there is no target; Re the mean IoU over frames with the
    target, 0 where no box is taken. As in VOT's toolkit, precision is 1 where no box of a sequence is taken.
    """
    given = np.concatenate([frames.certainty for frames in sequences] or [np.empty(0)])
    given = np.unique(given[np.isfinite(given)])
    if len(given) == 0 or all(np.isnan(frames.overlap).all() for frames in sequences):
        return None
    places = np.unique(np.linspace(0, len(given) - 1, _LONG_TERM_THRESHOLDS).round().astype(int))
    thresholds = given[places][::-1]
    precisions, recalls = [], []
    for certainty, overlap in sequences:
        there = ~np.isnan(overlap)
        taken = certainty[None, :] >= thresholds[:, None]
        total = taken @ np.nan_to_num(overlap)
        number = taken.sum(axis=1)
        precisions.append(np.divide(total, number, out=np.ones(len(thresholds)), where=number > 0))
        if there.any():
            recalls.append(total / there.sum())
    precision, recall = np.mean(precisions, axis=0), np.mean(recalls, axis=0)
    both = precision + recall
    f = np.divide(2.0 * precision * recall, both, out=np.zeros(len(both)), where=both > 0.0)
    best = int(np.argmax(f))
    chosen = (float(each[best]) for each in (precision, recall, f, thresholds))
    return LongTerm(*chosen, precision, recall)
