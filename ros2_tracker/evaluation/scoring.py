"""From the frames of a run to the figures of a sequence, and from sequences to those of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ros2_tracker.evaluation import metrics
from ros2_tracker.evaluation.datasets import AnnotatedSequence, Convention
from ros2_tracker.evaluation.results import FrameEvent, FrameRecord
from ros2_tracker.tracking.result import TrackState

GOOD_IOU = 0.5
"""From which a box counts as right when it is judged whether LOST was rightly said."""
_ASKED = (FrameEvent.TRACKED, FrameEvent.FAILED)


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one sequence, or the means over several. Shares and overlaps are in [0, 1]; NaN where nothing can be said."""

    success_auc: float
    """Area under the success plot: 21 thresholds, strictly above."""
    precision: float
    """Share of frames whose centre is at most 20 px off."""
    normalized_precision: float
    """Share of frames whose centre is at most 0.2 of the target's size off."""
    ao: float
    """Mean overlap."""
    sr50: float
    sr75: float
    nt2f20: float
    """Share of the sequence before IoU first falls below 0.2."""
    nt2f50: float
    ms: float
    """Mean wall time of an update."""


@dataclass(frozen=True, slots=True, eq=False)
class SequenceScore:
    """One tracker on one sequence."""

    sequence: str
    scores: Scores
    frames: int
    """With the first."""
    counted: NDArray[np.bool_]
    """(N,) frames that AO counts."""
    outside: int
    """Frames whose true box lies outside the image: not counted."""
    absent: int
    """Frames in which the target cannot be seen."""
    answered: int
    """Frames that the tracker was asked about."""
    lost: int
    """Of those it said LOST in so many whose truth is known or absent."""
    lost_right: int
    """Of those the target was absent, or the best box had IoU < 0.5."""
    wrong: int
    """Answered frames with an absent target or IoU < 0.5, whatever was said."""
    success: NDArray[np.float64]
    """(21,) curve."""
    precision: NDArray[np.float64]
    """(51,) curve over 0 ... 50 px."""
    normalized: NDArray[np.float64]
    """(51,) curve over 0 ... 0.5 sizes."""
    iou: NDArray[np.float64]
    """(N,) with the truth; NaN where nothing is to be compared."""
    update_ms: NDArray[np.float64]
    """Of each answered frame."""


def score_sequence(
    records: Sequence[FrameRecord],
    sequence: AnnotatedSequence,
    convention: Convention,
    size: tuple[int, int],
) -> SequenceScore:
    """Score a run as its benchmark does.

    Args:
        records: one a frame.
        sequence: what they are of.
        convention: what counts.
        size: width and height of the images, px.

    """
    boxes = np.array([record.box or (np.nan,) * 4 for record in records], np.float64).reshape(-1, 4)
    truth = sequence.truth
    inside = metrics.clipped(truth, *size)
    visible = sequence.scorable
    outside = visible & ~(np.prod(inside[:, 2:], axis=1) > 0.0)
    known = visible & ~outside
    masked = np.where(known[:, None], truth, np.nan)
    if convention.clipped:
        iou = metrics.overlap(metrics.clipped(boxes, *size), np.where(known[:, None], inside, np.nan))
    else:
        iou = metrics.overlap(boxes, masked)
    counted = known.copy()
    counted[0] &= convention.first_frame
    unknown = ~known if convention.unknown_counts else np.zeros_like(known)
    success, precision, normalized = _curves(boxes, masked, iou, counted, int(unknown.sum()))

    asked = np.array([record.event in _ASKED for record in records])
    said_lost = asked & np.array([record.state is TrackState.LOST for record in records])
    wrong = asked & (sequence.absent | (known & (np.nan_to_num(iou) < GOOD_IOU)))
    judged = known | sequence.absent
    update_ms = np.array([r.update_ms for r in records if r.event in _ASKED and r.update_ms is not None])
    share = iou[counted]
    scores = Scores(
        float(success.mean()),
        float(precision[round(metrics.PRECISION_THRESHOLD_PX)]),
        float(normalized[round(100 * metrics.NORMALIZED_PRECISION_THRESHOLD)]),
        *_overlap_scores(share),
        float(update_ms.mean()) if len(update_ms) else np.nan,
    )
    return SequenceScore(
        sequence.name,
        scores,
        len(records),
        counted,
        int(outside.sum()),
        int(sequence.absent.sum()),
        int(asked.sum()),
        int((said_lost & judged).sum()),
        int((said_lost & wrong).sum()),
        int(wrong.sum()),
        success,
        precision,
        normalized,
        iou,
        update_ms,
    )


