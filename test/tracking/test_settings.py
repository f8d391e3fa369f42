"""Settings refuse what cannot work, and name it."""

from __future__ import annotations

import math

import pytest

from ros2_tracker.tracking.settings import MotionSettings, ReliabilitySettings, SessionSettings


def test_defaults_are_valid():
    SessionSettings()


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
@pytest.mark.parametrize("name", ["tracking_above", "uncertain_below", "lost_below"])
def test_threshold_out_of_range_is_named(name: str, value: float):
    with pytest.raises(ValueError, match=rf"reliability\.{name} is {value}"):
        ReliabilitySettings(**{name: value})


@pytest.mark.parametrize("value", [-0.1, 61.0, math.nan])
@pytest.mark.parametrize("name", ["uncertain_after", "lost_after", "recover_after"])
def test_duration_out_of_range_is_named(name: str, value: float):
    with pytest.raises(ValueError, match=rf"reliability\.{name} is {value}"):
        ReliabilitySettings(**{name: value})


@pytest.mark.parametrize(
    "thresholds",
    [
        {"lost_below": 0.5, "uncertain_below": 0.4},
        {"uncertain_below": 0.7, "tracking_above": 0.6},
    ],
)
def test_thresholds_out_of_order_are_refused(thresholds: dict[str, float]):
    with pytest.raises(ValueError, match="ordered lost_below <= uncertain_below <= tracking_above"):
        ReliabilitySettings(**thresholds)


@pytest.mark.parametrize("name", ["acceleration", "size_rate", "position_noise", "size_noise"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_motion_noise_must_be_positive(name: str, value: float):
    with pytest.raises(ValueError, match=rf"motion\.{name} is {value}"):
        MotionSettings(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_targets", 0),
        ("max_targets", 65),
        ("max_image_age", -1.0),
        ("max_image_age", math.nan),
        ("frame_buffer_duration", -1.0),
        ("frame_buffer_duration", 601.0),
        ("frame_buffer_bytes", -1),
    ],
)
def test_session_value_out_of_range_is_named(name: str, value: float):
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        SessionSettings(**{name: value})
