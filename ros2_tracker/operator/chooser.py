"""Which of the camera's images to show: the newest that the tracker has answered, at a bounded rate.

A box is only ever drawn on the image it belongs to. So an image waits here, as the camera's own buffer, until its
answer comes. Where none comes it is shown without, after a while, or at once if no tracker answers at all.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from ros2_tracker.tracking.frame_buffer import StampedFrame

PATIENCE_S = 0.35
"""How long an image waits for its answer."""
_SILENT_S = 1.0
"""Without an answer for this long there is no tracker to wait for."""
_MAX_WAITING_BYTES = 192 * 1024 * 1024


@dataclass(slots=True)
class _Waiting:
    frame: StampedFrame
    arrived_s: float
    answered: bool = False


class FrameChooser:
    """Images come in from one thread, are taken out by another; times are monotonic seconds."""

    def __init__(self, max_rate: float) -> None:
        """At most `max_rate` images a second come out."""
        self._period_s = 1.0 / max_rate
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._overfull = False
        self._last_answer_s = -_SILENT_S
        self._next_s = 0.0
        self._changed = threading.Condition()
        self._closed = False

    def push(self, frame: StampedFrame, now_s: float) -> None:
        """A new image."""
        with self._changed:
            self._waiting.append(_Waiting(frame, now_s))
            self._bytes += frame.n_bytes
            while len(self._waiting) > 1 and self._bytes > _MAX_WAITING_BYTES:
                self._drop_oldest()
                self._overfull = True
            self._changed.notify()

    def answered(self, stamp_ns: int, now_s: float) -> None:
        """The tracker has said all it will about the image with this stamp, if it is here."""
        with self._changed:
            self._last_answer_s = now_s
            for waiting in reversed(self._waiting):
                if waiting.frame.stamp_ns == stamp_ns:
                    waiting.answered = True
                    # Older ones will not be shown any more.
                    while self._waiting[0] is not waiting:
                        self._drop_oldest()
                    self._changed.notify()
                    return

    def clear(self) -> None:
        """Forget all images."""
        with self._changed:
            self._waiting.clear()
            self._bytes = 0
            self._overfull = False

    def close(self) -> None:
        """Let `wait` return for good."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> bool:
        """Return when something has changed, or after the timeout; False once it is closed."""
        with self._changed:
            if not self._closed:
                self._changed.wait(timeout_s)
            return not self._closed

    def take(self, now_s: float) -> StampedFrame | None:
        """The image to show now, if there is one and the rate allows it; older ones are dropped."""
        with self._changed:
            if now_s < self._next_s:
                return None
            chosen = self._chosen(now_s)
            if chosen is None:
                return None
            while self._waiting[0] is not chosen:
                self._drop_oldest()
            self._drop_oldest()
            self._overfull = False
            # On a grid, so that a late image does not lower the rate; a pause is not made up for.
            self._next_s = max(self._next_s + self._period_s, now_s)
            return chosen.frame

    def _chosen(self, now_s: float) -> _Waiting | None:
        if not self._waiting:
            return None
        newest_first = list(reversed(self._waiting))
        for waiting in newest_first:
            if waiting.answered:
                return waiting
        if self._overfull or now_s - self._last_answer_s > _SILENT_S:
            return newest_first[0]
        return next((w for w in newest_first if now_s - w.arrived_s > PATIENCE_S), None)

    def _drop_oldest(self) -> None:
        self._bytes -= self._waiting.popleft().frame.n_bytes