def _curves(
    boxes: NDArray[np.float64],
    truth: NDArray[np.float64],
    iou: NDArray[np.float64],
    counted: NDArray[np.bool_],
    unknown: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Success, precision and normalised precision; `unknown` further frames miss the first and hit the others."""
    known = int(counted.sum())
    if known == 0:
        return tuple(np.full(n, np.nan) for n in (21, 51, 51))  # type: ignore[return-value]
    weight = known / (known + unknown)
    success = metrics.success_curve(iou[counted])
    precision = metrics.precision_curve(metrics.center_error(boxes, truth)[counted], metrics.PRECISION_THRESHOLDS_PX)
    normalized = metrics.precision_curve(
        metrics.normalized_center_error(boxes, truth)[counted], metrics.NORMALIZED_PRECISION_THRESHOLDS
    )
    return weight * success, weight * precision + 1.0 - weight, weight * normalized + 1.0 - weight


def _overlap_scores(iou: NDArray[np.float64]) -> tuple[float, ...]:
    """AO, SR50, SR75 and the two times to failure."""
    if len(iou) == 0:
        return (np.nan,) * 5
    return (
        float(iou.mean()),
        metrics.success_rate(iou, 0.5),
        metrics.success_rate(iou, 0.75),
        *(metrics.normalized_time_to_failure(iou, threshold) for threshold in metrics.NT2F_THRESHOLDS),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """One tracker over a dataset."""

    mean: Scores
    """Over sequences, each with the same weight."""
    sequences: int
    frames: int
    ao_frames: float
    """AO, SR50 and SR75 over all frames together, as GOT-10k's toolkit takes them."""
    sr50_frames: float
    sr75_frames: float
    answered: int
    lost: int
    lost_right: int
    wrong: int
    outside: int
    absent: int
    ms_p50: float
    ms_p99: float
    success: NDArray[np.float64]
    precision: NDArray[np.float64]
    normalized: NDArray[np.float64]


def summarize(scored: Sequence[SequenceScore]) -> Summary:
    """Means over at least one sequence; those without any truth are left out of the means."""
    rows = np.array([[getattr(s.scores, f.name) for f in fields(Scores)] for s in scored])
    share = [s for s in scored if s.counted.any()]
    pooled = np.concatenate([s.iou[s.counted] for s in scored])
    ao, sr50, sr75, *_ = _overlap_scores(pooled)
    times = np.concatenate([s.update_ms for s in scored])

    def curve(name: str, size: int) -> NDArray[np.float64]:
        return np.mean([getattr(s, name) for s in share], axis=0) if share else np.full(size, np.nan)

    return Summary(
        Scores(*(_mean(column) for column in rows.T)),
        len(scored),
        sum(s.frames for s in scored),
        ao,
        sr50,
        sr75,
        *(sum(getattr(s, name) for s in scored) for name in ("answered", "lost", "lost_right", "wrong", "outside")),
        sum(s.absent for s in scored),
        *(float(np.percentile(times, q)) if len(times) else np.nan for q in (50, 99)),
        curve("success", 21),
        curve("precision", 51),
        curve("normalized", 51),
    )


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else np.nan
