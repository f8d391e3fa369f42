"""From the runs of one tracker to what its reliability, its raw score and its states are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ros2_tracker.evaluation.disappearance import disappearances
from ros2_tracker.evaluation.reliability_events import (
    GOOD_IOU,
    EventFigures,
    EventOutcome,
    RunFrames,
    event_figures,
    judge,
)
from ros2_tracker.evaluation.reliability_metrics import (
    Calibration,
    LongTerm,
    LongTermFrames,
    Roc,
    brier,
    calibration,
    kept_at,
    long_term,
    roc,
)
from ros2_tracker.evaluation.results import FrameEvent
from ros2_tracker.evaluation.run import Run
from ros2_tracker.evaluation.scoring import SequenceScore
from ros2_tracker.tracking.result import TrackState

RELIABILITY, SCORE = "reliability", "score"
_DOUBTED = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class Worth:
    """Of one value that a tracker gives with each box."""

    roc: Roc | None
    """None when all judged frames are good, or all bad."""
    calibration: Calibration | None
    """None when the value is no probability: outside [0, 1]."""
    brier: float
    false_at_5: float
    """Share of frames with IoU < 0.1 or no target at or above the threshold that 5 % of the good ones fall short of."""
    long_term: LongTerm | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        best, bins = self.long_term, self.calibration
        return {
            "auroc": np.nan if self.roc is None else self.roc.area,
            "ece": np.nan if bins is None else bins.error,
            "brier": self.brier,
            "false_at_5": self.false_at_5,
            "precision": np.nan if best is None else best.precision,
            "recall": np.nan if best is None else best.recall,
            "f": np.nan if best is None else best.f,
            "threshold": np.nan if best is None else best.threshold,
            "bins": None if bins is None else asdict(bins),
        }


@dataclass(frozen=True, slots=True, eq=False)
class ReliabilitySummary:
    """One tracker over one set of runs."""

    tracker: str
    footage: str
    """A mode's name, or `all`."""
    frames: int
    """Answered ones that can be judged."""
    good: int
    """Of those with IoU >= 0.5."""
    false_tracking: float
    """Share of `frames` with state TRACKING and IoU < 0.1 or no target."""
    good_doubted: float
    """Share of `good` with state UNCERTAIN or LOST."""
    worth: dict[str, Worth]
    """Of `reliability` and `score`, as far as the tracker gives them."""
    outcomes: list[EventOutcome] = field(default_factory=list)

    @property
    def events(self) -> EventFigures:
        """Over all disappearances."""
        return event_figures(self.outcomes)

    @property
    def events_by_kind(self) -> dict[str, EventFigures]:
        """Over those of each kind."""
        kinds = sorted({outcome.event.kind for outcome in self.outcomes})
        return {kind: event_figures([o for o in self.outcomes if o.event.kind == kind]) for kind in kinds}

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        names = ("frames", "good", "false_tracking", "good_doubted")
        return {
            **{name: getattr(self, name) for name in names},
            "of": {name: worth.as_dict() for name, worth in self.worth.items()},
            "events": asdict(self.events),
            "events_by_kind": {kind: asdict(figures) for kind, figures in self.events_by_kind.items()},
            "outcomes": [asdict(outcome) for outcome in self.outcomes],
        }


@dataclass(frozen=True, slots=True, eq=False)
class _Judged:
    """The frames of one run that the tracker answered and somebody can judge."""

    good: NDArray[np.bool_]
    iou: NDArray[np.float64]
    """NaN where there is no target."""
    state: NDArray[np.int_]
    off: NDArray[np.bool_]
    """IoU < 0.1 or no target."""
    values: dict[str, NDArray[np.float64]]


def summarize_reliability(
    tracker: str, footage: str, runs: Sequence[Run], scores: Sequence[SequenceScore], fps: float
) -> ReliabilitySummary:
    """Summarize at least one run.

    Args:
        tracker: its name.
        footage: what the runs are of.
        runs: without restarts.
        scores: theirs, in the same order.
        fps: of the footage, Hz.

    """
    frames = [RunFrames(_states(run), score.iou, run.sequence.absent) for run, score in zip(runs, scores, strict=True)]
    judged = [_judged(run, each) for run, each in zip(runs, frames, strict=True)]
    good = np.concatenate([each.good for each in judged])
    state = np.concatenate([each.state for each in judged])
    off = np.concatenate([each.off for each in judged])
    outcomes = [
        outcome
        for run, each in zip(runs, frames, strict=True)
        for outcome in judge(each, run.sequence.name, disappearances(run.sequence, fps), fps)
    ]
    return ReliabilitySummary(
        tracker,
        footage,
        len(good),
        int(good.sum()),
        float((off & (state == TrackState.TRACKING)).mean()) if len(good) else np.nan,
        float((state[good] != TrackState.TRACKING).mean()) if good.any() else np.nan,
        {name: _worth(judged, name) for name in (RELIABILITY, SCORE) if all(name in each.values for each in judged)},
        outcomes,
    )


def _states(run: Run) -> NDArray[np.int_]:
    return np.array([record.state for record in run.records], int)


def _judged(run: Run, frames: RunFrames) -> _Judged:
    answered = np.array([record.event is FrameEvent.TRACKED for record in run.records])
    kept = answered & (frames.absent | ~np.isnan(frames.iou))
    iou = np.where(frames.absent, np.nan, frames.iou)[kept]
    values = {}
    for name in (RELIABILITY, SCORE):
        given = [getattr(record, name) for record, keep in zip(run.records, kept, strict=True) if keep]
        if all(value is not None for value in given):
            values[name] = np.array(given, np.float64)
    return _Judged(np.nan_to_num(iou) >= GOOD_IOU, iou, frames.state[kept], frames.off[kept], values)


def _worth(judged: Sequence[_Judged], name: str) -> Worth:
    value = np.concatenate([each.values[name] for each in judged])
    good = np.concatenate([each.good for each in judged])
    off = np.concatenate([each.off for each in judged])
    probability = len(value) > 0 and bool((value >= 0.0).all() and (value <= 1.0).all())
    sequences = []
    for each in judged:
        # LOST means that no box is given. The raw score stands for a tracker that knows nothing but it.
        silent = (each.state == TrackState.LOST) if name == RELIABILITY else np.zeros(len(each.good), bool)
        sequences.append(LongTermFrames(np.where(silent, -np.inf, each.values[name]), each.iou))
    return Worth(
        roc(value, good),
        calibration(value, good) if probability else None,
        brier(value, good) if probability else np.nan,
        kept_at(value, good, off, _DOUBTED),
        long_term(sequences),
    )
