"""The follow-me example's control law: limits, signs, zero when it must be, ramps. No ROS."""

from __future__ import annotations

import math
from dataclasses import fields
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.follow_me.control import (
    STOP,
    BadStatus,
    Command,
    Fault,
    Follower,
    FollowSettings,
    Sighting,
)
from examples.follow_me.sighting import Camera, sighting_of
from ros2_tracker.tracking.result import TrackState

TRACKING, UNCERTAIN, LOST = TrackState.TRACKING, TrackState.UNCERTAIN, TrackState.LOST
PERIOD_S = 1.0 / 30.0
ME = ("me", 1)

angles = st.floats(-3.2, 3.2)
rates = st.floats(-1e3, 1e3)
sizes = st.floats(1e-4, 3.0)
states = st.sampled_from(list(TrackState))


@st.composite
def any_settings(draw: st.DrawFn) -> FollowSettings:
    """Every setting anywhere in its range."""
    ranges = {f.name: (f.metadata["low"], f.metadata["high"]) for f in fields(FollowSettings)}
    return FollowSettings(**{name: draw(st.floats(*ends)) for name, ends in ranges.items()})


@st.composite
def histories(draw: st.DrawFn) -> list[Sighting]:
    """Sightings one image after the other, of up to two targets, some of them predicted."""
    stamp, sightings = 10.0, []
    for _ in range(draw(st.integers(1, 12))):
        stamp += draw(st.sampled_from([0.0, PERIOD_S, 0.2, 0.9]))
        sightings.append(
            Sighting(
                ("me", draw(st.integers(1, 2))), stamp, draw(states), draw(st.booleans()),
                draw(angles), draw(angles), draw(angles), draw(rates), draw(rates), draw(sizes),
            )
        )  # fmt: skip
    return sightings


def played(follower: Follower, sightings: list[Sighting]) -> list[Command]:
    """The commands, each sighting seen the moment it was taken; a refusal stops, as in the node."""
    commands = []
    for sighting in sightings:
        try:
            commands.append(follower.follow(sighting, sighting.stamp))
        except BadStatus:
            commands.append(follower.restart())
    return commands


def steady(
    state: TrackState = TRACKING, begin: float = 10.0, seconds: float = 3.0, **where: float
) -> list[Sighting]:
    """The same sighting at the camera's rate."""
    return [Sighting(ME, begin + i * PERIOD_S, state, **where) for i in range(round(seconds / PERIOD_S))]


# -- limits and signs -----------------------------------------------------------------------------------------------


@given(any_settings(), histories())
def test_no_command_is_beyond_its_limits_or_not_a_number(law: FollowSettings, sightings: list[Sighting]):
    follower = Follower(law)
    for command in played(follower, sightings):
        assert -law.max_backward <= command.forward <= law.max_forward
        assert abs(command.climb) <= law.max_climb
        assert abs(command.yaw_rate) <= law.max_yaw_rate
        assert 0.0 <= follower.authority <= 1.0


@given(any_settings(), histories())
def test_every_lost_commands_zero_at_once(law: FollowSettings, sightings: list[Sighting]):
    for sighting, command in zip(sightings, played(Follower(law), sightings), strict=True):
        if sighting.state is LOST:
            assert command == STOP


@given(any_settings(), histories())
def test_nothing_moves_from_lost_until_tracking(law: FollowSettings, sightings: list[Sighting]):
    """A find that is UNCERTAIN may be somebody else."""
    target, lost = None, False
    for sighting, command in zip(sightings, played(Follower(law), sightings), strict=True):
        lost = sighting.state is LOST or (lost and sighting.target == target and sighting.state is not TRACKING)
        target = sighting.target
        if lost:
            assert command == STOP


@given(any_settings(), histories())
def test_uncertain_never_gets_more_than_its_share(law: FollowSettings, sightings: list[Sighting]):
    for sighting, command in zip(sightings, played(Follower(law), sightings), strict=True):
        if sighting.state is UNCERTAIN:
            assert abs(command.yaw_rate) <= law.uncertain_share * law.max_yaw_rate
            assert abs(command.climb) <= law.uncertain_share * law.max_climb
            assert abs(command.forward) <= law.uncertain_share * max(law.max_forward, law.max_backward)


@given(st.floats(0.01, 1.5), st.floats(0.01, 1.5), st.floats(1.05, 5.0))
def test_it_turns_climbs_and_goes_towards_the_target(azimuth: float, elevation: float, ratio: float):
    first = steady(seconds=0.1, size=0.1)
    begin = first[-1].stamp + PERIOD_S
    for side in (1.0, -1.0):
        follower = Follower(FollowSettings())
        played(follower, first)
        where = {"azimuth": side * azimuth, "elevation": side * elevation, "size": 0.1 * ratio**-side}
        command = follower.follow(Sighting(ME, begin, TRACKING, **where), begin)
        assert command.yaw_rate * side > 0.0
        assert command.climb * side > 0.0
        assert command.forward * side > 0.0


