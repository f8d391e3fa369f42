"""Why a target is no longer TRACKING, where the signals tell."""

from __future__ import annotations

from ros2_tracker.tracking.events import Reason
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.result import ReliabilitySignals

# Thresholds were set on made disappearances; docs/reliability.md has the confusion table.
# A camera that repeats an image for longer is stuck, s.
_FROZEN = 0.1
# Shares of what they were before the fall.
_DARKER, _BLURRED, _OTHER_COLOURS = 0.5, 0.35, 0.6
# A blurred target still looks like itself; another place with less detail does not.
_SAME = 0.7
# Share of the expected box that is in the image.
_IN_VIEW = 0.6
# A second mode of the score map this high is a look-alike, unless the best one is that much higher.
_SECOND, _CLEARLY_HIGHER = 0.3, 0.25
# The network is sure of what it found, although reliability is not; or it sees nothing like the target.
_SURE, _NOTHING = 0.5, 0.3


def cause_of(
    now: ReliabilitySignals, before: ReliabilitySignals | None, expected: Box, width: int, height: int
) -> Reason:
    """What probably happened; NONE when the signals do not tell.

    Args:
        now: signals of the frame in which the state fell.
        before: of the last frame of high reliability; None if there was none.
        expected: where the motion model has the target now, px.
        width: of the image, px.
        height: of the image, px.

    """
    exposure, sharpness, colours = (
        (1.0, 1.0, 1.0) if before is None else (before.exposure, before.sharpness, before.similarity_first)
    )
    blurred = now.sharpness < _BLURRED * sharpness and now.similarity_recent >= _SAME
    if now.frozen_for >= _FROZEN or now.exposure < _DARKER * exposure or blurred:
        return Reason.BAD_IMAGE
    if _share_in_view(expected, width, height) < _IN_VIEW:
        return Reason.OUT_OF_VIEW
    if now.peak - now.margin >= _SECOND and now.margin < _CLEARLY_HIGHER:
        return Reason.DISTRACTOR
    if now.peak >= _SURE and now.similarity_first < _OTHER_COLOURS * colours:
        return Reason.DRIFT
    # Where it should be, in a good image, is something else.
    return Reason.OCCLUDED if now.peak < _NOTHING else Reason.NONE


def _share_in_view(box: Box, width: int, height: int) -> float:
    """Share of a box's area that is inside the image."""
    w = min(box.x + box.w, width) - max(box.x, 0.0)
    h = min(box.y + box.h, height) - max(box.y, 0.0)
    return max(w, 0.0) * max(h, 0.0) / (box.w * box.h)
