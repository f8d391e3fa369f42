"""Boxes in shares of the image, 0 to 1 from its left and upper edge, as MAVLink's ground stations draw them.

`MAV_CMD_CAMERA_TRACK_POINT`, `…_RECTANGLE` and `MAV_CMD_CAMERA_STOP_TRACKING` reach ROS as
mavros_msgs/srv/GimbalManagerCameraTrack.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

XYWH = tuple[float, float, float, float]


class MavResult(IntEnum):
    """MAV_RESULT of MAVLink's common message set, as far as it is answered."""

    ACCEPTED = 0
    TEMPORARILY_REJECTED = 1
    DENIED = 2
    UNSUPPORTED = 3


class TrackMode(IntEnum):
    """`mode` of GimbalManagerCameraTrack."""

    POINT = 0
    RECTANGLE = 1
    STOP = 2


class UnsupportedModeError(ValueError):
    """A mode that is none of TrackMode."""


@dataclass(frozen=True, slots=True)
class TrackCommand:
    """What a GimbalManagerCameraTrack asks for."""

    mode: TrackMode
    box: XYWH = (0.0, 0.0, 0.0, 0.0)
    """RECTANGLE: (x, y, w, h) in shares of the image."""
    point: tuple[float, float] = (0.0, 0.0)
    """POINT: (x, y) in shares of the image."""
    radius: float = 0.0
    """POINT: in shares of the image's width; 0: not given."""


def from_corners(left: float, top: float, right: float, bottom: float) -> XYWH:
    """(x, y, w, h) in shares of the image, from two corners.

    Raises:
        ValueError: a corner is not within the image, or the second is not to the right of and below the first.

    """
    for x, y in ((left, top), (right, bottom)):
        check_inside(x, y)
    if not (right > left and bottom > top):
        raise ValueError(
            f"the lower right corner ({right:g}, {bottom:g}) is not to the right of and below the upper left one "
            f"({left:g}, {top:g})"
        )
    return (left, top, right - left, bottom - top)


def check_inside(x: float, y: float) -> None:
    """Accept a point within the image, its edges included; ValueError naming the values otherwise."""
    if not (0.0 <= x <= 1.0 and 0.0 <= y <= 1.0):  # not so for NaN either
        raise ValueError(f"({x:g}, {y:g}) is not within 0 to 1: corners are shares of the image, not pixels")


def in_pixels(box: XYWH, image_width: int, image_height: int) -> XYWH:
    """(x, y, w, h) px of a box in shares of the image."""
    x, y, w, h = box
    return (x * image_width, y * image_height, w * image_width, h * image_height)


def from_camera_track(request: Any) -> TrackCommand:
    """What a mavros_msgs/srv/GimbalManagerCameraTrack request asks for.

    Raises:
        UnsupportedModeError: its mode is unknown.
        ValueError: its point or rectangle is none.

    """
    try:
        mode = TrackMode(request.mode)
    except ValueError:
        known = ", ".join(f"{m.value} ({m.name})" for m in TrackMode)
        raise UnsupportedModeError(f"camera track mode {request.mode} is none of {known}") from None
    if mode is TrackMode.RECTANGLE:
        corners = (request.top_left_x, request.top_left_y, request.bottom_right_x, request.bottom_right_y)
        return TrackCommand(mode, box=from_corners(*corners))
    if mode is TrackMode.POINT:
        check_inside(request.x, request.y)
        # Ground stations leave it out as 0 or NaN.
        radius = 0.0 if math.isnan(request.radius) else request.radius
        if not 0.0 <= radius <= 1.0:
            raise ValueError(f"radius {radius:g} is not within 0 to 1: it is a share of the image's width, not pixels")
        return TrackCommand(mode, point=(request.x, request.y), radius=radius)
    return TrackCommand(mode)
