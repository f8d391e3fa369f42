"""The ring of recent frames."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ros2_tracker.tracking.frame import ArrayFrame
from ros2_tracker.tracking.frame_buffer import NANOSECONDS, FrameBuffer, StampedFrame

PIXELS = ArrayFrame(np.zeros((2, 2, 3), np.uint8))


def frame(stamp_ns: int, n_bytes: int = 10) -> StampedFrame:
    return StampedFrame(stamp_ns, PIXELS, n_bytes)


pushes = st.lists(st.tuples(st.integers(0, 3 * NANOSECONDS), st.integers(0, 100)), min_size=1, max_size=40)


@given(pushes, st.floats(0, 5), st.integers(0, 400))
def test_bounds_hold_and_nothing_that_fits_is_lost(steps: list[tuple[int, int]], duration: float, limit: int):
    buffer = FrameBuffer(duration, limit)
    pushed: list[StampedFrame] = []
    stamp = 0
    for gap, size in steps:
        stamp += gap
        pushed.append(frame(stamp, size))
        buffer.push(pushed[-1])
        kept = pushed[len(pushed) - len(buffer) :]
        assert buffer.newest is pushed[-1]
        assert buffer.oldest is kept[0]
        assert buffer.n_bytes == sum(f.n_bytes for f in kept)
        if len(buffer) > 1:
            assert buffer.n_bytes <= limit
            assert stamp - kept[0].stamp_ns <= int(duration * NANOSECONDS)
        if len(buffer) < len(pushed):
            # Frames leave in order and do not come back, so only what is one step too long or too heavy was dropped.
            assert buffer.after(-1) == kept


@given(pushes, st.integers(-10, 10 * NANOSECONDS))
def test_search_by_stamp(steps: list[tuple[int, int]], wanted: int):
    buffer = FrameBuffer(1e6, 10**9)
    stamp, frames = 0, []
    for gap, size in steps:
        stamp += gap
        frames.append(frame(stamp, size))
        buffer.push(frames[-1])
    nearest = buffer.nearest(wanted)
    assert nearest is not None
    assert abs(nearest.stamp_ns - wanted) == min(abs(f.stamp_ns - wanted) for f in frames)
    assert buffer.after(wanted) == [f for f in frames if f.stamp_ns > wanted]


def test_older_frame_is_refused_and_changes_nothing():
    buffer = FrameBuffer(10, 1000)
    buffer.push(frame(5))
    with pytest.raises(ValueError, match="stamp 4 ns is older than the newest, 5 ns"):
        buffer.push(frame(4))
    assert len(buffer) == 1
    assert buffer.n_bytes == 10


def test_the_newest_stays_whatever_it_costs():
    buffer = FrameBuffer(0.0, 0)
    buffer.push(frame(1, 10**9))
    buffer.push(frame(2, 10**9))
    assert len(buffer) == 1
    assert buffer.newest.stamp_ns == 2


def test_clear_and_resize():
    buffer = FrameBuffer(10, 1000)
    for i in range(5):
        buffer.push(frame(i * NANOSECONDS))
    buffer.resize(2.0, 1000)
    assert [f.stamp for f in buffer.after(-1)] == [2.0, 3.0, 4.0]
    buffer.resize(2.0, 10)
    assert len(buffer) == 1
    buffer.clear()
    assert (len(buffer), buffer.n_bytes, buffer.newest, buffer.oldest, buffer.nearest(0)) == (0, 0, None, None, None)
