"""Settings refuse what cannot work, and name it."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest

from ros2_tracker.models.variant import MOTION_NOISE, load_variant
from ros2_tracker.tracking.settings import (
    MotionSettings,
    ReliabilitySettings,
    SessionSettings,
    TargetSettings,
    default_settings,
    target_settings,
)


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


def test_overrides_change_what_they_name_and_nothing_else():
    base = TargetSettings(motion=MotionSettings(acceleration=2.0))
    changed = target_settings({"reliability.lost_after": "0.6", "motion.size_rate": 1}, base)
    assert changed == replace(
        base,
        reliability=ReliabilitySettings(lost_after=0.6),
        motion=MotionSettings(acceleration=2.0, size_rate=1.0),
    )


def test_thresholds_that_only_fit_together_can_be_changed_together():
    changed = target_settings({"reliability.tracking_above": "0.45", "reliability.uncertain_below": "0.45"})
    assert changed.reliability.tracking_above == changed.reliability.uncertain_below == 0.45


@pytest.mark.parametrize("group", [f.name for f in fields(TargetSettings)])
def test_every_setting_can_be_named_and_keeps_its_type(group: str):
    held = getattr(TargetSettings(), group)
    for each in fields(held):
        value = getattr(held, each.name)
        for given in (value, str(value)):
            found = getattr(getattr(target_settings({f"{group}.{each.name}": given}), group), each.name)
            assert found == value
            assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("reliability.lost_afer", "1", "no setting reliability.lost_afer: is reliability.lost_after meant"),
        ("zoom", "1", "no setting zoom: there are reliability.tracking_above"),
        ("reliability.lost_after", "soon", "reliability.lost_after is 'soon', must be a number"),
        ("reliability.lost_after", True, "reliability.lost_after is True, must be a number"),
        ("reliability.lost_after", "61", "reliability.lost_after is 61.0, must be within"),
        ("reliability.lost_below", "0.55", "must be ordered"),
    ],
)
def test_overrides_that_cannot_be_are_named(name: str, value: str | bool, message: str):
    with pytest.raises(ValueError, match=message):
        target_settings({name: value})


def test_a_model_can_bring_its_own_noise_of_motion():
    assert {f.name for f in fields(MotionSettings)} == set(MOTION_NOISE)
    variant = replace(load_variant("default"), motion={"acceleration": 3.0})
    assert default_settings(variant) == TargetSettings(motion=MotionSettings(acceleration=3.0))
    # What is set by hand stands beside the model's, and above it.
    changed = target_settings({"motion.size_rate": 1.0}, default_settings(variant))
    assert changed.motion == MotionSettings(acceleration=3.0, size_rate=1.0)
    assert target_settings({"motion.acceleration": 12.0}, default_settings(variant)).motion == MotionSettings()
