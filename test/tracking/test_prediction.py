"""What is said of a target without looking: less and less."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from ros2_tracker.tracking import motion
from ros2_tracker.tracking.geometry import Box, iou
from ros2_tracker.tracking.network import TrackingNetwork
from ros2_tracker.tracking.prediction import predicted
from ros2_tracker.tracking.result import TrackResult, TrackState
from ros2_tracker.tracking.settings import MotionSettings, ReliabilitySettings, TargetSettings
from ros2_tracker.tracking.tracker import Tracker

SETTINGS = TargetSettings()
VELOCITY = (60.0, 30.0)


@pytest.fixture
def last(blob_network: TrackingNetwork) -> TrackResult:
    """The answer to the 30th image of a blob of constant velocity, at 1 s."""
    tracker = Tracker(blob_network)
    for index in range(31):
        image = np.full((240, 320, 3), 40, np.uint8)
        x, y = round(60 + VELOCITY[0] * index / 30), round(80 + VELOCITY[1] * index / 30)
        image[y : y + 24, x : x + 24] = 250
        if index == 0:
            tracker.init(image, (x, y, 24, 24), 0.0)
        else:
            result = tracker.update(image, index / 30)
    return result


def test_it_moves_on_and_reliability_falls_with_the_growing_uncertainty(last: TrackResult):
    steps = [predicted(last, dt, SETTINGS) for dt in (0.001, 0.03, 0.1, 0.3, 1.0)]
    for dt, step in zip((0.001, 0.03, 0.1, 0.3, 1.0), steps, strict=True):
        assert step.estimate == motion.predict(last.estimate, dt, SETTINGS.motion)
        assert iou(step.estimate.box, Box(120 + VELOCITY[0] * dt, 110 + VELOCITY[1] * dt, 24, 24)) > 0.6
    assert last.reliability >= steps[0].reliability
    assert steps[0].reliability == pytest.approx(last.reliability, abs=0.01)
    for earlier, later in pairwise(steps):
        assert earlier.reliability > later.reliability > 0.0
    assert [steps[0].state, steps[-1].state] == [TrackState.TRACKING, TrackState.UNCERTAIN]


def test_reliability_is_the_share_of_random_motions_that_still_overlap(last: TrackResult):
    """Against a simulation of what the motion model says of itself, for a measurement that is right."""
    settings = MotionSettings()
    state = motion.initial_state(Box(100, 100, 40, 40), settings)
    for _ in range(30):
        measured = Box(100, 100, 40, 40)
        noise = motion.measurement_noise(measured, 1.0, settings)
        state = motion.correct(motion.predict(state, 1 / 30, settings), measured, noise)
    rng = np.random.default_rng(1)
    sure = replace(SETTINGS, motion=settings)
    for dt in (0.1, 0.2, 0.3, 0.5):
        ahead = motion.predict(state, dt, settings)
        deviation = np.sqrt([ahead.x.position_variance, ahead.y.position_variance])
        centres = ahead.mean[:2] + deviation * rng.normal(size=(4000, 2))
        share = np.mean([iou(ahead.box, Box.from_center(x, y, 40, 40)) >= 0.5 for x, y in centres])
        certain = predicted(replace(last, estimate=state, reliability=1.0), dt, sure)
        assert certain.reliability == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("dt", [0.0, -0.1, 1.001])
def test_nothing_is_said_of_the_past_or_of_what_lies_too_far_ahead(last: TrackResult, dt: float):
    assert predicted(last, dt, SETTINGS) is None


@pytest.mark.parametrize("state", [TrackState.UNCERTAIN, TrackState.LOST])
def test_without_an_image_a_target_is_neither_found_nor_lost(last: TrackResult, state: TrackState):
    doubtful = replace(last, state=state, reliability=0.9)
    assert {predicted(doubtful, dt, SETTINGS).state for dt in (0.01, 0.5, 1.0)} == {state}
    eager = replace(SETTINGS, reliability=ReliabilitySettings(lost_below=0.4))
    assert predicted(replace(last, reliability=0.1), 0.5, eager).state is TrackState.UNCERTAIN
