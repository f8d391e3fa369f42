"""The camera's most recent frames, so that a box can be applied to the frame it was drawn on."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import islice

from ros2_tracker.tracking.frame import Frame

NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True, eq=False)
class StampedFrame:
    """A frame with its time."""

    stamp_ns: int
    """When it was taken, nanoseconds of the camera's clock."""
    frame: Frame
    n_bytes: int
    """Memory that keeping it costs."""
    tag: object = None
    """The caller's own: handed back with every answer (the ROS node keeps the message's header here)."""

    @property
    def stamp(self) -> float:
        """When it was taken, seconds."""
        return self.stamp_ns / NANOSECONDS


class FrameBuffer:
    """Frames in the order of their stamps, bounded in time and memory; the newest always stays. Not thread-safe."""

    def __init__(self, duration_s: float, max_bytes: int) -> None:
        """Keep frames up to `duration_s` older than the newest, as long as they fit into `max_bytes`."""
        self._duration_ns = int(duration_s * NANOSECONDS)
        self._max_bytes = max_bytes
        self._frames: deque[StampedFrame] = deque()
        self.n_bytes = 0
        """Memory held, bytes."""

    def __len__(self) -> int:
        """Number of frames held."""
        return len(self._frames)

    @property
    def oldest(self) -> StampedFrame | None:
        """The oldest frame held, None when empty."""
        return self._frames[0] if self._frames else None

    @property
    def newest(self) -> StampedFrame | None:
        """The newest frame held, None when empty."""
        return self._frames[-1] if self._frames else None

    def resize(self, duration_s: float, max_bytes: int) -> None:
        """New bounds, effective at once."""
        self._duration_ns = int(duration_s * NANOSECONDS)
        self._max_bytes = max_bytes
        self._trim()

    def push(self, frame: StampedFrame) -> None:
        """Add a frame that is not older than the newest; ValueError otherwise."""
        if self._frames and frame.stamp_ns < self._frames[-1].stamp_ns:
            newest_ns = self._frames[-1].stamp_ns
            raise ValueError(f"frame stamp {frame.stamp_ns} ns is older than the newest, {newest_ns} ns")
        self._frames.append(frame)
        self.n_bytes += frame.n_bytes
        self._trim()

    def clear(self) -> None:
        """Forget all frames."""
        self._frames.clear()
        self.n_bytes = 0

    def nearest(self, stamp_ns: int) -> StampedFrame | None:
        """The frame whose stamp is closest, None when empty."""
        return min(self._frames, key=lambda f: abs(f.stamp_ns - stamp_ns), default=None)

    def after(self, stamp_ns: int) -> list[StampedFrame]:
        """The frames newer than a stamp, oldest first."""
        newer = sum(1 for f in self._frames if f.stamp_ns > stamp_ns)
        return list(islice(self._frames, len(self._frames) - newer, None))

    def _trim(self) -> None:
        while len(self._frames) > 1 and (
            self.n_bytes > self._max_bytes
            or self._frames[-1].stamp_ns - self._frames[0].stamp_ns > self._duration_ns
        ):
            self.n_bytes -= self._frames.popleft().n_bytes