def test_nothing_goes_to_the_side_or_backwards_for_a_target_in_its_place():
    assert played(Follower(FollowSettings()), steady(size=0.1))[-1] == STOP


def test_it_turns_before_it_goes():
    law = FollowSettings(target_size=1.0, distance=5.0)
    behind = played(Follower(law), steady(azimuth=2.5, size=0.1))[-1]
    assert behind.forward == 0.0
    assert behind.yaw_rate == law.max_yaw_rate


def test_a_known_size_gives_the_distance():
    law = FollowSettings(target_size=2.0, distance=10.0, forward_gain=0.5)
    # 2 m seen from 11 m.
    assert played(Follower(law), steady(size=2.0 / 11.0))[-1].forward == pytest.approx(0.5)
    assert played(Follower(law), steady(size=2.0 / 9.0))[-1].forward == pytest.approx(-0.5)


def test_along_and_across_the_line_of_sight_do_not_disturb_each_other():
    law = FollowSettings(
        target_size=1.0, distance=10.0, feed_forward=0.0, lead=0.0, max_forward=50.0, max_backward=50.0, max_climb=50.0
    )
    far = played(Follower(law), steady(size=0.08, depression=0.7))[-1]
    # 2.5 m too far: down the line of sight.
    assert (far.forward, far.climb) == pytest.approx((0.6 * 2.5 * math.cos(0.7), -0.6 * 2.5 * math.sin(0.7)))
    high = played(Follower(law), steady(size=0.1, depression=0.7, elevation=0.2))[-1]
    # Above the axis: across it, up and forward, until it is seen from further above.
    assert (high.forward, high.climb) == pytest.approx((0.8 * 2.0 * math.sin(0.7), 0.8 * 2.0 * math.cos(0.7)))


def test_limits_keep_the_direction_and_a_robot_on_the_ground_stays_there():
    law = FollowSettings(target_size=1.0, distance=10.0, feed_forward=0.0)
    far = played(Follower(law), steady(size=0.02, depression=0.7))[-1]
    assert far.climb / far.forward == pytest.approx(-math.tan(0.7))
    ground = FollowSettings(climb_gain=0.0, target_size=1.0, distance=10.0)
    command = played(Follower(ground), steady(size=0.02, depression=0.3, elevation=0.3))[-1]
    assert command.climb == 0.0
    assert command.forward == ground.max_forward


# -- feed-forward -----------------------------------------------------------------------------------------------------


def test_the_place_is_predicted_to_when_the_command_takes_hold():
    law = FollowSettings(feed_forward=0.0, lead=0.1, max_yaw_rate=10.0)
    follower = Follower(law)
    played(follower, steady(size=0.1))
    stamp = 20.0
    follower.restart()
    played(follower, steady(begin=stamp - 3.0, seconds=2.99, size=0.1))
    command = follower.follow(Sighting(ME, stamp, TRACKING, azimuth=0.1, azimuth_rate=0.5, size=0.1), stamp + 0.2)
    assert command.yaw_rate == pytest.approx(law.yaw_gain * (0.1 + 0.5 * 0.3), rel=1e-6)


def circled(feed_forward: float) -> float:
    """Lag, rad, behind a target that goes around a vehicle at 0.4 rad/s, once it has settled."""
    law = FollowSettings(feed_forward=feed_forward)
    follower = Follower(law)
    yaw, rate, bearing = 0.0, 0.0, 0.0
    for i in range(450):
        now = 10.0 + i * PERIOD_S
        sighting = Sighting(ME, now, TRACKING, azimuth=bearing - yaw, azimuth_rate=0.4 - rate, size=0.1)
        command = follower.follow(sighting, now)
        rate += (1.0 - math.exp(-PERIOD_S / law.yaw_response)) * (command.yaw_rate - rate)
        yaw += rate * PERIOD_S
        bearing += 0.4 * PERIOD_S
    return bearing - yaw


def test_feed_forward_takes_most_of_the_lag_behind_a_circling_target_away():
    assert circled(0.0) == pytest.approx(0.4 / 1.5, abs=0.03)
    assert abs(circled(0.8)) < 0.35 * circled(0.0)


# -- ramps ------------------------------------------------------------------------------------------------------------


