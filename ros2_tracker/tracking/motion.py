"""Where the target should be: a Kalman filter with constant velocity of the centre and slowly changing size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.settings import MotionSettings

# A pause longer than this says nothing about the velocity any more.
MAX_STEP_S = 1.0
# Standard deviation of the velocity before anything moved, in target sizes per second.
_INITIAL_SPEED = 3.0


@dataclass(frozen=True, slots=True)
class MotionState:
    """Mean (cx, cy, w, h, vx, vy) in px and px/s, and its 6x6 covariance."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]

    @property
    def box(self) -> Box:
        """The estimated box, px."""
        return Box.from_center(*(float(v) for v in self.mean[:4]))

    @property
    def velocity(self) -> tuple[float, float]:
        """Of the centre, px/s."""
        return (float(self.mean[4]), float(self.mean[5]))


def _size(mean: NDArray[np.float64]) -> float:
    return math.sqrt(max(float(mean[2] * mean[3]), 1.0))


def initial_state(box: Box, settings: MotionSettings) -> MotionState:
    """State for a box drawn by a user: at rest, velocity unknown."""
    size = max(box.size, 1.0)
    deviations = np.array([settings.position_noise] * 2 + [settings.size_noise] * 2 + [_INITIAL_SPEED] * 2) * size
    return MotionState(np.array([box.cx, box.cy, box.w, box.h, 0.0, 0.0]), np.diag(deviations**2))


def predict(state: MotionState, dt: float, settings: MotionSettings) -> MotionState:
    """State `dt` seconds later; negative steps count as zero, long ones as MAX_STEP_S."""
    dt = min(max(dt, 0.0), MAX_STEP_S)
    transition = np.eye(6)
    transition[0, 4] = transition[1, 5] = dt
    size = _size(state.mean)
    # Discrete white-noise acceleration (Bar-Shalom et al., Estimation with Applications, sec. 6.3.2).
    q = (settings.acceleration * size) ** 2
    noise = np.zeros((6, 6))
    for p, v in ((0, 4), (1, 5)):
        noise[p, p] = q * dt**4 / 4
        noise[p, v] = noise[v, p] = q * dt**3 / 2
        noise[v, v] = q * dt**2
    noise[2, 2] = noise[3, 3] = (settings.size_rate * size) ** 2 * dt
    return MotionState(transition @ state.mean, transition @ state.covariance @ transition.T + noise)


def measurement_covariance(box: Box, reliability: float, settings: MotionSettings) -> NDArray[np.float64]:
    """4x4 covariance (px^2) of a measured (cx, cy, w, h): grows with size and with doubt.

    At reliability 1 the deviations are the settings'; at 0 they are ten times as large.
    """
    scale = max(box.size, 1.0) * 10.0 ** (1.0 - min(max(reliability, 0.0), 1.0))
    deviations = np.array([settings.position_noise] * 2 + [settings.size_noise] * 2) * scale
    return np.diag(deviations**2)


def center_distance(predicted: MotionState, box: Box, noise: NDArray[np.float64]) -> float:
    """Mahalanobis distance of the box's centre from the predicted centre, given the measurement's 4x4 noise."""
    innovation = np.array([box.cx, box.cy]) - predicted.mean[:2]
    spread = predicted.covariance[:2, :2] + noise[:2, :2]
    return math.sqrt(max(float(innovation @ np.linalg.solve(spread, innovation)), 0.0))


def correct(predicted: MotionState, box: Box, noise: NDArray[np.float64]) -> MotionState:
    """Predicted state with a measured box of 4x4 covariance `noise` (Joseph form, stays symmetric)."""
    innovation = np.array([box.cx, box.cy, box.w, box.h]) - predicted.mean[:4]
    spread = predicted.covariance[:4, :4] + noise
    gain = np.linalg.solve(spread, predicted.covariance[:4, :]).T
    keep = np.eye(6)
    keep[:, :4] -= gain
    covariance = keep @ predicted.covariance @ keep.T + gain @ noise @ gain.T
    return MotionState(predicted.mean + gain @ innovation, covariance)


def without_velocity(state: MotionState, settings: MotionSettings) -> MotionState:
    """State after a jump in time: the place is kept, the velocity forgotten."""
    fresh = initial_state(state.box, settings)
    mean = state.mean.copy()
    mean[4:] = 0.0
    covariance = fresh.covariance.copy()
    covariance[:4, :4] = np.maximum(np.diag(np.diag(state.covariance[:4, :4])), covariance[:4, :4])
    return MotionState(mean, covariance)
