"""Crop, padding mask, map-back and clip of OSTrack and STARK, to the pixel (SPEC 0.1, 0.3 to 0.5).

Deliberately unlike `crop`: whole source pixels, zero padding, and a last column that is lost at the right border.
Their weights were trained on exactly these crops.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from ros2_tracker.engines.patch import Axis, Patch
from ros2_tracker.tracking.frame import ColorOrder, Frame, to_rgb
from ros2_tracker.tracking.geometry import Box, BoxError, BoxOutsideImageError

CLIP_MARGIN_PX = 10.0
"""A tracked box keeps this much inside the image, and is at least this large (SPEC 0.4)."""
_BLACK = (0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class SampleRegion:
    """A square of whole source pixels around a box, resampled to `size` x `size`; may reach beyond the image."""

    x: int
    y: int
    side: int
    size: int

    @classmethod
    def around(cls, box: Box, factor: float, size: int) -> SampleRegion:
        """Region of side ceil(factor * sqrt(w * h)) at the box's centre; BoxError when that is below one pixel."""
        side = math.ceil(factor * math.sqrt(box.w * box.h))
        if side < 1:
            raise BoxError(f"box {box.w:g}x{box.h:g} px is too small to be cut out")
        # `round` takes halves to the even number, as the official code does.
        return cls(round(box.x + 0.5 * box.w - side * 0.5), round(box.y + 0.5 * box.h - side * 0.5), side, size)

    @property
    def resize_factor(self) -> float:
        """Pixels of the crop per pixel of the image."""
        return self.size / self.side

    def paddings(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Source pixels without image at the top, bottom, left and right.

        The +1 is the official code's: a region that ends at the last column or row takes it for padding.
        """
        right = max(0, self.x + self.side - width + 1)
        bottom = max(0, self.y + self.side - height + 1)
        return max(0, -self.y), bottom, max(0, -self.x), right


def sample_crop(frame: Frame, region: SampleRegion) -> NDArray[np.uint8]:
    """The region as (size, size, 3) uint8 RGB, black outside the image; only the pixels under it are read.

    Raises:
        BoxOutsideImageError: no pixel of the image is under the region.

    """
    paddings = region.paddings(frame.width, frame.height)
    return _resized(*_pixels(frame, region, paddings), paddings, region.size)


def lazy_sample_crop(frame: Frame, region: SampleRegion) -> Patch:
    """The same for an engine that resamples by itself: not cut yet."""
    top, _, left, _ = paddings = region.paddings(frame.width, frame.height)
    pixels, order = _pixels(frame, region, paddings)
    step = region.side / region.size
    # Relative to the first pixel inside the image.
    x, y = (
        Axis(0.5 * step - 0.5 - padded, step, -padded, region.side - 1.0 - padded)
        for padded in (float(left), float(top))
    )
    cut = partial(_resized, pixels, order, paddings, region.size)
    return Patch(pixels, order.rgb, x, y, region.size, _BLACK, cut)


def _pixels(
    frame: Frame, region: SampleRegion, paddings: tuple[int, int, int, int]
) -> tuple[NDArray[np.uint8], ColorOrder]:
    """Those of the image under the region, without its paddings; BoxOutsideImageError where there is none."""
    top, bottom, left, right = paddings
    if _misses(region, frame):
        raise BoxOutsideImageError(
            f"the {region.side} px region at ({region.x}, {region.y}) has no pixel of the "
            f"{frame.width}x{frame.height} image"
        )
    x1, y1 = region.x + region.side - right, region.y + region.side - bottom
    return frame.region(region.x + left, region.y + top, x1, y1)


def _resized(
    pixels: NDArray[np.uint8], order: ColorOrder, paddings: tuple[int, int, int, int], size: int
) -> NDArray[np.uint8]:
    if any(paddings):
        pixels = cv2.copyMakeBorder(pixels, *paddings, cv2.BORDER_CONSTANT, value=order.fill_value(_BLACK))
    return to_rgb(cv2.resize(pixels, (size, size)), order)


def search_region(frame: Frame, last: Box, factor: float, size: int) -> SampleRegion:
    """Region around the last box, moved into the image where a camera that changed its size left it outside."""
    region = SampleRegion.around(last, factor, size)
    if _misses(region, frame):
        region = SampleRegion.around(clipped(last, frame.width, frame.height), factor, size)
    return region


def _misses(region: SampleRegion, frame: Frame) -> bool:
    """Whether no pixel of the frame is under the region."""
    top, bottom, left, right = region.paddings(frame.width, frame.height)
    return left + right >= region.side or top + bottom >= region.side


def padding_mask(region: SampleRegion, width: int, height: int) -> NDArray[np.bool_]:
    """(size, size) True where a pixel of the crop was mixed from any source pixel outside the image (SPEC 0.1).

    The official mask is a bilinear resize of a float mask cast to bool. Padding being whole rows and columns, it is
    had from one row and one column.
    """
    top, bottom, left, right = region.paddings(width, height)
    rows = _mixed_with_padding(region, top, bottom)
    columns = _mixed_with_padding(region, left, right)
    return rows[:, None] | columns[None, :]


def _mixed_with_padding(region: SampleRegion, before: int, after: int) -> NDArray[np.bool_]:
    padded = np.ones((region.side, 1), np.float64)
    padded[before : max(region.side - after, 0)] = 0.0
    return cv2.resize(padded, (1, region.size)).reshape(-1) != 0.0


def map_back(found: NDArray[np.floating], previous: Box, region: SampleRegion) -> Box:
    """Box in the image from a network's (cx, cy, w, h) in search sides (SPEC 0.3).

    Relative to the previous box's exact centre, although the region was rounded to whole pixels: the official code's
    half pixel of jitter.
    """
    cx, cy, w, h = (float(v) * region.size / region.resize_factor for v in found)
    half = 0.5 * region.size / region.resize_factor
    return Box.from_center(cx + previous.cx - half, cy + previous.cy - half, w, h)


def clipped(box: Box, width: int, height: int, margin: float = CLIP_MARGIN_PX) -> Box:
    """The box with its corners in the image, `margin` px of it at least (SPEC 0.4)."""
    x0 = min(max(0.0, box.x), width - margin)
    y0 = min(max(0.0, box.y), height - margin)
    x1 = min(max(margin, box.x + box.w), width)
    y1 = min(max(margin, box.y + box.h), height)
    return Box(x0, y0, max(margin, x1 - x0), max(margin, y1 - y0))


def box_in_crop(box: Box, region: SampleRegion, reference: Box) -> tuple[float, float, float, float]:
    """(x, y, w, h) of a box as fractions of a crop taken around `reference` (SPEC 0.5).

    The crop's centre counts as (size - 1) / 2 here, half a pixel from where `map_back` has it.
    """
    middle, scale = (region.size - 1) / 2, region.resize_factor
    w, h = box.w * scale, box.h * scale
    cx, cy = middle + (box.cx - reference.cx) * scale, middle + (box.cy - reference.cy) * scale
    return (
        (cx - 0.5 * w) / region.size,
        (cy - 0.5 * h) / region.size,
        w / region.size,
        h / region.size,
    )
