"""Runs with restarts, as VOT's baseline experiment: accuracy, robustness, expected average overlap (EAO).

Kristan et al., "A Novel Performance Evaluation Methodology for Single-Target Trackers", TPAMI 2016; EAO: report of
VOT2015.
A tracker that no longer touches the target has failed; five frames later it is started again with the true box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from ros2_tracker.evaluation.datasets import AnnotatedSequence
from ros2_tracker.evaluation.onepass import Progress, answered, skipped, started
from ros2_tracker.evaluation.peers import SequenceTracker
from ros2_tracker.evaluation.results import FrameEvent, FrameRecord
from ros2_tracker.tracking.geometry import BoxError

FRAMES_TO_RESTART = 5
"""From the frame of a failure to the next start."""
BURN_IN = 10
"""Frames from a start on that do not count for accuracy: the true box still shows in them."""
ROBUSTNESS_FRAMES = 100
"""Robustness is the expected number of failures in so many frames, as VOT's tables had it until 2019."""


def run_with_restarts(
    tracker: SequenceTracker, sequence: AnnotatedSequence, fps: float, progress: Progress = lambda frames: None
) -> list[FrameRecord]:
    """Follow the target through a sequence, starting again after each failure.

    A start waits for a frame with a true box of which 2x2 px are in the image. Frames without truth end nothing.

    Raises:
        ValueError: an image cannot be read, or the first box cannot be followed.

    """
    records: list[FrameRecord] = []
    start_at, running = 0, False
    for index in range(len(sequence)):
        progress(1)
        if not running and (index < start_at or not sequence.scorable[index]):
            records.append(skipped(records[-1], None))
            continue
        image, stamp = sequence.image(index), index / fps
        if not running:
            try:
                records.append(started(tracker, sequence, image, index, stamp))
                running = True
            except BoxError:
                if not records:
                    raise
                records.append(skipped(records[-1], None))
            continue
        record = answered(tracker, image, stamp, records[-1])
        if region_overlap(record.box, sequence, index, image.shape[1], image.shape[0]) == 0.0:
            record = replace(record, event=FrameEvent.FAILED)
            start_at, running = index + FRAMES_TO_RESTART, False
        records.append(record)
    return records


def region_overlap(
    box: tuple[float, float, float, float] | None, sequence: AnnotatedSequence, index: int, width: int, height: int
) -> float:
    """Overlap of a box with the true box or polygon of a frame, both cut at the image's border; NaN without truth."""
    if not sequence.scorable[index]:
        return np.nan
    if box is None:
        return 0.0
    drawn = sequence.polygons
    truth = _corners(sequence.truth[index]) if drawn is None else drawn[index].reshape(4, 2)
    return polygon_overlap(_corners(np.array(box)), truth, width, height)


def polygon_overlap(a: NDArray[np.float64], b: NDArray[np.float64], width: int, height: int) -> float:
    """Intersection over union of two convex (4, 2) polygons inside a width x height image; 0 where either is empty."""
    image = _corners(np.array([0.0, 0.0, width, height]))
    inside_a, inside_b = (_intersection(polygon, image) for polygon in (a, b))
    if inside_a is None or inside_b is None:
        return 0.0
    common = _intersection(inside_a, inside_b)
    if common is None:
        return 0.0
    shared = cv2.contourArea(common)
    return shared / (cv2.contourArea(inside_a) + cv2.contourArea(inside_b) - shared)


def _corners(box: NDArray[np.float64]) -> NDArray[np.float64]:
    x, y, w, h = box
    return np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]])


def _intersection(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float32] | None:
    area, points = cv2.intersectConvexConvex(a.astype(np.float32), b.astype(np.float32))
    return points if area > 0.0 else None  # type: ignore[return-value]


# -- figures ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class RestartRun:
    """What the figures need of one sequence."""

    events: list[FrameEvent]
    overlaps: NDArray[np.float64]
    """(N,) NaN where there is no truth."""


@dataclass(frozen=True, slots=True, eq=False)
class Robustness:
    """Figures of one tracker over a dataset."""

    accuracy: float
    """Mean overlap of all tracked frames that are not in a burn-in; NaN without any."""
    failures: int
    robustness: float
    """Failures in 100 frames."""
    eao: float
    interval: tuple[int, int]
    """Lengths over which EAO averages."""
    curve: NDArray[np.float64]
    """Expected average overlap of a sequence of 1, 2 ... frames; NaN beyond the longest."""


