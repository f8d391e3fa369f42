"""One tracker through one sequence, frame by frame: the run that success and precision plots are made of."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ros2_tracker.evaluation.datasets import AnnotatedSequence
from ros2_tracker.evaluation.peers import BoxTuple, SequenceTracker
from ros2_tracker.evaluation.results import FrameEvent, FrameRecord
from ros2_tracker.tracking.geometry import checked_box
from ros2_tracker.tracking.result import TrackState

Progress = Callable[[int], object]
"""Told how many more frames are done."""


def one_pass(
    tracker: SequenceTracker, sequence: AnnotatedSequence, fps: float, progress: Progress = lambda frames: None
) -> list[FrameRecord]:
    """Start in the first frame, answer every other one; frame i counts as taken at i / fps seconds.

    Raises:
        ValueError: an image cannot be read, or the first box cannot be followed.

    """
    records = [started(tracker, sequence, sequence.image(0), 0, 0.0)]
    for index in range(1, len(sequence)):
        progress(1)
        records.append(answered(tracker, sequence.image(index), index / fps, records[-1]))
    progress(1)
    return records


def started(
    tracker: SequenceTracker, sequence: AnnotatedSequence, image: NDArray[np.uint8], index: int, stamp: float
) -> FrameRecord:
    """Give the tracker the true box of a frame; ValueError when less than 2x2 px of it are inside the image."""
    box = checked_box(sequence.truth[index], image.shape[1], image.shape[0]).as_tuple()
    before = time.perf_counter()
    tracker.init(image, box, stamp)
    return FrameRecord(FrameEvent.INIT, box, TrackState.TRACKING, 1.0, None, _ms_since(before))


def answered(tracker: SequenceTracker, image: NDArray[np.uint8], stamp: float, before: FrameRecord) -> FrameRecord:
    """Ask the tracker; where it has no box at all, its last one counts: benchmarks want a box in every frame."""
    start = time.perf_counter()
    answer = tracker.update(image, stamp)
    ms = _ms_since(start)
    box = answer.box or before.box
    return FrameRecord(FrameEvent.TRACKED, box, answer.state, answer.reliability, answer.score, ms, answer.signals)


def skipped(before: FrameRecord, box: BoxTuple | None) -> FrameRecord:
    """A frame that the tracker did not see: the predicted box counts, or the last one."""
    return replace(before, event=FrameEvent.SKIPPED, box=box or before.box, update_ms=None, signals=None)


def _ms_since(start: float) -> float:
    return 1e3 * (time.perf_counter() - start)
