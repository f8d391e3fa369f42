"""From a point in space to a box in the image: what a point clicked in a 3-D view stands for.

The other way round than bearing.py, with the same camera model: the raw image, as `camera_info` describes it by K and D
(not a rectified one), in the optical frame of REP 103 (z forward, x right, y down).
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from ros2_tracker.ros.bearing import BearingModel
from ros2_tracker.ros.bearing import _scale as camera_pixels
from ros2_tracker.tracking.events import Reason

XYZ = tuple[float, float, float]
XYWH = tuple[float, float, float, float]

_NO_MOTION = np.zeros(3)
_GRAZING = 1e6
"""Tangent of the angle from the axis beyond which nothing is imaged; OpenCV's squares overflow further out."""


class Refused(Exception):
    """A selection that no box follows from; the text says why."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def rotated(quaternion: tuple[float, float, float, float], vector: XYZ) -> NDArray[np.float64]:
    """The vector, (3,) float64, turned by a quaternion (x, y, z, w) of any length but 0.

    Raises:
        Refused: the quaternion is not finite, or 0.

    """
    q = np.array(quaternion, np.float64)
    length = float(np.linalg.norm(q))
    if not math.isfinite(length) or length < 1e-9:
        raise Refused(Reason.BOX_INVALID, f"the transform's rotation {tuple(quaternion)} is no quaternion")
    axis, w = q[:3] / length, q[3] / length
    v = np.array(vector, np.float64)
    # v + 2w(a × v) + 2a × (a × v): the product q v q* without its zeros.
    twice = 2.0 * np.cross(axis, v)
    return v + w * twice + np.cross(axis, twice)


def transformed(
    translation: XYZ, quaternion: tuple[float, float, float, float], point: XYZ
) -> tuple[float, float, float]:
    """A point's coordinates in the target frame of a transform as tf2 gives it (rotate, then move); metres.

    Raises:
        Refused: as of `rotated`.

    """
    x, y, z = rotated(quaternion, point) + np.array(translation, np.float64)
    return (float(x), float(y), float(z))


def project(model: BearingModel, point: XYZ, image_width: int, image_height: int) -> tuple[float, float]:
    """Where a point of the optical frame is imaged: (u, v) px from the outer corner of the top-left pixel.

    Args:
        model: the camera.
        point: (x, y, z) metres.
        image_width: px of the delivered image. One that is not as large as camera_info says counts as a resized one.
        image_height: px.

    Returns:
        May lie outside the image.

    Raises:
        Refused: it is not finite, behind the camera, or further from the axis than the lens model reaches.

    """
    if not all(math.isfinite(value) for value in point):
        raise Refused(Reason.BOX_INVALID, f"the point {_shown(point)} is not finite")
    x, y, z = point
    if z <= 0.0:
        raise Refused(
            Reason.BOX_OUTSIDE_IMAGE,
            f"the point is behind the camera: {_shown(point)} m in the optical frame, z forward",
        )
    tangent = math.hypot(x, y) / z
    if tangent > _GRAZING or (math.atan(tangent) if model.fisheye else tangent) > model.reach:
        raise Refused(
            Reason.BOX_OUTSIDE_IMAGE,
            f"the point is outside the image: {math.degrees(math.atan(tangent)):.0f}° off the camera's axis, "
            "further than its lens model reaches",
        )
    points = np.array([[[x / z, y / z, 1.0]]])
    if model.fisheye:
        full, _ = cv2.fisheye.projectPoints(points, _NO_MOTION, _NO_MOTION, model.camera_matrix, model.distortion)
    else:
        full, _ = cv2.projectPoints(points, _NO_MOTION, _NO_MOTION, model.camera_matrix, model.distortion)
    full_u, full_v = (float(value) for value in full.ravel())
    scale_x, scale_y = _scales(model, image_width, image_height)
    # K counts from the centre of the first pixel, we from its corner.
    return (full_u + 0.5 - model.offset[0]) / scale_x, (full_v + 0.5 - model.offset[1]) / scale_y


def box_of_point(
    model: BearingModel, point: XYZ, object_size: float, image_width: int, image_height: int
) -> XYWH:
    """Upright box around a point of the optical frame, as large as an object of that size looks there.

    Its sides are focal length × `object_size` / distance: along the axis (z) for a lens that images straight lines
    straight, in space for a fisheye, whose pixels count angles.

    Args:
        model: the camera.
        point: (x, y, z) metres.
        object_size: metres, positive.
        image_width: px, as of `project`.
        image_height: px.

    Returns:
        (x, y, w, h) px; its centre is inside the image.

    Raises:
        Refused: as of `project`, or the point is outside the image.

    """
    u, v = project(model, point, image_width, image_height)
    if not (0.0 <= u < image_width and 0.0 <= v < image_height):
        raise Refused(
            Reason.BOX_OUTSIDE_IMAGE,
            f"the point is outside the image: at ({u:.1f}, {v:.1f}) px of {image_width}x{image_height}",
        )
    distance = math.hypot(*point) if model.fisheye else point[2]
    scale_x, scale_y = _scales(model, image_width, image_height)
    w = float(model.camera_matrix[0, 0]) / scale_x * object_size / distance
    h = float(model.camera_matrix[1, 1]) / scale_y * object_size / distance
    return (u - w / 2, v - h / 2, w, h)


def _scales(model: BearingModel, image_width: int, image_height: int) -> tuple[float, float]:
    return (
        camera_pixels(model.size[0], model.binning[0], image_width),
        camera_pixels(model.size[1], model.binning[1], image_height),
    )


def _shown(point: XYZ) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in point) + ")"
