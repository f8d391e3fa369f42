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