@given(st.floats(0.1, 5.0), st.sampled_from([PERIOD_S, 0.05, 0.1, 0.2]))
@settings(max_examples=40)
def test_after_lost_the_command_grows_monotonically_to_its_full_value(ramp_s: float, period_s: float):
    law = FollowSettings(ramp_time=ramp_s, feed_forward=0.0, target_size=1.0, distance=10.0)
    follower = Follower(law)
    where = {"azimuth": 0.2, "elevation": 0.1, "size": 0.09}
    played(follower, steady(**where))
    follower.follow(Sighting(ME, 14.0 - period_s, LOST), 14.0 - period_s)
    n = math.ceil(ramp_s / period_s) + 2
    commands = played(follower, [Sighting(ME, 14.0 + i * period_s, TRACKING, **where) for i in range(n)])
    share = period_s / ramp_s
    for name in ("forward", "climb", "yaw_rate"):
        values = [getattr(command, name) for command in commands]
        assert values == sorted(values)
        full = values[-1]
        assert full > 0.0
        assert all(b - a <= share * full + 1e-9 for a, b in zip([0.0, *values], values, strict=False))
    assert follower.authority == 1.0


def test_the_first_command_for_a_new_target_or_session_is_zero():
    follower = Follower(FollowSettings())
    played(follower, steady(azimuth=0.3))
    assert follower.authority == 1.0
    assert follower.follow(Sighting(("me", 2), 13.0, TRACKING, azimuth=0.3), 13.0) == STOP


def test_uncertain_slows_down_at_once_and_tracking_ramps_up_from_there():
    law = FollowSettings(uncertain_share=0.25, ramp_time=1.0)
    follower = Follower(law)
    full = played(follower, steady(azimuth=0.3, seconds=2.0))[-1]
    slow = played(follower, steady(UNCERTAIN, begin=12.0, seconds=0.5, azimuth=0.3))
    assert slow[0].yaw_rate == pytest.approx(0.25 * full.yaw_rate, rel=0.05)
    again = played(follower, steady(begin=12.5, azimuth=0.3, seconds=0.5))
    assert slow[-1].yaw_rate < again[0].yaw_rate < again[-1].yaw_rate < full.yaw_rate


def test_predictions_steer_but_do_not_raise_the_speed():
    follower = Follower(FollowSettings())
    played(follower, steady(azimuth=0.3, seconds=0.5))
    before = follower.authority
    predicted = [Sighting(ME, 10.5 + i * PERIOD_S, TRACKING, measured=False, azimuth=-0.3) for i in range(5)]
    commands = played(follower, predicted)
    assert follower.authority == before
    assert commands[-1].yaw_rate < 0.0


def test_a_measurement_after_a_gap_begins_a_ramp():
    law = FollowSettings()
    follower = Follower(law)
    played(follower, steady(azimuth=0.3))
    late = 13.0 + law.status_timeout + 0.1
    assert follower.follow(Sighting(ME, late, TRACKING, azimuth=0.3), late) == STOP


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [-0.01, -100.0, 1.5, 1e6])
def test_a_jump_in_time_is_refused(step: float):
    follower = Follower(FollowSettings())
    last = steady(azimuth=0.3)
    played(follower, last)
    stamp = last[-1].stamp + step
    with pytest.raises(BadStatus, match="jumped") as caught:
        follower.follow(Sighting(ME, stamp, TRACKING), stamp)
    assert caught.value.fault is Fault.TIME_JUMP


def test_a_measurement_of_an_image_before_the_last_prediction_is_none():
    follower = Follower(FollowSettings())
    played(follower, steady(seconds=1.0))
    follower.follow(Sighting(ME, 11.1, TRACKING, measured=False), 11.1)
    follower.follow(Sighting(ME, 11.05, TRACKING), 11.12)


@pytest.mark.parametrize("age", [-0.5, 0.6, 1e9])
def test_an_image_of_the_wrong_age_is_refused(age: float):
    with pytest.raises(BadStatus, match="old, must be within") as caught:
        Follower(FollowSettings()).follow(Sighting(ME, 10.0, TRACKING), 10.0 + age)
    assert caught.value.fault is Fault.WRONG_AGE


@pytest.mark.parametrize("name", [f.name for f in fields(FollowSettings)])
def test_settings_out_of_range_are_refused_by_name(name: str):
    low, high = (next(f for f in fields(FollowSettings) if f.name == name).metadata[end] for end in ("low", "high"))
    for value in (low - 0.001, high * 1.01 + 0.001, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"{name} is"):
            FollowSettings(**{name: value})


# -- from the message -------------------------------------------------------------------------------------------------

CAMERA = Camera(500.0, 500.0)


def status(**changes: object) -> SimpleNamespace:
    """A TrackStatus of a target in the middle of a camera of 500 px focal length."""
    stamp = SimpleNamespace(sec=10, nanosec=500_000_000)
    values = {
        "header": SimpleNamespace(stamp=stamp), "id": "me", "session": 1, "state": 1, "predicted": False,
        "box": [320.0, 240.0, 50.0, 50.0], "velocity": [0.0, 0.0], "bearing_valid": True,
        "bearing": SimpleNamespace(x=0.0, y=0.0, z=1.0),
    }  # fmt: skip
    return SimpleNamespace(**{**values, **changes})


