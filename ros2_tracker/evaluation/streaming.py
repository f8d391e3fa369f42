"""What a robot gets: frames come at the camera's rate, and those that come while the tracker is busy are skipped.

The clock is simulated from measured update times (or a fixed one), so that a run takes no longer than it must. Like the
node, the tracker takes the newest image whenever it is free. For a skipped frame the box predicted to its time counts,
or the last one where a tracker predicts nothing. An answer counts for the frame it was computed from.
"""

from __future__ import annotations

import math

from ros2_tracker.evaluation.datasets import AnnotatedSequence
from ros2_tracker.evaluation.onepass import Progress, answered, skipped, started
from ros2_tracker.evaluation.peers import SequenceTracker
from ros2_tracker.evaluation.results import FrameRecord

# Frame 3 at 30 Hz comes at 0.1 s, not a rounding error after it.
_ROUNDING = 1e-9


def stream(
    tracker: SequenceTracker,
    sequence: AnnotatedSequence,
    camera_fps: float,
    latency_s: float | None = None,
    progress: Progress = lambda frames: None,
) -> list[FrameRecord]:
    """Play a sequence to a tracker at `camera_fps`.

    Args:
        tracker: of this target.
        sequence: frame i comes at i / camera_fps seconds.
        camera_fps: Hz.
        latency_s: how long an update takes; None measures each. With a fixed one runs are repeatable.
        progress: told of frames done, the skipped ones included.

    Raises:
        ValueError: as `one_pass`.

    """
    records = [started(tracker, sequence, sequence.image(0), 0, 0.0)]
    progress(1)
    free_at = busy_for(records[0], latency_s)
    while len(records) < len(sequence):
        index = next_frame(len(records), free_at, camera_fps)
        last = records[-1]
        for missed in range(len(records), min(index, len(sequence))):
            records.append(skipped(last, tracker.predict(missed / camera_fps)))
            progress(1)
        if index < len(sequence):
            records.append(answered(tracker, sequence.image(index), index / camera_fps, last))
            free_at = max(free_at, index / camera_fps) + busy_for(records[-1], latency_s)
            progress(1)
    return records


def next_frame(unseen: int, free_at: float, camera_fps: float) -> int:
    """The newest frame that has come by `free_at` seconds; the first unseen one when that is still to come."""
    return max(unseen, math.floor(free_at * camera_fps + _ROUNDING))


def busy_for(record: FrameRecord, latency_s: float | None) -> float:
    """Seconds until the tracker is free again."""
    return latency_s if latency_s is not None else (record.update_ms or 0.0) / 1e3
