"""Strips of pictures around the disappearances that a tracker handled worst, for an evaluation's report."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from ros2_tracker.evaluation import plots
from ros2_tracker.evaluation.comparison import Entry
from ros2_tracker.evaluation.pictures import Picture, as_jpeg, drawn
from ros2_tracker.evaluation.reliability_events import EventOutcome
from ros2_tracker.evaluation.run import Run
from ros2_tracker.tracking.result import TrackState

# Of each tracker; more would make the report heavy and say little.
_STRIPS = 8
_WIDTH, _BAR = 230, 16


def worst_events(entry: Entry, number: int, outcomes: Sequence[EventOutcome], fps: float) -> list[Picture]:
    """Strips of the worst events of tracker `number`: wrong recoveries, then losses never admitted, then none found.

    At most two of each kind of disappearance, so that one kind does not take all places. ValueError when an image
    cannot be read.
    """
    runs = {run.sequence.name: run for run in entry.runs}
    bad = [outcome for outcome in outcomes if outcome.followed and _badness(outcome) > 0]
    chosen: list[EventOutcome] = []
    for outcome in sorted(bad, key=_badness, reverse=True):
        if sum(each.event.kind == outcome.event.kind for each in chosen) < 2 and len(chosen) < _STRIPS:
            chosen.append(outcome)
    return [_strip(runs[outcome.sequence], outcome, plots.color_of(number), fps) for outcome in chosen]


def _badness(outcome: EventOutcome) -> int:
    never_found = outcome.judged_recovery and not outcome.recovered_in_time
    return 4 * outcome.wrong_recovery + 2 * bool(np.isnan(outcome.lost_s)) + never_found


def _strip(run: Run, outcome: EventOutcome, color: str, fps: float) -> Picture:
    event = outcome.event
    end = len(run.records) - 1
    back = min(event.last + 1, end) if outcome.back is None else outcome.back
    half = round(0.5 * fps)
    frames = [event.first - 3, event.first, event.first + half, (event.first + event.last) // 2, event.last]
    frames += [back, min(back + half, end), min(back + 2 * half, end)]
    if outcome.wrong_at is not None:
        frames = sorted({*frames, outcome.wrong_at})
    image = np.hstack([_shown(run, max(frame, 0), event.first, color, fps) for frame in frames])
    said = "never" if np.isnan(outcome.lost_s) else f"after {outcome.lost_s:.2f} s"
    found = (
        "not found again" if np.isnan(outcome.recovered_s) else f"found {outcome.recovered_s:.2f} s after its return"
    )
    wrong = "; wrong recovery" if outcome.wrong_recovery else ""
    caption = f"{outcome.sequence} ({event.detail}): LOST {said}, {found}{wrong}"
    return Picture(as_jpeg(image, outcome.sequence), caption)


def _shown(run: Run, frame: int, first: int, color: str, fps: float) -> NDArray[np.uint8]:
    record = run.records[frame]
    lost = record.state is TrackState.LOST
    truth = run.sequence.truth[frame]
    picture = drawn(run.sequence.image(frame), truth, (record.box, color), [], lost, _WIDTH)
    bar = np.full((_BAR, picture.shape[1], 3), 255, np.uint8)
    said = "" if record.reliability is None else f" {record.reliability:.2f}"
    text = f"{(frame - first) / fps:+.1f} s  {record.state.name}{said}"
    cv2.putText(bar, text, (2, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([bar, picture])
