"""Where the target should be: a Kalman filter with constant velocity of the centre and slowly changing size."""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.settings import MotionSettings

Homography: TypeAlias = NDArray[np.float64]
"""(3, 3), from px of one image to px of another view of the same scene."""

# A pause longer than this says nothing about the velocity any more.
MAX_STEP_S = 1.0
# Standard deviation of the velocity before anything moved, in target sizes per second.
_INITIAL_SPEED = 3.0


class Moving(NamedTuple):
    """One coordinate of the centre: position px, velocity px/s, and their covariance."""

    position: float
    velocity: float
    position_variance: float
    cross_covariance: float
    velocity_variance: float

    def predicted(self, dt: float, acceleration: float) -> Moving:
        """`dt` seconds later, under random accelerations of this deviation, px/s^2."""
        # Discrete white-noise acceleration (Bar-Shalom et al., Estimation with Applications, sec. 6.3.2).
        q = acceleration**2 * dt**2
        pv = self.cross_covariance + dt * self.velocity_variance
        return Moving(
            self.position + dt * self.velocity,
            self.velocity,
            self.position_variance + dt * (self.cross_covariance + pv) + q * dt**2 / 4.0,
            pv + q * dt / 2.0,
            self.velocity_variance + q,
        )

    def corrected(self, measured: float, variance: float) -> Moving:
        """With a measured position."""
        gain = self.position_variance / (self.position_variance + variance)
        velocity_gain = self.cross_covariance / (self.position_variance + variance)
        innovation = measured - self.position
        return Moving(
            self.position + gain * innovation,
            self.velocity + velocity_gain * innovation,
            gain * variance,
            velocity_gain * variance,
            self.velocity_variance - velocity_gain * self.cross_covariance,
        )


class Drifting(NamedTuple):
    """A side of the box: length px and its variance."""

    length: float
    variance: float

    def corrected(self, measured: float, variance: float) -> Drifting:
        """With a measured length."""
        gain = self.variance / (self.variance + variance)
        return Drifting(self.length + gain * (measured - self.length), gain * variance)


class MotionState(NamedTuple):
    """A Kalman filter over (cx, cy, w, h, vx, vy) in px and px/s.

    Nothing couples the coordinates, so it is four small filters: a tenth of the time of one with 6x6 matrices.
    """

    x: Moving
    y: Moving
    w: Drifting
    h: Drifting
    camera: tuple[float, float] = (0.0, 0.0)
    """What of the velocity the camera's own motion made in the last frame, px/s; 0 where that is not known."""

    @property
    def mean(self) -> NDArray[np.float64]:
        """(6,) cx, cy, w, h, vx, vy."""
        x, y = self.x, self.y
        return np.array([x.position, y.position, self.w.length, self.h.length, x.velocity, y.velocity])

    @property
    def covariance(self) -> NDArray[np.float64]:
        """(6, 6) of `mean`."""
        x, y = self.x, self.y
        sides = (self.w.variance, self.h.variance)
        matrix = np.diag([x.position_variance, y.position_variance, *sides, x.velocity_variance, y.velocity_variance])
        matrix[0, 4] = matrix[4, 0] = x.cross_covariance
        matrix[1, 5] = matrix[5, 1] = y.cross_covariance
        return matrix

    @property
    def box(self) -> Box:
        """The estimated box, px."""
        return Box.from_center(self.x.position, self.y.position, self.w.length, self.h.length)

    @property
    def velocity(self) -> tuple[float, float]:
        """Of the centre, px/s."""
        return (self.x.velocity, self.y.velocity)

    @property
    def size(self) -> float:
        """Square root of the estimated area, px, at least 1."""
        return math.sqrt(max(self.w.length * self.h.length, 1.0))


class MeasurementNoise(NamedTuple):
    """Variances of a measured box, px^2, the same along both axes."""

    center: float
    side: float

    @property
    def matrix(self) -> NDArray[np.float64]:
        """(4, 4) covariance of (cx, cy, w, h)."""
        return np.diag([self.center, self.center, self.side, self.side])


def initial_state(box: Box, settings: MotionSettings) -> MotionState:
    """State for a box drawn by a user: at rest, velocity unknown."""
    size = max(box.size, 1.0)
    place, speed = (settings.position_noise * size) ** 2, (_INITIAL_SPEED * size) ** 2
    side = (settings.size_noise * size) ** 2
    x, y = (Moving(at, 0.0, place, 0.0, speed) for at in (box.cx, box.cy))
    return MotionState(x, y, Drifting(box.w, side), Drifting(box.h, side))


def predict(state: MotionState, dt: float, settings: MotionSettings) -> MotionState:
    """State `dt` seconds later; negative steps count as zero, long ones as MAX_STEP_S."""
    dt = min(max(dt, 0.0), MAX_STEP_S)
    size = state.size
    acceleration = settings.acceleration * size
    drift = (settings.size_rate * size) ** 2 * dt
    return MotionState(
        state.x.predicted(dt, acceleration),
        state.y.predicted(dt, acceleration),
        Drifting(state.w.length, state.w.variance + drift),
        Drifting(state.h.length, state.h.variance + drift),
        state.camera,
    )


