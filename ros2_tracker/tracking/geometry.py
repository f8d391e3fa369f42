"""Boxes in the image: the type that travels between modules, and its arithmetic.

Pixel coordinates are continuous: (0, 0) is the outer corner of the top-left pixel, x to the right, y down, so
that an image of W x H pixels covers [0, W] x [0, H] and the centre of the top-left pixel is (0.5, 0.5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MIN_VISIBLE_PX = 2.0
"""A box needs this much width and height inside the image to be followed (INTERFACES: 2x2 px)."""
MAX_SIDE_PX = 1e6
"""No camera sees a box this large; its area or that of its surroundings could overflow."""


class BoxError(ValueError):
    """A box that cannot be followed; the text names the offending value."""


class BoxOutsideImageError(BoxError):
    """Less than 2x2 px of the box lie inside the image."""


@dataclass(frozen=True, slots=True)
class Box:
    """Axis-aligned box: top-left corner and size, in pixels (floats)."""

    x: float
    y: float
    w: float
    h: float

    @classmethod
    def from_center(cls, cx: float, cy: float, w: float, h: float) -> Box:
        """Box of size (w, h) around the centre (cx, cy), all in pixels."""
        return cls(cx - w / 2, cy - h / 2, w, h)

    @property
    def cx(self) -> float:
        """Centre x, px."""
        return self.x + self.w / 2

    @property
    def cy(self) -> float:
        """Centre y, px."""
        return self.y + self.h / 2

    @property
    def size(self) -> float:
        """Side of the square with the box's area, px."""
        return math.sqrt(self.w * self.h)

    def as_tuple(self) -> tuple[float, float, float, float]:
        """(x, y, w, h)."""
        return (self.x, self.y, self.w, self.h)


def iou(a: Box, b: Box) -> float:
    """Intersection over union in [0, 1]; 0 where either box is empty."""
    w = min(a.x + a.w, b.x + b.w) - max(a.x, b.x)
    h = min(a.y + a.h, b.y + b.h) - max(a.y, b.y)
    if w <= 0 or h <= 0:
        return 0.0
    intersection = w * h
    return intersection / (a.w * a.h + b.w * b.h - intersection)


def checked_box(values: Sequence[float], width: int, height: int) -> Box:
    """Box from (x, y, w, h) px, refused unless it can be followed in a width x height image.

    Raises:
        BoxError: not four numbers, a NaN or an infinity, or a size that is not positive or beyond all cameras.
        BoxOutsideImageError: less than 2x2 px inside the image.

    """
    try:
        x, y, w, h = (float(v) for v in values)
    except (TypeError, ValueError) as error:
        raise BoxError(f"a box is four numbers (x, y, w, h) in pixels, got {values!r:.200}") from error
    if not all(math.isfinite(v) for v in (x, y, w, h)):
        raise BoxError(f"box ({x:g}, {y:g}, {w:g}, {h:g}) holds a value that is not finite")
    if w <= 0 or h <= 0:
        raise BoxError(f"box ({x:g}, {y:g}, {w:g}, {h:g}) has a size that is not positive")
    if max(w, h) > MAX_SIDE_PX:
        raise BoxError(f"box ({x:g}, {y:g}, {w:g}, {h:g}) has a side of more than {MAX_SIDE_PX:g} px")
    visible_w = min(x + w, width) - max(x, 0.0)
    visible_h = min(y + h, height) - max(y, 0.0)
    if not (visible_w >= MIN_VISIBLE_PX and visible_h >= MIN_VISIBLE_PX):
        raise BoxOutsideImageError(
            f"box ({x:g}, {y:g}, {w:g}, {h:g}) has less than {MIN_VISIBLE_PX:g}x{MIN_VISIBLE_PX:g} px "
            f"inside the {width}x{height} image"
        )
    return Box(x, y, w, h)


def kept_in_image(box: Box, width: int, height: int) -> Box:
    """`box` with its centre moved into the image and its sides limited to [2 px, twice the image's].

    A target may reach beyond the border, so the box is not cut; but a centre outside can no longer be confirmed.
    """
    w = min(max(box.w, MIN_VISIBLE_PX), 2.0 * width)
    h = min(max(box.h, MIN_VISIBLE_PX), 2.0 * height)
    cx = min(max(box.cx, 0.0), float(width))
    cy = min(max(box.cy, 0.0), float(height))
    return Box.from_center(cx, cy, w, h)
