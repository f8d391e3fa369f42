"""Boxes in shares of the image: what MAVLink's ground stations send, and what of it is refused."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace
from typing import Any

import pytest

from ros2_tracker.ros.init_normalized import (
    TrackMode,
    UnsupportedModeError,
    from_camera_track,
    from_corners,
    in_pixels,
)

NAN = math.nan


def camera_track(mode: int, **values: float) -> Any:
    """The fields of mavros_msgs/srv/GimbalManagerCameraTrack's request, unset ones 0 as in the message."""
    names = ("x", "y", "radius", "top_left_x", "top_left_y", "bottom_right_x", "bottom_right_y")
    return SimpleNamespace(mode=mode, **{**dict.fromkeys(names, 0.0), **values})


def test_corners_become_pixels():
    share = from_corners(0.25, 0.5, 0.75, 1.0)
    assert in_pixels(share, 640, 480) == (160.0, 240.0, 320.0, 240.0)
    assert in_pixels(from_corners(0.0, 0.0, 1.0, 1.0), 640, 480) == (0.0, 0.0, 640.0, 480.0)


@pytest.mark.parametrize(
    ("corners", "text"),
    [
        ((100.0, 50.0, 200.0, 150.0), "(100, 50) is not within 0 to 1: corners are shares of the image, not pixels"),
        ((-0.01, 0.0, 0.5, 0.5), "(-0.01, 0) is not within 0 to 1"),
        ((0.0, 0.0, 0.5, 1.01), "(0.5, 1.01) is not within 0 to 1"),
        ((NAN, 0.0, 0.5, 0.5), "(nan, 0) is not within 0 to 1"),
        ((0.0, 0.0, 0.5, NAN), "(0.5, nan) is not within 0 to 1"),
        ((0.0, 0.0, math.inf, 0.5), "(inf, 0.5) is not within 0 to 1"),
        ((0.5, 0.5, 0.2, 0.8), "(0.2, 0.8) is not to the right of and below the upper left one (0.5, 0.5)"),
        ((0.5, 0.8, 0.7, 0.2), "is not to the right of and below"),
        ((0.5, 0.5, 0.5, 0.8), "is not to the right of and below"),
    ],
)
def test_refusal_of_corners_names_them(corners: tuple[float, float, float, float], text: str):
    with pytest.raises(ValueError, match=re.escape(text)):
        from_corners(*corners)


def test_camera_track_commands():
    rectangle = camera_track(1, top_left_x=0.1, top_left_y=0.2, bottom_right_x=0.4, bottom_right_y=0.8)
    assert from_camera_track(rectangle).box == pytest.approx((0.1, 0.2, 0.3, 0.6))
    point = from_camera_track(camera_track(0, x=0.5, y=0.25, radius=0.1))
    assert (point.mode, point.point, point.radius) == (TrackMode.POINT, (0.5, 0.25), 0.1)
    assert from_camera_track(camera_track(0, x=0.5, y=0.25, radius=NAN)).radius == 0.0
    # STOP takes no arguments, whatever they hold.
    assert from_camera_track(camera_track(2, x=NAN, radius=-3.0)).mode is TrackMode.STOP


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (camera_track(1), "is not to the right of and below"),
        (camera_track(1, bottom_right_x=640.0, bottom_right_y=480.0), "not pixels"),
        (camera_track(0, x=320.0, y=0.5), "(320, 0.5) is not within 0 to 1"),
        (camera_track(0, x=NAN, y=0.5), "(nan, 0.5) is not within 0 to 1"),
        (camera_track(0, x=0.5, y=0.5, radius=-0.1), "radius -0.1 is not within 0 to 1"),
        (camera_track(0, x=0.5, y=0.5, radius=40.0), "radius 40 is not within 0 to 1"),
    ],
)
def test_refusal_of_a_command_names_its_values(request_: Any, text: str):
    with pytest.raises(ValueError, match=re.escape(text)):
        from_camera_track(request_)


def test_unknown_mode_is_told_from_bad_values():
    with pytest.raises(UnsupportedModeError, match=re.escape("mode 7 is none of 0 (POINT), 1 (RECTANGLE), 2 (STOP)")):
        from_camera_track(camera_track(7))
