"""The constant-velocity filter."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ros2_tracker.tracking import motion
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.settings import MotionSettings

SETTINGS = MotionSettings()
BOX = Box(100, 100, 40, 30)


def follow(velocity: tuple[float, float], steps: int = 40, dt: float = 1 / 30) -> motion.MotionState:
    state = motion.initial_state(BOX, SETTINGS)
    for i in range(1, steps + 1):
        box = Box(BOX.x + velocity[0] * i * dt, BOX.y + velocity[1] * i * dt, BOX.w, BOX.h)
        noise = motion.measurement_noise(box, 1.0, SETTINGS)
        state = motion.correct(motion.predict(state, dt, SETTINGS), box, noise)
    return state


def assert_is_covariance(matrix: np.ndarray) -> None:
    np.testing.assert_allclose(matrix, matrix.T, rtol=1e-9, atol=1e-9)
    assert np.linalg.eigvalsh((matrix + matrix.T) / 2).min() > 0.0


@pytest.mark.parametrize("velocity", [(0.0, 0.0), (60.0, -25.0), (-300.0, 10.0)])
def test_constant_velocity_is_learnt_and_predicted(velocity: tuple[float, float]):
    state = follow(velocity)
    assert state.velocity == pytest.approx(velocity, abs=2.0)
    ahead = motion.predict(state, 0.5, SETTINGS).box
    assert ahead.cx == pytest.approx(BOX.cx + velocity[0] * (40 / 30 + 0.5), abs=2.0)
    assert ahead.cy == pytest.approx(BOX.cy + velocity[1] * (40 / 30 + 0.5), abs=2.0)
    assert (ahead.w, ahead.h) == pytest.approx((BOX.w, BOX.h))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.floats(-50, 700),
            st.floats(-50, 500),
            st.floats(2, 300),
            st.floats(0, 1),
            st.sampled_from([0.0, 0.03, 2.0]),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_covariance_stays_symmetric_and_positive(steps: list[tuple[float, ...]]):
    state = motion.initial_state(BOX, SETTINGS)
    for x, y, side, reliability, dt in steps:
        box = Box(x, y, side, side)
        state = motion.predict(state, dt, SETTINGS)
        assert_is_covariance(state.covariance)
        state = motion.correct(state, box, motion.measurement_noise(box, reliability, SETTINGS))
        assert_is_covariance(state.covariance)


def test_uncertainty_grows_with_the_prediction():
    state = follow((10.0, 0.0))
    variances = [np.diag(motion.predict(state, dt, SETTINGS).covariance)[:4] for dt in (0.0, 0.1, 0.3, 1.0)]
    for earlier, later in pairwise(variances):
        assert (later > earlier).all()


def test_a_long_step_counts_as_the_longest_and_a_negative_one_as_none():
    state = follow((50.0, 0.0))
    longest = motion.predict(state, motion.MAX_STEP_S, SETTINGS)
    np.testing.assert_array_equal(motion.predict(state, 3600.0, SETTINGS).mean, longest.mean)
    np.testing.assert_array_equal(motion.predict(state, -1.0, SETTINGS).mean, state.mean)


def test_time_jump_keeps_the_place_and_forgets_the_velocity():
    state = follow((50.0, 20.0))
    fresh = motion.without_velocity(state, SETTINGS)
    assert fresh.box == state.box
    assert fresh.velocity == (0.0, 0.0)
    assert_is_covariance(fresh.covariance)
    assert fresh.covariance[4, 4] > state.covariance[4, 4]


def test_doubt_makes_a_measurement_count_less():
    state = motion.predict(follow((0.0, 0.0)), 1 / 30, SETTINGS)
    moved = Box(BOX.x + 20, BOX.y, BOX.w, BOX.h)
    shifts = []
    for reliability in (1.0, 0.5, 0.0):
        noise = motion.measurement_noise(moved, reliability, SETTINGS)
        shifts.append(motion.correct(state, moved, noise).box.cx - state.box.cx)
    assert shifts[0] > shifts[1] > shifts[2] > 0.0


def test_centre_distance_is_mahalanobis():
    state = motion.initial_state(BOX, SETTINGS)
    noise = motion.measurement_noise(BOX, 1.0, SETTINGS)
    assert motion.center_distance(state, BOX, noise) == 0.0
    deviation = np.sqrt(state.covariance[0, 0] + noise.matrix[0, 0])
    aside = Box(BOX.x + 2 * deviation, BOX.y, BOX.w, BOX.h)
    assert motion.center_distance(state, aside, noise) == pytest.approx(2.0)


# -- seen from a camera that moves ------------------------------------------------------------------------------------

NEAR_IDENTITY = st.tuples(
    *(st.floats(-0.2, 0.2) for _ in range(4)), *(st.floats(-80, 80) for _ in range(2)), *([st.floats(-2e-4, 2e-4)] * 2)
)
"""What is added to a homography of no motion: 2x2 part, shift in px, perspective."""


def homography(a: float, b: float, c: float, d: float, x: float, y: float, g: float, h: float) -> np.ndarray:
    return np.array([[1 + a, b, x], [c, 1 + d, y], [g, h, 1.0]])


def turn(degrees: float, scale: float = 1.0, shift: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    c, s = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    return np.array([[c, -s, shift[0]], [s, c, shift[1]], [0.0, 0.0, 1.0]])


def mapped(matrix: np.ndarray, x: float, y: float) -> np.ndarray:
    u, v, w = matrix @ (x, y, 1.0)
    return np.array([u / w, v / w])


@settings(deadline=None, max_examples=60)
@given(NEAR_IDENTITY)
def test_warp_moves_centre_and_velocity_as_the_homography_does(change: tuple[float, ...]):
    state, matrix = follow((60.0, -25.0)), homography(*change)
    there = motion.warped(state, matrix)
    x, y, vx, vy = state.x.position, state.y.position, *state.velocity
    assert (there.x.position, there.y.position) == pytest.approx(mapped(matrix, x, y))
    # Where it would be a moment later, seen from there.
    moment = 1e-4
    moved = (mapped(matrix, x + moment * vx, y + moment * vy) - mapped(matrix, x, y)) / moment
    assert there.velocity == pytest.approx(moved, abs=0.5)
    assert there.w.length > 0.0
    assert there.h.length > 0.0
    assert_is_covariance(there.covariance)


@settings(deadline=None, max_examples=40)
@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(0.5, 2.0))
def test_warp_by_shift_and_scale_is_exact_and_can_be_undone(x: float, y: float, scale: float):
    state, matrix = follow((60.0, -25.0)), turn(0.0, scale, (x, y))
    there = motion.warped(state, matrix)
    factors = np.array([scale] * 6)
    np.testing.assert_allclose(there.covariance, np.diag(factors) @ state.covariance @ np.diag(factors), rtol=1e-9)
    np.testing.assert_allclose(there.mean[2:], scale * state.mean[2:], rtol=1e-9)
    back = motion.warped(there, np.linalg.inv(matrix))
    np.testing.assert_allclose(back.mean, state.mean, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(back.covariance, state.covariance, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("degrees", [0.0, 5.0, 45.0, 90.0, 180.0])
def test_warp_by_a_turn_keeps_what_a_turn_keeps(degrees: float):
    state = follow((60.0, -25.0))
    there = motion.warped(state, turn(degrees))
    assert np.hypot(*there.velocity) == pytest.approx(np.hypot(*state.velocity))
    assert np.trace(there.covariance[:2, :2]) == pytest.approx(np.trace(state.covariance[:2, :2]))
    assert there.w.length**2 + there.h.length**2 == pytest.approx(BOX.w**2 + BOX.h**2, rel=1e-3)
    if degrees == 90.0:
        assert (there.w.length, there.h.length) == pytest.approx((state.h.length, state.w.length))


def test_a_homography_that_sends_the_target_to_infinity_is_an_error():
    vanishing = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-1.0 / BOX.cx, 0.0, 1.0]])
    with pytest.raises(ZeroDivisionError):
        motion.warped(motion.initial_state(BOX, SETTINGS), vanishing)


def pan(speeds: list[float], own: float, seen: bool, dt: float = 1 / 30) -> tuple[motion.MotionState, float]:
    """Follow a target of its own speed while the camera pans at these (px/s); the state and the largest surprise."""
    state, x, worst = motion.initial_state(BOX, SETTINGS), BOX.x, 0.0
    for index, speed in enumerate(speeds):
        x += (speed + own) * dt
        known = turn(0.0, 1.0, (speed * dt, 0.0)) if seen else None
        ahead = motion.predict_seen(state, dt, SETTINGS, known)
        if index > 20:
            worst = max(worst, abs(ahead.box.x - x))
        box = Box(x, BOX.y, BOX.w, BOX.h)
        state = motion.correct(ahead, box, motion.measurement_noise(box, 1.0, SETTINGS))
    return state, worst


def test_a_camera_that_starts_to_turn_is_no_surprise_where_its_motion_is_seen():
    speeds = [0.0] * 30 + [400.0] * 10 + [-300.0] * 10
    _, blind = pan(speeds, 30.0, seen=False)
    state, seen = pan(speeds, 30.0, seen=True)
    assert blind > 10.0
    assert seen < 1.0
    # The velocity is the one in the image, of which the camera makes the most.
    assert state.velocity[0] == pytest.approx(-270.0, abs=10.0)
    assert state.camera == pytest.approx((-300.0, 0.0), abs=1.0)
    # So it is predicted to go on like that where the camera is not seen any more.
    ahead = motion.predict_seen(state, 0.1, SETTINGS, None)
    assert ahead == motion.predict(state, 0.1, SETTINGS)
    assert ahead.box.x - state.box.x == pytest.approx(-27.0, abs=1.0)


def test_a_camera_that_stands_still_changes_nothing():
    state = follow((60.0, -25.0))
    seen, blind = motion.predict_seen(state, 0.1, SETTINGS, np.eye(3)), motion.predict(state, 0.1, SETTINGS)
    np.testing.assert_allclose(seen.mean, blind.mean)
    np.testing.assert_allclose(seen.covariance, blind.covariance)
    assert motion.predict_seen(state, 0.0, SETTINGS, turn(5.0)) == state
