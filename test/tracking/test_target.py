"""Following one target, with a network that finds bright blobs exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle

import numpy as np
import pytest

from ros2_tracker.engines.base import Engines, NamedArrays
from ros2_tracker.tracking.frame import ArrayFrame
from ros2_tracker.tracking.geometry import Box, BoxError, iou
from ros2_tracker.tracking.network import TrackingNetwork
from ros2_tracker.tracking.reliability import ReliabilityModel
from ros2_tracker.tracking.result import TrackState
from ros2_tracker.tracking.settings import RecoverySettings, ReliabilitySettings, TargetSettings
from ros2_tracker.tracking.target import Target

DT = 1 / 30
BOX = (100.0, 80.0, 24.0, 20.0)
# A camera that gives the same image again is taken to be stuck.
_FLICKER = cycle((40, 41, 42))


def picture(x: float | None, y: float = 80.0) -> ArrayFrame:
    """A dark 320x240 image with a bright 24x20 blob, or without one."""
    image = np.full((240, 320, 3), next(_FLICKER), np.uint8)
    if x is not None:
        image[max(round(y), 0) : round(y) + 20, max(round(x), 0) : max(round(x) + 24, 0)] = 250
    return ArrayFrame(image)


@pytest.fixture
def target(blob_network: TrackingNetwork) -> Target:
    return Target(blob_network, TargetSettings(), picture(100), BOX, 0.0)


def test_moving_blob_is_followed_and_its_velocity_learnt(target: Target):
    for i in range(1, 31):
        result = target.update(picture(100 + 3 * i), i * DT)
        assert result.state is TrackState.TRACKING
        assert iou(Box(*result.box), Box(100 + 3 * i, 80, 24, 20)) > 0.8
    assert result.velocity == pytest.approx((90.0, 0.0), abs=8.0)
    assert result.previous_state is TrackState.TRACKING
    assert result.candidate == result.box
    assert result.covariance.shape == (4, 4)


def test_vanished_target_becomes_uncertain_then_lost_and_comes_back(target: Target):
    seen = [target.update(picture(100), DT)]
    for i in range(2, 32):
        seen.append(target.update(picture(None), i * DT))
    states = [r.state for r in seen]
    assert states[0] is TrackState.TRACKING
    assert states == sorted(states), "never back while there is nothing to see"
    assert states[-1] is TrackState.LOST
    assert seen[-1].box is None
    assert len(seen[-1].candidate) == 4
    changes = [(r.previous_state, r.state) for r in seen if r.state is not r.previous_state]
    assert changes == [(TrackState.TRACKING, TrackState.UNCERTAIN), (TrackState.UNCERTAIN, TrackState.LOST)]

    back = [target.update(picture(106), i * DT) for i in range(32, 42)]
    found = next(r for r in back if r.state is TrackState.TRACKING)
    assert found.previous_state is TrackState.LOST
    assert found.not_tracking_for == pytest.approx(1.0, abs=0.2)
    assert iou(Box(*back[-1].box), Box(106, 80, 24, 20)) > 0.8


def test_doubtful_box_does_not_move_the_search(target: Target):
    for i in range(1, 6):
        target.update(picture(100), i * DT)
    searched = target.box
    target.update(picture(None), 6 * DT)
    assert target.box == searched


def lose(target: Target, first: int = 1) -> int:
    """Frames without the blob until it is LOST; returns the number of the next frame."""
    for i in range(first, first + 60):
        if target.update(picture(None), i * DT).state is TrackState.LOST:
            return i + 1
    raise AssertionError("never lost")


def test_lost_target_is_found_elsewhere_in_the_image_and_keeps_its_size(target: Target):
    i = lose(target)
    for _ in range(10):
        target.update(picture(None), i * DT)
        i += 1
    back = i
    while target.state is TrackState.LOST:
        assert i < back + 30, "not found within a second"
        result = target.update(picture(270, 200), i * DT)
        i += 1
    assert result.state is TrackState.TRACKING
    assert result.not_tracking_for == pytest.approx((i - 2) * DT, abs=0.2)
    result = target.update(picture(270, 200), i * DT)
    assert iou(Box(*result.box), Box(270, 200, 24, 20)) > 0.7


def test_what_a_lost_target_costs_is_bounded(target: Target):
    for i in range(1, 6):
        target.update(picture(100), i * DT)
    i = lose(target, 6)
    windows = target.settings.recovery.windows_per_image
    for x in [None] * 40 + [270] * 40:
        # A candidate's likeness is one more.
        assert 1 <= len(target.ask(picture(x, 200), i * DT).looks) <= 2 + windows
        target.update(picture(x, 200), i * DT)
        i += 1
    assert len(target.ask(picture(270, 200), i * DT).looks) == 1, "found again: as before"


def test_search_stands_still_while_the_camera_repeats_its_image(target: Target):
    def two_blobs() -> ArrayFrame:
        frame = picture(100)
        frame.pixels[200:220, 270:294] = 250
        return frame

    for i in range(1, 10):
        target.update(two_blobs(), i * DT)
    stuck = two_blobs()
    for i in range(10, 50):
        result = target.update(stuck, i * DT)
        assert iou(target.box, Box(100, 80, 24, 20)) > 0.5, "not the other one, which is nothing new"
    assert result.state is TrackState.LOST
    back = [target.update(picture(100), i * DT) for i in range(50, 60)]
    assert back[-1].state is TrackState.TRACKING
    assert iou(Box(*back[-1].box), Box(100, 80, 24, 20)) > 0.7


def test_find_that_does_not_last_is_no_recovery(target: Target):
    i = lose(target)
    for _ in range(20):
        for x in (270, 270, None, None, None):
            assert target.update(picture(x, 200), i * DT).state is TrackState.LOST
            i += 1


@pytest.mark.parametrize(("own", "told"), [(200, TrackState.UNCERTAIN), (180, TrackState.LOST)])
def test_find_that_is_not_like_what_was_lost_is_a_guess_at_most_until_the_target_is_back(
    blob_network: TrackingNetwork, blob_engine, own: int, told: TrackState
):
    """Of a brightness that counts as the same colour it is told as a guess, else not at all."""

    class AtLeastAsBright(type(blob_engine)):
        """Finds a blob that is not darker than the template's: a brighter one is found, not the other way round."""

        def run(self, targets: Sequence[NamedArrays]) -> list[NamedArrays]:
            answers = super().run(targets)
            for inputs, answer in zip(targets, answers, strict=True):
                if int(inputs["search"].max()) < int(inputs["template"].max()) - 20:
                    answer["score_map"] = answer["score_map"] * 0.25
            return answers

    network = TrackingNetwork(blob_network.variant, Engines(AtLeastAsBright()))

    def picture_of(brightness: int | None, x: float = 270.0, y: float = 200.0) -> ArrayFrame:
        frame = picture(x if brightness else None, y)
        frame.pixels[frame.pixels == 250] = brightness or 250
        return frame

    target = Target(network, TargetSettings(), picture_of(own, 100, 80), BOX, 0.0)
    stamps = (i * DT for i in range(1, 1000))
    for _ in range(20):
        assert target.update(picture_of(own, 100, 80), next(stamps)).state is TrackState.TRACKING
    while target.state is not TrackState.LOST:
        target.update(picture_of(None), next(stamps))
    brighter = [target.update(picture_of(250), next(stamps)) for _ in range(90)]
    assert TrackState.TRACKING not in {result.state for result in brighter}
    assert brighter[-1].state is told
    assert iou(Box(*brighter[-1].candidate), Box(270, 200, 24, 20)) > 0.5, "where it is, for whoever wants to look"
    assert target.update(picture_of(None), next(stamps)).state is TrackState.LOST
    back = [target.update(picture_of(own), next(stamps)) for _ in range(45)]
    assert back[-1].state is TrackState.TRACKING
    assert iou(Box(*back[-1].box), Box(270, 200, 24, 20)) > 0.5


