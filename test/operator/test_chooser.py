"""Which image is shown: the newest whose boxes are known, at a bounded rate, with bounded memory."""

from __future__ import annotations

import numpy as np

from ros2_tracker.operator import chooser as module
from ros2_tracker.operator.chooser import PATIENCE_S, FrameChooser
from ros2_tracker.tracking.frame import ArrayFrame
from ros2_tracker.tracking.frame_buffer import StampedFrame

_PIXELS = ArrayFrame(np.zeros((2, 2, 3), np.uint8))
T = 100.0


def frame(stamp_ns: int, n_bytes: int = 12) -> StampedFrame:
    return StampedFrame(stamp_ns, _PIXELS, n_bytes, None)


def stamp(taken: StampedFrame | None) -> int | None:
    return None if taken is None else taken.stamp_ns


def tracked() -> FrameChooser:
    """With a tracker that has just answered something."""
    chooser = FrameChooser(10.0)
    chooser.answered(-1, T)
    return chooser


def test_the_newest_answered_image_is_taken_and_older_ones_never():
    chooser = tracked()
    for number in range(1, 6):
        chooser.push(frame(number), T)
    assert chooser.take(T) is None
    chooser.answered(2, T)
    chooser.answered(4, T)
    assert stamp(chooser.take(T)) == 4
    chooser.answered(3, T)
    assert chooser.take(T + 0.2) is None
    chooser.answered(5, T)
    assert stamp(chooser.take(T + 0.2)) == 5


def test_the_rate_is_bounded_and_a_late_image_does_not_lower_it():
    chooser = FrameChooser(10.0)
    taken = 0
    for tick in range(1000):
        now = T + tick / 100 + (0.004 if tick % 2 else 0.0)
        chooser.push(frame(tick), now)
        chooser.answered(tick, now)
        taken += chooser.take(now) is not None
    assert 95 <= taken <= 101


def test_an_unanswered_image_is_shown_after_a_while():
    chooser = tracked()
    chooser.push(frame(1), T)
    assert chooser.take(T + PATIENCE_S - 0.01) is None
    chooser.push(frame(2), T + 0.2)
    assert stamp(chooser.take(T + PATIENCE_S + 0.01)) == 1


def test_without_a_tracker_images_do_not_wait():
    chooser = FrameChooser(10.0)
    chooser.push(frame(1), T)
    chooser.push(frame(2), T)
    assert stamp(chooser.take(T)) == 2


def test_large_images_are_not_hoarded_and_still_shown(monkeypatch):
    monkeypatch.setattr(module, "_MAX_WAITING_BYTES", 100)
    chooser = tracked()
    for number in range(1, 10):
        chooser.push(frame(number, 40), T + number / 1000)
    chooser.answered(1, T)  # has left
    assert stamp(chooser.take(T + 0.05)) == 9
    # One that is larger than all the room.
    chooser.push(frame(10, 500), T + 0.2)
    chooser.answered(10, T + 0.2)
    assert stamp(chooser.take(T + 0.2)) == 10


def test_stamps_that_go_back_do_not_stop_it():
    chooser = tracked()
    chooser.push(frame(1000), T)
    chooser.answered(1000, T)
    assert stamp(chooser.take(T)) == 1000
    chooser.push(frame(3), T + 0.2)
    chooser.answered(3, T + 0.2)
    assert stamp(chooser.take(T + 0.2)) == 3
