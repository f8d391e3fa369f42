"""Whether a box may start a target, and on which of the buffered frames: the one that it was drawn on."""

from __future__ import annotations

from ros2_tracker.tracking.events import InitRequest, Reason
from ros2_tracker.tracking.frame_buffer import NANOSECONDS, FrameBuffer, StampedFrame

MAX_ID_LENGTH = 128
# Stamps of one frame can differ in rounding between programs (float seconds, microseconds).
_STAMP_TOLERANCE_NS = 5_000_000
FUTURE_TOLERANCE_NS = 200_000_000
"""A box may overtake its own image on the way here; further ahead it is refused."""


class Refused(Exception):
    """A box that is not accepted."""

    def __init__(self, reason: Reason, text: str) -> None:
        """`text` tells the requester what is wrong, with the values."""
        super().__init__(text)
        self.reason = reason


def check_id(target_id: str) -> None:
    """Refused: it is too long, or has characters that cannot be printed. An empty one is given a name later."""
    if len(target_id) > MAX_ID_LENGTH or not (target_id == "" or target_id.isprintable()):
        raise Refused(
            Reason.ID_INVALID,
            f"id {target_id[:40]!r} ({len(target_id)} characters): at most {MAX_ID_LENGTH}, all printable",
        )


def is_due(request: InitRequest, newest: StampedFrame) -> bool:
    """Whether the request can be decided now: not while its image may still be on its way."""
    ahead = request.stamp_ns - newest.stamp_ns
    return not _STAMP_TOLERANCE_NS < ahead <= FUTURE_TOLERANCE_NS


def frame_of(request: InitRequest, buffer: FrameBuffer) -> StampedFrame:
    """The buffered frame that its box was drawn on, the newest where it has no stamp; Refused: it is not there."""
    newest, oldest = buffer.newest, buffer.oldest
    if newest is None or oldest is None:
        raise Refused(Reason.STAMP_TOO_OLD, "the frame buffer is empty")
    if request.stamp_ns == 0:
        return newest
    if request.stamp_ns > newest.stamp_ns + _STAMP_TOLERANCE_NS:
        ahead = (request.stamp_ns - newest.stamp_ns) / NANOSECONDS
        raise Refused(Reason.STAMP_IN_FUTURE, f"the box is {ahead:.3f} s newer than the newest image")
    if request.stamp_ns < oldest.stamp_ns - _STAMP_TOLERANCE_NS:
        behind = (newest.stamp_ns - request.stamp_ns) / NANOSECONDS
        span = (newest.stamp_ns - oldest.stamp_ns) / NANOSECONDS
        raise Refused(
            Reason.STAMP_TOO_OLD,
            f"the box is {behind:.3f} s older than the newest image, but the buffer reaches back {span:.3f} s",
        )
    found = buffer.nearest(request.stamp_ns)
    assert found is not None  # the buffer is not empty
    return found
