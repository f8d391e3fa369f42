"""Frames at a camera's rate: which are seen, and what counts for the others."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_tracking import ScriptedTracker, numbered_sequence

from ros2_tracker.evaluation.results import FrameEvent
from ros2_tracker.evaluation.streaming import next_frame, stream
from ros2_tracker.tracking.result import TrackState

TARGET = (40.0, 30.0, 20.0, 20.0)


def script(count: int) -> dict[int, tuple[float, float, float, float]]:
    return {i: (float(i), 30.0, 20.0, 20.0) for i in range(count)}


@pytest.mark.parametrize(
    ("latency_ms", "seen"),
    [
        (1.0, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        # As long as the time between frames: free again just when the next one comes.
        (100.0, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        # Frame 0 is done at 0.15 s: frame 1 has waited; done at 0.3 s, where frame 3 is the newest.
        (150.0, [1, 3, 4, 6, 7, 9]),
        (250.0, [2, 5, 7]),
        (2000.0, []),
    ],
)
def test_frames_that_come_while_the_tracker_is_busy_are_skipped(tmp_path: Path, latency_ms: float, seen: list[int]):
    sequence = numbered_sequence(tmp_path, [TARGET] * 10)
    tracker = ScriptedTracker(script(10))
    records = stream(tracker, sequence, 10.0, latency_ms / 1e3)
    assert tracker.updated == seen
    assert [i for i, r in enumerate(records) if r.event is FrameEvent.TRACKED] == seen
    assert records[0].event is FrameEvent.INIT
    assert all(r.event is FrameEvent.SKIPPED for i, r in enumerate(records) if i not in (0, *seen))
    assert [stamp for call, _, stamp in tracker.seen if call == "update"] == pytest.approx([i / 10 for i in seen])


def test_the_last_box_counts_for_a_skipped_frame(tmp_path: Path):
    records = stream(ScriptedTracker(script(6)), numbered_sequence(tmp_path, [TARGET] * 6), 10.0, 0.2)
    assert [r.event.value[0] for r in records] == list("iststs"), "0 is done at 0.2 s, when frame 2 comes"
    assert [r.box[0] for r in records] == [40.0, 40.0, 2.0, 2.0, 4.0, 4.0]
    assert records[3].update_ms is None


def test_the_prediction_counts_where_there_is_one(tmp_path: Path):
    tracker = ScriptedTracker(script(6), predicted=(99.0, 30.0, 20.0, 20.0))
    records = stream(tracker, numbered_sequence(tmp_path, [TARGET] * 6), 10.0, 0.2)
    assert [r.box[0] for r in records] == [40.0, 99.0, 2.0, 99.0, 4.0, 99.0]


def test_a_lost_target_stays_lost_in_skipped_frames(tmp_path: Path):
    tracker = ScriptedTracker({2: None, 4: TARGET})
    records = stream(tracker, numbered_sequence(tmp_path, [TARGET] * 6), 10.0, 0.2)
    lost = [r.state is TrackState.LOST for r in records]
    assert lost == [False, False, True, True, False, False]


def test_measured_times_are_used_without_a_fixed_one(tmp_path: Path):
    sequence = numbered_sequence(tmp_path, [TARGET] * 20)
    # A scripted answer takes microseconds, so at 1 Hz nothing is skipped.
    tracker = ScriptedTracker(script(20))
    stream(tracker, sequence, 1.0)
    assert tracker.updated == list(range(1, 20))
    hurried = ScriptedTracker(script(20))
    stream(hurried, sequence, 1e9)
    assert hurried.updated == []


def test_progress_counts_every_frame(tmp_path: Path):
    done = []
    stream(ScriptedTracker(script(6)), numbered_sequence(tmp_path, [TARGET] * 6), 10.0, 0.2, done.append)
    assert sum(done) == 6


@given(st.integers(1, 500), st.floats(0.0, 100.0), st.floats(0.5, 240.0))
def test_the_newest_frame_is_taken(unseen: int, free_at: float, fps: float):
    index = next_frame(unseen, free_at, fps)
    assert index >= unseen
    came = index / fps <= free_at + 1e-6
    assert came or index == unseen, "waits only for the next one"
    assert (index + 1) / fps > free_at - 1e-6, "nothing newer had come"
