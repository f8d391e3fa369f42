"""From a pixel to a direction: the bearing of the target in the camera's optical frame.

The optical frame is that of REP 103 and 104: z forward, x right, y down. The image is the raw one, as `camera_info`
describes it (K and D), not a rectified one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_FISHEYE_MODELS = ("equidistant", "fisheye")
_POLYNOMIAL_MODELS = ("plumb_bob", "rational_polynomial")
_POLYNOMIAL_LENGTHS = (0, 4, 5, 8, 12, 14)
_FISHEYE_LENGTHS = (0, 4)
_NEWTON_STEPS = 20
_TOLERANCE_PX = 1e-6
_TOLERANCE_RAD = 1e-10
_NO_MOTION = np.zeros(3)


def why_no_bearing(info: Any) -> str | None:
    """Why a `sensor_msgs/CameraInfo` allows no bearings, for the log; None if it does."""
    k, d, model = np.array(info.k, np.float64), np.array(info.d, np.float64), info.distortion_model
    if not np.isfinite(k).all() or not np.isfinite(d).all():
        return "camera_info holds a value that is not finite"
    if not (k[0] > 0 and k[4] > 0):
        return f"the camera is not calibrated: camera_info has focal lengths K[0]={k[0]:g}, K[4]={k[4]:g}"
    if model in _FISHEYE_MODELS:
        lengths = _FISHEYE_LENGTHS
    elif model in _POLYNOMIAL_MODELS:
        lengths = _POLYNOMIAL_LENGTHS
    elif not model and not d.any():
        return None
    else:
        known = ", ".join(_POLYNOMIAL_MODELS + _FISHEYE_MODELS)
        return f"distortion model {model[:40]!r} is not supported; supported: {known}"
    if len(d) not in lengths:
        return f"distortion model {model!r} with {len(d)} coefficients; supported: {', '.join(map(str, lengths))}"
    return None


@dataclass(frozen=True, slots=True, eq=False)
class BearingModel:
    """Geometry of one camera, from its `camera_info`."""

    camera_matrix: NDArray[np.float64]
    """K at full resolution, (3, 3), pixel centres at whole numbers."""
    distortion: NDArray[np.float64]
    fisheye: bool
    reach: float
    """How far from the axis the distortion model grows as a lens does; its polynomials turn back further out. As the
    tangent of the angle, for a fisheye the angle in rad."""
    offset: tuple[int, int]
    """Top-left corner (x, y) of the region of interest on the full image, px."""
    size: tuple[int, int]
    """(width, height) of the region of interest, in px of the full image; 0 if unknown."""
    binning: tuple[int, int]

    @classmethod
    def from_camera_info(cls, info: Any) -> BearingModel | None:
        """Model of a `sensor_msgs/CameraInfo`; None if it allows no bearings, which `why_no_bearing` explains."""
        if why_no_bearing(info) is not None:
            return None
        fisheye = info.distortion_model in _FISHEYE_MODELS
        distortion = np.array(info.d, np.float64)
        if not len(distortion):
            distortion = np.zeros(4)
        roi = info.roi
        return cls(
            camera_matrix=np.array(info.k, np.float64).reshape(3, 3),
            distortion=distortion,
            fisheye=fisheye,
            reach=_fisheye_reach(distortion) if fisheye else _polynomial_reach(distortion),
            offset=(roi.x_offset, roi.y_offset),
            size=(roi.width or max(info.width - roi.x_offset, 0), roi.height or max(info.height - roi.y_offset, 0)),
            binning=(max(info.binning_x, 1), max(info.binning_y, 1)),
        )

    def bearing(self, u: float, v: float, image_width: int, image_height: int) -> tuple[float, float, float] | None:
        """Unit vector (x, y, z) in the optical frame towards a point of the image.

        Args:
            u: px to the right of the outer corner of the top-left pixel; may lie outside the image.
            v: px below it.
            image_width: px, positive. An image that is not as large as camera_info says counts as a resized one.
            image_height: px, positive.

        Returns:
            None when no direction is imaged there: not finite, or beyond where the distortion model can be inverted.

        """
        full_u = self.offset[0] + u * _scale(self.size[0], self.binning[0], image_width)
        full_v = self.offset[1] + v * _scale(self.size[1], self.binning[1], image_height)
        if not (math.isfinite(full_u) and math.isfinite(full_v)):
            return None
        # K counts from the centre of the first pixel, we from its corner.
        invert = self._invert_fisheye if self.fisheye else self._invert_polynomial
        return invert(full_u - 0.5, full_v - 0.5)

    def _invert_polynomial(self, u: float, v: float) -> tuple[float, float, float] | None:
        pixel = np.array([u, v])
        x, y = cv2.undistortPoints(pixel.reshape(1, 1, 2), self.camera_matrix, self.distortion)[0, 0]
        # OpenCV stops after five steps of a slow iteration: tens of px off in the corners of a wide lens. A start.
        for _ in range(_NEWTON_STEPS):
            point = np.array([[[x, y, 1.0]]])
            projected, derivatives = cv2.projectPoints(
                point, _NO_MOTION, _NO_MOTION, self.camera_matrix, self.distortion
            )
            error = pixel - projected.ravel()
            (a, b), (c, d) = derivatives[:, 3:5]
            determinant = a * d - b * c
            if not (np.isfinite(error).all() and math.isfinite(determinant)) or determinant == 0.0:
                return None
            if abs(error).max() < _TOLERANCE_PX:
                # Further out there are solutions as well, but not of this lens.
                return _unit(x, y, 1.0) if math.hypot(x, y) <= self.reach else None
            x += (d * error[0] - b * error[1]) / determinant
            y += (a * error[1] - c * error[0]) / determinant
        return None

    def _invert_fisheye(self, u: float, v: float) -> tuple[float, float, float] | None:
        """As cv2.fisheye does, but also beyond 90° from the axis, which its normalised coordinates cannot express."""
        a = (u - self.camera_matrix[0, 2]) / self.camera_matrix[0, 0]
        b = (v - self.camera_matrix[1, 2]) / self.camera_matrix[1, 1]
        radius = math.hypot(a, b)
        if radius == 0.0:
            return (0.0, 0.0, 1.0)
        k1, k2, k3, k4 = self.distortion.tolist()
        theta = min(radius, math.pi)
        for _ in range(_NEWTON_STEPS):
            t = theta * theta
            error = theta * (1 + t * (k1 + t * (k2 + t * (k3 + t * k4)))) - radius
            slope = 1 + t * (3 * k1 + t * (5 * k2 + t * (7 * k3 + t * 9 * k4)))
            if abs(error) < _TOLERANCE_RAD:
                if not (0 < theta <= min(self.reach, math.pi) and slope > 0):
                    return None
                return _unit(math.sin(theta) * a / radius, math.sin(theta) * b / radius, math.cos(theta))
            if slope == 0.0 or not math.isfinite(error):
                return None
            theta -= error / slope
        return None


def _polynomial_reach(distortion: NDArray[np.float64]) -> float:
    k1, k2, _, _, k3, k4, k5, k6 = np.pad(distortion, (0, 14))[:8]
    r = np.linspace(0.0, 20.0, 4001)
    t = r * r
    with np.errstate(divide="ignore", invalid="ignore"):
        return _first_turn(r, r * (1 + t * (k1 + t * (k2 + t * k3))) / (1 + t * (k4 + t * (k5 + t * k6))))


def _fisheye_reach(distortion: NDArray[np.float64]) -> float:
    k1, k2, k3, k4 = distortion
    theta = np.linspace(0.0, math.pi, 4001)
    t = theta * theta
    return _first_turn(theta, theta * (1 + t * (k1 + t * (k2 + t * (k3 + t * k4)))))


def _first_turn(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Where y(x) stops growing, rounded up to the next x; infinity if it grows all along."""
    stops = np.flatnonzero(~(np.diff(y) > 0))
    return float(x[stops[0] + 1]) if len(stops) else math.inf


def _scale(size: int, binning: int, image: int) -> float:
    """Pixels of the full image for one of the delivered image, along one axis."""
    # A size that binning does not divide loses its remainder; the pixels are still `binning` wide.
    if size == 0 or size // binning == image:
        return float(binning)
    return size / image


def _unit(x: float, y: float, z: float) -> tuple[float, float, float]:
    length = math.sqrt(x * x + y * y + z * z)
    return (float(x / length), float(y / length), float(z / length))
