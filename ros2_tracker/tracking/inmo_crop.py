"""InMo's crops, to the pixel (SPEC 3.7): whole source pixels, a colour of the first frame outside the image."""

from __future__ import annotations

import math
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from ros2_tracker.engines.patch import Axis, Patch
from ros2_tracker.tracking.frame import ColorOrder, Frame, to_rgb
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.sample_target import SampleRegion

Colour = tuple[float, float, float]
"""R, G, B in 0..255."""


def context_side(box: Box, factor: float) -> float:
    """Side of the region around a box, px: `factor` times that of a square target, more for a long one."""
    context = (factor - 1.0) / 2.0 * (box.w + box.h)
    return math.sqrt((box.w + context) * (box.h + context))


def sub_window(box: Box, side: int, size: int) -> SampleRegion:
    """Region of whole source pixels at the box's centre."""
    x, y = (math.floor(center - (side + 1) / 2 + 0.5) for center in (box.cx, box.cy))
    return SampleRegion(x, y, side, size)


def window_crop(frame: Frame, region: SampleRegion, fill: Colour) -> NDArray[np.uint8]:
    """The region as (size, size, 3) uint8 RGB, with a colour outside the image."""
    return np.asarray(window_patch(frame, region, fill))


def window_patch(frame: Frame, region: SampleRegion, fill: Colour) -> Patch | NDArray[np.uint8]:
    """The same for an engine that resamples by itself: not cut yet, unless there is nothing to cut."""
    side, size = region.side, region.size
    x0, x1 = (min(max(x, 0), frame.width) for x in (region.x, region.x + side))
    y0, y1 = (min(max(y, 0), frame.height) for y in (region.y, region.y + side))
    if x1 <= x0 or y1 <= y0:
        return np.full((size, size, 3), fill, np.uint8)
    pixels, order = frame.region(x0, y0, x1, y1)
    left, top = x0 - region.x, y0 - region.y
    around = (top, region.y + side - y1, left, region.x + side - x1)
    # Relative to the first pixel inside the image.
    first = 0.5 * side / size - 0.5
    x, y = (Axis(first - off, side / size, float(-off), side - 1.0 - off) for off in (left, top))
    cut = partial(_resized, pixels, order, around, size, fill)
    return Patch(pixels, order.rgb, x, y, size, order.fill_rgb(fill), cut)


def _resized(
    pixels: NDArray[np.uint8], order: ColorOrder, around: tuple[int, int, int, int], size: int, fill: Colour
) -> NDArray[np.uint8]:
    if any(around):
        pixels = cv2.copyMakeBorder(pixels, *around, cv2.BORDER_CONSTANT, value=order.fill_value(fill))
    return to_rgb(cv2.resize(pixels, (size, size)), order)
