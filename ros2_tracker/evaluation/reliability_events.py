"""What a tracker made of each disappearance: whether and when it admitted the loss, and found the target again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ros2_tracker.evaluation.disappearance import Disappearance
from ros2_tracker.tracking.result import TrackState

GOOD_IOU, WRONG_IOU = 0.5, 0.1
"""A box is on the target from the first on, and on something else under the second."""
LOST_WITHIN_S, RECOVERED_WITHIN_S = 0.5, 1.0
_BEFORE_S = 1.0


class RunFrames(NamedTuple):
    """One run, frame by frame, as the judgement needs it."""

    state: NDArray[np.int_]
    """(N,) of `TrackState`."""
    iou: NDArray[np.float64]
    """(N,) of the best box with the truth; NaN where the truth is not known or there is no target."""
    absent: NDArray[np.bool_]
    """(N,) where the target cannot be seen."""

    @property
    def off(self) -> NDArray[np.bool_]:
        """(N,) where there is no target, or the best box is not on it at all."""
        return self.absent | (self.iou < WRONG_IOU)

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """(N,) of those where the tracker says TRACKING."""
        return (self.state == TrackState.TRACKING) & self.off

    @property
    def right(self) -> NDArray[np.bool_]:
        """(N,) where the tracker says TRACKING, and its box is on the target."""
        return (self.state == TrackState.TRACKING) & ~self.absent & (self.iou >= GOOD_IOU)


@dataclass(frozen=True, slots=True)
class EventOutcome:
    """One disappearance and what one tracker said. Times in seconds; NaN where it did not happen."""

    sequence: str
    event: Disappearance
    followed: bool
    """Whether the tracker was on the target in the second before, and not LOST at its beginning: else the rest says
    nothing about this disappearance. The median IoU decides, because the last frames can be half covered."""
    warned_s: float
    """From the first frame without the target until the tracker said something else than TRACKING."""
    lost_s: float
    """Until it said LOST: the missed-loss delay. 0 if it had said so while the target was going."""
    back: int | None
    """First frame with the target again, whose truth is known; None: it does not come back."""
    recovered_s: float
    """From there until the tracker said TRACKING with the target in its box, whether or not it had said LOST."""
    judged_recovery: bool
    """Whether it came back for long enough to be judged."""
    wrong_at: int | None
    """First frame after LOST, and before it had the target, in which it said TRACKING with a box that is not on it."""

    @property
    def wrong_recovery(self) -> bool:
        """Whether it took something else for the target."""
        return self.wrong_at is not None

    @property
    def lost_in_time(self) -> bool:
        """Whether the loss was admitted within half a second."""
        return self.lost_s <= LOST_WITHIN_S

    @property
    def recovered_in_time(self) -> bool:
        """Whether the target was found within a second."""
        return self.recovered_s <= RECOVERED_WITHIN_S


def judge(run: RunFrames, sequence: str, events: Sequence[Disappearance], fps: float) -> list[EventOutcome]:
    """Judge a run at each disappearance of its sequence, up to the next one."""
    if not events:
        return []
    ends = [*(event.first for event in events[1:]), len(run.state)]
    return [_judged(run, sequence, event, end, fps) for event, end in zip(events, ends, strict=True)]


def _judged(run: RunFrames, sequence: str, event: Disappearance, end: int, fps: float) -> EventOutcome:
    known = np.flatnonzero(~np.isnan(run.iou) & ~run.absent)
    before = known[(known < event.first) & (known >= event.first - _BEFORE_S * fps)]
    after = known[(known > event.last) & (known < end)]
    followed = (
        len(before) > 0
        and bool(np.median(run.iou[before]) >= GOOD_IOU)
        and bool(run.state[before[0]] != TrackState.LOST)
    )
    back = int(after[0]) if len(after) else None

    warned = _first(run.state != TrackState.TRACKING, event.first, event.last + 1)
    lost = _first(run.state == TrackState.LOST, event.first, event.last + 1)
    recovered = None if back is None else _first(run.right, back, end)
    wrong = None if lost is None else _first(run.wrong, lost, end if recovered is None else recovered)
    long_enough = back is not None and (recovered is not None or (end - back) / fps > RECOVERED_WITHIN_S)
    return EventOutcome(
        sequence,
        event,
        followed,
        np.nan if warned is None else (warned - event.first) / fps,
        np.nan if lost is None else (lost - event.first) / fps,
        back,
        np.nan if recovered is None or back is None else (recovered - back) / fps,
        long_enough,
        wrong,
    )


def _first(flags: NDArray[np.bool_], start: int, end: int) -> int | None:
    found = np.flatnonzero(flags[start:end])
    return start + int(found[0]) if len(found) else None


@dataclass(frozen=True, slots=True)
class EventFigures:
    """Over several disappearances."""

    events: int
    judged: int
    """Of those the tracker was on the target before."""
    lost_in_time: float
    """Share of the judged ones: LOST within 0.5 s."""
    lost_s: float
    """Median until LOST where it was said, s."""
    never_lost: float
    """Share in which LOST was never said while the target was away."""
    recovered_in_time: float
    """Share of those that came back for long enough: TRACKING on the target within 1 s."""
    recovered_s: float
    """Median until then where it happened, s."""
    wrong_recovery: float
    """Share of the judged ones."""


def event_figures(outcomes: Sequence[EventOutcome]) -> EventFigures:
    """Shares and medians; NaN where there is nothing to take them over."""
    judged = [outcome for outcome in outcomes if outcome.followed]
    returned = [outcome for outcome in judged if outcome.judged_recovery]
    lost, recovered = np.array([o.lost_s for o in judged]), np.array([o.recovered_s for o in returned])
    return EventFigures(
        len(outcomes),
        len(judged),
        _mean([o.lost_in_time for o in judged]),
        _median(lost),
        _mean(np.isnan(lost)),
        _mean([o.recovered_in_time for o in returned]),
        _median(recovered),
        _mean([o.wrong_recovery for o in judged]),
    )


def _mean(values: Sequence[bool] | NDArray[np.bool_]) -> float:
    return float(np.mean(values)) if len(values) else np.nan


def _median(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else np.nan