def test_without_recovery_it_is_looked_for_where_it_was(blob_network: TrackingNetwork):
    settings = TargetSettings(recovery=RecoverySettings(enabled=False))
    target = Target(blob_network, settings, picture(100), BOX, 0.0)
    i = lose(target)
    for _ in range(60):
        assert target.update(picture(270, 200), i * DT).state is TrackState.LOST
        i += 1
    for _ in range(10):
        result = target.update(picture(104), i * DT)
        i += 1
    assert result.state is TrackState.TRACKING


def test_recovery_can_be_switched_while_lost(target: Target):
    i = lose(target)
    for enabled in (False, True):
        target.settings = TargetSettings(recovery=RecoverySettings(enabled=enabled))
        for _ in range(3):
            assert target.update(picture(None), i * DT).state is TrackState.LOST
            i += 1


def test_failed_update_changes_nothing(target: Target, blob_engine):
    target.update(picture(103), DT)
    before = (target.box, target.state)
    blob_engine.broken = True
    with pytest.raises(FloatingPointError):
        target.update(picture(130), 2 * DT)
    assert (target.box, target.state) == before
    blob_engine.broken = False
    undisturbed = target.update(picture(106), 3 * DT)
    assert undisturbed.state is TrackState.TRACKING


@pytest.mark.parametrize("jump", [-3600.0, 3600.0, 0.0])
def test_jump_in_time_does_not_lose_the_target(target: Target, jump: float):
    for i in range(1, 11):
        target.update(picture(100 + i), i * DT)
    stamp = 10 * DT + jump
    result = target.update(picture(111), stamp)
    assert result.state is TrackState.TRACKING
    assert iou(Box(*result.box), Box(111, 80, 24, 20)) > 0.8
    assert all(abs(v) < 500 for v in result.velocity)
    assert target.update(picture(112), stamp + DT).state is TrackState.TRACKING


def test_target_may_leave_through_the_border(target: Target):
    for i in range(1, 60):
        result = target.update(picture(100 - 3 * i), i * DT)
        assert np.isfinite(result.candidate).all()
    assert result.state is TrackState.LOST


def test_size_changes_slowly(blob_network: TrackingNetwork):
    target = Target(blob_network, TargetSettings(), picture(100), (100.0, 80.0, 48.0, 40.0), 0.0)
    weight = blob_network.variant.size_update
    result = target.update(picture(112, 90), DT)
    assert result.box[2] == pytest.approx(weight * 24 + (1 - weight) * 48, abs=1.0)


def test_new_settings_take_effect_on_the_next_frame(target: Target):
    target.settings = TargetSettings(reliability=ReliabilitySettings(uncertain_after=0.0, lost_after=0.0))
    assert target.update(picture(None), DT).state is TrackState.LOST


def test_reliability_is_that_of_the_networks_model(blob_network: TrackingNetwork):
    blob_network.reliability = replace(blob_network.reliability, bias=-100.0)
    target = Target(blob_network, TargetSettings(), picture(100), BOX, 0.0)
    assert isinstance(blob_network.reliability, ReliabilityModel)
    assert target.update(picture(100), DT).reliability < 1e-6


def test_box_that_cannot_be_followed_is_refused(blob_network: TrackingNetwork):
    with pytest.raises(BoxError, match="500"):
        Target(blob_network, TargetSettings(), picture(100), (500.0, 80.0, 24.0, 20.0), 0.0)
