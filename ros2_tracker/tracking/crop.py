"""Cut the square region that the network looks at, reading only that part of the frame."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ros2_tracker.engines.patch import Axis, Patch
from ros2_tracker.tracking.frame import ColorOrder, Frame, to_rgb
from ros2_tracker.tracking.geometry import Box

# Bilinear sampling reads one pixel beyond the region.
_APRON_PX = 2


@dataclass(frozen=True, slots=True)
class Region:
    """A square of the image, in pixels; may reach beyond the border."""

    x: float
    y: float
    side: float
    every: int = 1
    """Of its rows of pixels only each so many-th is read, if it is `snapped`."""

    @classmethod
    def around(cls, box: Box, factor: float) -> Region:
        """Square of side factor * sqrt(w * h), at least 2 px, with the box's centre."""
        side = max(factor * box.size, 2.0)
        return cls(box.cx - side / 2, box.cy - side / 2, side)

    def snapped(self, size: int, width: int, height: int) -> Region:
        """The nearest region of whole pixels, where it lies in the image and is not enlarged by a crop of `size` px.

        That is cut in less time, and what is found in it is mapped back exactly. Where it would be enlarged, half a
        pixel costs accuracy on small targets. Where it is shrunk to half or less, it is of every second row: reading
        the others would take longer than all the arithmetic. Its side is even then, and its top between two rows.
        """
        every = 2 if self.side >= 2 * size + 1 else 1
        side = every * round(self.side / every)
        # A row that is read stands for as much above its middle as below.
        above = 0.5 * (every - 1)
        x, y = (round(corner + (self.side - side) / 2) for corner in (self.x, self.y + above))
        if side < size or min(x, y) < 0 or x + side > width or y + side > height:
            return self
        return Region(float(x), y - above, float(side), every)

    def to_image(self, cx: float, cy: float, w: float, h: float) -> Box:
        """Box in the image from a centre and size given as fractions of the region's side."""
        return Box.from_center(self.x + cx * self.side, self.y + cy * self.side, w * self.side, h * self.side)


def crop(frame: Frame, region: Region, size: int, fill_rgb: tuple[float, float, float]) -> NDArray[np.uint8]:
    """The region resampled bilinearly to `size` x `size` x 3 uint8 RGB; `fill_rgb` (0..255) outside the image.

    Only the part of the frame under the region is read, and colour is converted after resampling.
    """
    source = _source(frame, region, size)
    return _nothing(size, fill_rgb) if source is None else source.resampled(size, fill_rgb)


def lazy_crop(
    frame: Frame, region: Region, size: int, fill_rgb: tuple[float, float, float]
) -> Patch | NDArray[np.uint8]:
    """The same for an engine that resamples by itself: not cut yet, unless there is nothing to cut."""
    source = _source(frame, region, size)
    return _nothing(size, fill_rgb) if source is None else source.patch(size, fill_rgb)


class _Source(NamedTuple):
    """What of a frame a crop is made of."""

    pixels: NDArray[np.uint8]
    order: ColorOrder
    x: Axis
    """Where the centres of the crop's pixels lie in `pixels`, whose own are whole numbers."""
    y: Axis
    alone: bool
    """The crop is mixed of these pixels, all of them and no others."""

    def resampled(self, size: int, fill_rgb: tuple[float, float, float]) -> NDArray[np.uint8]:
        if self.alone:
            # `warpAffine` takes twice the processor time, because its pixels may come from anywhere.
            return to_rgb(cv2.resize(self.pixels, (size, size)), self.order)
        warped = cv2.warpAffine(
            self.pixels,
            np.array([[self.x.step, 0.0, self.x.first], [0.0, self.y.step, self.y.first]], np.float64),
            (size, size),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=self.order.fill_value(fill_rgb),
        )
        return to_rgb(warped, self.order)

    def patch(self, size: int, fill_rgb: tuple[float, float, float]) -> Patch:
        fill = self.order.fill_rgb(fill_rgb)
        return Patch(self.pixels, self.order.rgb, self.x, self.y, size, fill, lambda: self.resampled(size, fill_rgb))


def _source(frame: Frame, region: Region, size: int) -> _Source | None:
    """None where nothing of the image is under the region."""
    step, every = region.side / size, region.every
    # Pixel centres lie at +0.5 in our coordinates and at whole numbers in OpenCV's.
    to_centre = 0.5 * step - 0.5
    above = 0.5 * (every - 1)
    x0, y0, side = int(region.x), int(region.y + above), int(region.side)
    x1, y1 = x0 + side, y0 + side
    inside = min(x0, y0) >= 0 and x1 <= frame.width and y1 <= frame.height
    # Enlarged, the samples at its edge would lie outside of it.
    if inside and side >= size and (x0, y0 - above, side) == (region.x, region.y, region.side):
        pixels, order = frame.region(x0, y0, x1, y1)
        y = Axis(0.5 * step / every - 0.5, step / every)
        return _Source(pixels[::every], order, Axis(to_centre, step), y, alone=True)
    x0 = min(max(math.floor(region.x) - _APRON_PX, 0), frame.width)
    y0 = min(max(math.floor(region.y) - _APRON_PX, 0), frame.height)
    x1 = min(max(math.ceil(region.x + region.side) + _APRON_PX, 0), frame.width)
    y1 = min(max(math.ceil(region.y + region.side) + _APRON_PX, 0), frame.height)
    if x1 <= x0 or y1 <= y0:
        return None
    x, y = Axis(region.x - x0 + to_centre, step), Axis(region.y - y0 + to_centre, step)
    return _Source(*frame.region(x0, y0, x1, y1), x, y, alone=False)


def _nothing(size: int, fill_rgb: tuple[float, float, float]) -> NDArray[np.uint8]:
    """A crop without any of the image."""
    return np.full((size, size, 3), np.rint(fill_rgb), np.uint8)


def mean_rgb(frame: Frame) -> tuple[float, float, float]:
    """Mean colour of a frame (R, G, B in 0..255)."""
    b, g, r, _ = cv2.mean(frame.bgr())
    return (r, g, b)