def test_a_status_becomes_a_sighting():
    sighting = sighting_of(status(), CAMERA)
    assert sighting == Sighting(ME, 10.5, TRACKING, size=pytest.approx(0.1))


nan, inf = math.nan, math.inf


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"box": [nan, 240.0, 50.0, 50.0]}, Fault.NOT_FINITE),
        ({"box": [320.0, 240.0, inf, 50.0]}, Fault.NOT_FINITE),
        ({"velocity": [0.0, nan]}, Fault.NOT_FINITE),
        ({"bearing": SimpleNamespace(x=nan, y=0.0, z=1.0)}, Fault.NOT_FINITE),
        ({"box": [320.0, 240.0, -50.0, 50.0]}, Fault.BAD_SIZE),
        ({"box": [320.0, 240.0, 50.0, 0.0]}, Fault.BAD_SIZE),
        ({"bearing_valid": False}, Fault.NO_BEARING),
        ({"bearing": SimpleNamespace(x=0.0, y=0.0, z=0.0)}, Fault.NO_BEARING),
        ({"state": 0}, Fault.BAD_STATE),
        ({"state": 7}, Fault.BAD_STATE),
    ],
)
def test_a_status_that_cannot_be_followed_is_refused(changes: dict[str, object], fault: Fault):
    with pytest.raises(BadStatus) as caught:
        sighting_of(status(**changes), CAMERA)
    assert caught.value.fault is fault
    assert str(caught.value)


def test_without_camera_info_nothing_is_followed_but_lost_is_heard():
    with pytest.raises(BadStatus, match="camera_info"):
        sighting_of(status(), None)
    assert sighting_of(status(state=3, box=[nan] * 4, bearing_valid=False), None).state is LOST


@given(
    st.floats(-0.6, 0.6), st.floats(-0.4, 0.4), st.floats(-1.2, 1.2), st.floats(-3.0, 3.0),
    st.tuples(*[st.floats(-2.0, 2.0)] * 3),
)  # fmt: skip
def test_angles_and_rates_are_those_of_a_point_in_space(
    right: float, down: float, pitch: float, yaw: float, moving: tuple[float, float, float]
):
    camera = Camera(500.0, 450.0, pitch, yaw)
    depth = 8.0
    # A point in the camera's axes, x right, y down, z forward, and where it is a moment later.
    here = (right * depth, down * depth, depth)
    step = 1e-6
    later = tuple(p + v * step for p, v in zip(here, moving, strict=True))

    def angles_of(point: tuple[float, ...]) -> tuple[float, float]:
        # By the definition of the mounting: the axis looks down by the pitch, then to the left by the yaw.
        forward, left, up = point[2], -point[0], -point[1]
        x = math.cos(pitch) * forward + math.sin(pitch) * up
        z = math.cos(pitch) * up - math.sin(pitch) * forward
        ahead, aside = math.cos(yaw) * x - math.sin(yaw) * left, math.sin(yaw) * x + math.cos(yaw) * left
        return math.atan2(aside, ahead), math.atan2(z, math.hypot(ahead, aside))

    def pixel(point: tuple[float, ...]) -> tuple[float, float]:
        return point[0] / point[2] * 500.0, point[1] / point[2] * 450.0

    length = math.hypot(*here)
    bearing = SimpleNamespace(**{axis: v / length for axis, v in zip("xyz", here, strict=True)})
    velocity = [(b - a) / step for a, b in zip(pixel(here), pixel(later), strict=True)]
    sighting = sighting_of(status(bearing=bearing, velocity=velocity), camera)
    azimuth, elevation = angles_of(here)
    if math.cos(elevation) < 0.05:
        return  # no azimuth straight below
    assert math.isclose(math.remainder(sighting.azimuth - azimuth, math.tau), 0.0, abs_tol=1e-9)
    assert math.isclose(sighting.elevation, elevation + pitch, abs_tol=1e-9)
    azimuth_rate = math.remainder(angles_of(later)[0] - azimuth, math.tau) / step
    assert sighting.depression == -elevation or math.isclose(sighting.depression, -elevation, abs_tol=1e-9)
    elevation_rate = (angles_of(later)[1] - elevation) / step
    assert math.isclose(sighting.azimuth_rate, azimuth_rate, rel_tol=1e-3, abs_tol=1e-3)
    assert math.isclose(sighting.elevation_rate, elevation_rate, rel_tol=1e-3, abs_tol=1e-3)


def test_binned_images_have_shorter_focal_lengths():
    info = SimpleNamespace(k=[600.0, 0, 320, 0, 500.0, 240, 0, 0, 1], binning_x=2, binning_y=0)
    assert Camera.from_info(info) == Camera(300.0, 500.0)
    info.k[0] = 0.0
    with pytest.raises(ValueError, match="focal lengths 0"):
        Camera.from_info(info)
