"""Causes of a loss: one set of signals each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ros2_tracker.tracking.causes import cause_of
from ros2_tracker.tracking.events import Reason
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.result import ReliabilitySignals

FINE = ReliabilitySignals(
    peak=0.8,
    psr=100.0,
    apce=150.0,
    motion_distance=0.5,
    margin=0.75,
    entropy=0.35,
    size_change=0.02,
    aspect_change=0.02,
    similarity_first=0.9,
    similarity_recent=0.95,
    sharpness=1.0,
    exposure=0.95,
    frozen_for=0.0,
)
GONE = replace(FINE, peak=0.05, margin=0.02, similarity_first=0.6, similarity_recent=0.3)
MIDDLE = Box(300.0, 200.0, 40.0, 40.0)


@pytest.mark.parametrize(
    ("changed", "expected", "cause"),
    [
        ({}, MIDDLE, Reason.OCCLUDED),
        ({"frozen_for": 0.2}, MIDDLE, Reason.BAD_IMAGE),
        ({"exposure": 0.0}, MIDDLE, Reason.BAD_IMAGE),
        ({"exposure": 0.8}, MIDDLE, Reason.OCCLUDED),
        ({"sharpness": 0.1, "similarity_recent": 0.85}, MIDDLE, Reason.BAD_IMAGE),
        ({"sharpness": 0.1}, MIDDLE, Reason.OCCLUDED),
        ({}, Box(625.0, 200.0, 40.0, 40.0), Reason.OUT_OF_VIEW),
        ({}, Box(-100.0, 200.0, 40.0, 40.0), Reason.OUT_OF_VIEW),
        ({"exposure": 0.0}, Box(625.0, 200.0, 40.0, 40.0), Reason.BAD_IMAGE),
        ({"peak": 0.6, "margin": 0.1}, MIDDLE, Reason.DISTRACTOR),
        ({"peak": 0.4, "margin": -0.2}, MIDDLE, Reason.DISTRACTOR),
        ({"peak": 0.7, "margin": 0.6, "similarity_first": 0.3}, MIDDLE, Reason.DRIFT),
        ({"peak": 0.7, "margin": 0.6, "similarity_first": 0.8}, MIDDLE, Reason.NONE),
        ({"peak": 0.4, "margin": 0.35}, MIDDLE, Reason.NONE),
    ],
)
def test_each_cause_has_its_signs(changed: dict[str, float], expected: Box, cause: Reason):
    assert cause_of(replace(GONE, **changed), FINE, expected, 640, 480) is cause


def test_what_was_so_before_the_fall_is_no_cause():
    night = replace(FINE, exposure=0.1, sharpness=0.2)
    assert cause_of(replace(GONE, exposure=0.09, sharpness=0.18), night, MIDDLE, 640, 480) is Reason.OCCLUDED


def test_target_that_was_never_reliable_has_causes_too():
    assert cause_of(replace(GONE, exposure=0.0), None, MIDDLE, 640, 480) is Reason.BAD_IMAGE
    assert cause_of(GONE, None, MIDDLE, 640, 480) is Reason.OCCLUDED