def predict_seen(
    state: MotionState, dt: float, settings: MotionSettings, homography: Homography | None
) -> MotionState:
    """As `predict`, where it is known how the background moved in between; None: it is not.

    The target keeps its velocity against the background: the camera's part in it is taken from the last frame and
    replaced by what the homography (last image to this one, px) says of this one. Without a homography the camera is
    taken to go on as before.
    """
    if homography is None or dt <= 0.0:
        return predict(state, dt, settings)
    x, y, (vx, vy) = state.x, state.y, state.camera
    against_background = state._replace(
        x=x._replace(velocity=x.velocity - vx), y=y._replace(velocity=y.velocity - vy)
    )
    carried = warped(against_background, homography)
    camera = ((carried.x.position - x.position) / dt, (carried.y.position - y.position) / dt)
    ahead = predict(carried, dt, settings)
    return ahead._replace(
        x=ahead.x._replace(velocity=ahead.x.velocity + camera[0]),
        y=ahead.y._replace(velocity=ahead.y.velocity + camera[1]),
        camera=camera,
    )


class LocalMap(NamedTuple):
    """A homography near one point: where the point goes, and the 2x2 matrix that its surroundings are moved by."""

    x: float
    y: float
    xx: float
    xy: float
    yx: float
    yy: float

    @classmethod
    def of(cls, homography: Homography, x: float, y: float) -> LocalMap:
        """Of a 3x3 homography at (x, y); ZeroDivisionError where it sends the point to infinity."""
        (a, b, c), (d, e, f), (g, h, i) = homography.tolist()
        depth = g * x + h * y + i
        u, v = (a * x + b * y + c) / depth, (d * x + e * y + f) / depth
        return cls(u, v, (a - g * u) / depth, (b - h * u) / depth, (d - g * v) / depth, (e - h * v) / depth)

    def sides(self, w: float, h: float) -> tuple[float, float]:
        """Width and height of a box after the map, taken as the box around its inscribed ellipse.

        Exact for scale; a quarter turn swaps the sides, and a turn of a round target changes nothing.
        """
        return math.hypot(self.xx * w, self.xy * h), math.hypot(self.yx * w, self.yy * h)


def warped(state: MotionState, homography: Homography) -> MotionState:
    """State in an image that is another view of the same scene; `homography` maps px here to px there.

    Velocity and sides are moved by its local affine part. The filter's coordinates stay uncoupled: what a turn makes
    of the covariance between x and y is left out, its trace is kept.
    """
    x, y, (w, w_variance), (h, h_variance) = state.x, state.y, state.w, state.h
    near = LocalMap.of(homography, x.position, y.position)

    def along(position: float, from_x: float, from_y: float) -> Moving:
        xx, yy = from_x**2, from_y**2
        return Moving(
            position,
            from_x * x.velocity + from_y * y.velocity,
            xx * x.position_variance + yy * y.position_variance,
            xx * x.cross_covariance + yy * y.cross_covariance,
            xx * x.velocity_variance + yy * y.velocity_variance,
        )

    def side(length: float, from_w: float, from_h: float) -> Drifting:
        # First order: d length / d w = from_w^2 w / length.
        by_w, by_h = (from_w**2 * w / length, from_h**2 * h / length) if length > 0.0 else (1.0, 1.0)
        return Drifting(length, by_w**2 * w_variance + by_h**2 * h_variance)

    new_w, new_h = near.sides(w, h)
    return state._replace(
        x=along(near.x, near.xx, near.xy),
        y=along(near.y, near.yx, near.yy),
        w=side(new_w, near.xx, near.xy),
        h=side(new_h, near.yx, near.yy),
    )


def measurement_noise(box: Box, reliability: float, settings: MotionSettings) -> MeasurementNoise:
    """Of a measured box: grows with its size and with doubt.

    At reliability 1 the deviations are the settings'; at 0 they are ten times as large.
    """
    scale = max(box.size, 1.0) * 10.0 ** (1.0 - min(max(reliability, 0.0), 1.0))
    return MeasurementNoise((settings.position_noise * scale) ** 2, (settings.size_noise * scale) ** 2)


def center_distance(predicted: MotionState, box: Box, noise: MeasurementNoise) -> float:
    """Mahalanobis distance of the box's centre from the predicted centre, given the measurement's noise."""
    x, y = predicted.x, predicted.y
    return math.sqrt(
        (box.cx - x.position) ** 2 / (x.position_variance + noise.center)
        + (box.cy - y.position) ** 2 / (y.position_variance + noise.center)
    )


def correct(predicted: MotionState, box: Box, noise: MeasurementNoise) -> MotionState:
    """Predicted state with a measured box."""
    return MotionState(
        predicted.x.corrected(box.cx, noise.center),
        predicted.y.corrected(box.cy, noise.center),
        predicted.w.corrected(box.w, noise.side),
        predicted.h.corrected(box.h, noise.side),
        predicted.camera,
    )


def without_velocity(state: MotionState, settings: MotionSettings) -> MotionState:
    """State after a jump in time: the place is kept, the velocity forgotten."""
    fresh = initial_state(state.box, settings)

    def stopped(known: Moving, new: Moving) -> Moving:
        return new._replace(position_variance=max(known.position_variance, new.position_variance))

    def kept(known: Drifting, new: Drifting) -> Drifting:
        return Drifting(new.length, max(known.variance, new.variance))

    return MotionState(
        stopped(state.x, fresh.x), stopped(state.y, fresh.y), kept(state.w, fresh.w), kept(state.h, fresh.h)
    )
