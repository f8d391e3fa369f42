"""Boxes in messages, to and from (x, y, w, h): top-left corner and size in pixels, as floats.

(0, 0) is the outer corner of the top-left pixel. Nothing is checked against an image here; NaN and infinity pass
through, so that the tracking core refuses them by name.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from builtin_interfaces.msg import Time
from geometry_msgs.msg import PolygonStamped
from sensor_msgs.msg import RegionOfInterest
from std_msgs.msg import Header

if TYPE_CHECKING:
    from vision_msgs.msg import Detection2D

XYWH = tuple[float, float, float, float]

CLASS_ID = "target"
"""Class of every detection that the tracker publishes: it knows which object, not what it is."""


class StampedBox(NamedTuple):
    """What a Detection2D asks to be followed."""

    box: XYWH
    id: str
    stamp: Time


def from_detection(msg: Detection2D) -> StampedBox:
    """Box, id and stamp of a vision_msgs 4.x detection; a rotated box becomes the upright one around it."""
    center, w, h = msg.bbox.center, msg.bbox.size_x, msg.bbox.size_y
    if center.theta != 0.0:
        # math.cos refuses infinity with an error of its own.
        theta = center.theta if math.isfinite(center.theta) else math.nan
        cos, sin = abs(math.cos(theta)), abs(math.sin(theta))
        w, h = w * cos + h * sin, w * sin + h * cos
    box = (center.position.x - w / 2, center.position.y - h / 2, w, h)
    return StampedBox(box, msg.id, msg.header.stamp)


def from_roi(msg: RegionOfInterest) -> XYWH:
    """Box of a region of interest."""
    return (float(msg.x_offset), float(msg.y_offset), float(msg.width), float(msg.height))


def from_polygon(msg: PolygonStamped) -> XYWH:
    """Upright box around a polygon in the image; two opposite corners are enough.

    Raises:
        ValueError: fewer than two points.

    """
    points = msg.polygon.points
    if len(points) < 2:
        raise ValueError(f"a polygon of {len(points)} points encloses nothing, at least 2 are needed")
    x, w = _extent([point.x for point in points])
    y, h = _extent([point.y for point in points])
    return (x, y, w, h)


def detection(box: XYWH, target_id: str, reliability: float, header: Header) -> Detection2D:
    """Detection2D for one target.

    Args:
        box: (x, y, w, h) px.
        target_id: constant for one object.
        reliability: in [0, 1], becomes the score of the only hypothesis.
        header: the image's.

    """
    # Here and not above: reading boxes works without vision_msgs, which no package index has.
    from vision_msgs.msg import Detection2D, ObjectHypothesisWithPose

    hypothesis = ObjectHypothesisWithPose()
    hypothesis.hypothesis.class_id = CLASS_ID
    hypothesis.hypothesis.score = float(reliability)
    msg = Detection2D()
    msg.header = header
    msg.id = target_id
    msg.results = [hypothesis]
    x, y, w, h = (float(value) for value in box)
    msg.bbox.center.position.x = x + w / 2
    msg.bbox.center.position.y = y + h / 2
    msg.bbox.size_x = w
    msg.bbox.size_y = h
    return msg


def _extent(values: list[float]) -> tuple[float, float]:
    """Least value and spread; (NaN, NaN) if one is NaN, which min() alone would overlook."""
    if any(math.isnan(value) for value in values):
        return math.nan, math.nan
    return min(values), max(values) - min(values)