def robustness(runs: Sequence[RestartRun], interval: tuple[int, int] | None = None) -> Robustness:
    """Accuracy, robustness and EAO over the sequences of a dataset, at least one.

    `interval` is the first and last length, in frames, that EAO averages over; None takes `typical_lengths`.
    """
    first, last = interval or typical_lengths([len(run.events) for run in runs])
    counted = np.concatenate([_settled(run) for run in runs])
    failures = sum(run.events.count(FrameEvent.FAILED) for run in runs)
    longest = max(len(run.events) for run in runs)
    curve = expected_overlap([fragment for run in runs for fragment in fragments(run)], longest)
    in_interval = curve[first - 1 : last]
    in_interval = in_interval[~np.isnan(in_interval)]
    return Robustness(
        float(counted.mean()) if len(counted) else np.nan,
        failures,
        ROBUSTNESS_FRAMES * failures / sum(len(run.events) for run in runs),
        float(in_interval.mean()) if len(in_interval) else np.nan,
        (first, last),
        curve,
    )


def _settled(run: RestartRun) -> NDArray[np.float64]:
    """Overlaps of the frames that count for accuracy."""
    counts = np.array([event is FrameEvent.TRACKED for event in run.events]) & ~np.isnan(run.overlaps)
    for start in (i for i, event in enumerate(run.events) if event is FrameEvent.INIT):
        counts[start : start + BURN_IN] = False
    return run.overlaps[counts]


@dataclass(frozen=True, slots=True, eq=False)
class Fragment:
    """From a start to the next one, or to the end of the sequence."""

    overlaps: NDArray[np.float64]
    ended: bool
    """By a failure and another start: then it goes on with zeros for as long as one likes. Else nothing is known beyond
    its end; VOT's toolkit takes a failure too late for another start as such an end, too."""


def fragments(run: RestartRun) -> list[Fragment]:
    """Cut a sequence at its starts. Frames without an overlap (a start, no truth) count as 0, as in VOT."""
    starts = [i for i, event in enumerate(run.events) if event is FrameEvent.INIT]
    cut = []
    for start, end in zip(starts, [*starts[1:], len(run.events)], strict=True):
        tracked = [event is FrameEvent.TRACKED for event in run.events[start:end]]
        overlaps = np.where(tracked, np.nan_to_num(run.overlaps[start:end]), 0.0)
        cut.append(Fragment(overlaps, ended=end < len(run.events)))
    return cut


def expected_overlap(cut: Sequence[Fragment], longest: int) -> NDArray[np.float64]:
    """Mean overlap over the first N frames of a sequence, for N = 1 ... longest: (longest,).

    Over all fragments of which N frames are known, without the frame of the start (N = 1 is therefore 1).
    """
    known = np.full((len(cut), longest), np.nan)
    for row, fragment in zip(known, cut, strict=True):
        if fragment.ended:
            row[:] = 0.0
        row[: len(fragment.overlaps)] = fragment.overlaps
    curve = np.full(longest, np.nan)
    curve[0] = 1.0
    means = np.cumsum(known[:, 1:], axis=1) / np.arange(1, longest)
    # A row is NaN from its end on.
    reached = ~np.isnan(means)
    count = reached.sum(axis=0)
    curve[1:] = np.divide(np.nansum(means, axis=0), count, out=np.full(longest - 1, np.nan), where=count > 0)
    return curve


def typical_lengths(lengths: Sequence[int]) -> tuple[int, int]:
    """The shortest span of lengths, in frames, that holds half of a smoothed distribution of sequence lengths.

    As VOT chooses its interval, with a Gaussian kernel of Scott's width; VOT publishes the one of each year
    (2018: 100 to 356).
    """
    values = np.asarray(lengths, np.float64)
    width = max(float(values.std()) * len(values) ** -0.2, 1.0)
    grid = np.arange(1.0, values.max() + 3.0 * width + 1.0)
    density = np.exp(-0.5 * ((grid[:, None] - values[None, :]) / width) ** 2).sum(axis=1)
    highest_first = np.argsort(-density, kind="stable")
    mass = np.cumsum(density[highest_first]) / density.sum()
    inside = grid[highest_first[: int(np.searchsorted(mass, 0.5)) + 1]]
    return int(inside.min()), int(inside.max())
