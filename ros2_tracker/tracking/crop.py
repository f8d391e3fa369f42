"""Cut the square region that the network looks at, by one `warpAffine` of just that part of the frame."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ros2_tracker.tracking.frame import Frame, to_rgb
from ros2_tracker.tracking.geometry import Box

# Bilinear sampling reads one pixel beyond the region.
_APRON_PX = 2


@dataclass(frozen=True, slots=True)
class Region:
    """A square of the image, in pixels; may reach beyond the border."""

    x: float
    y: float
    side: float

    @classmethod
    def around(cls, box: Box, factor: float) -> Region:
        """Square of side factor * sqrt(w * h), at least 2 px, with the box's centre."""
        side = max(factor * box.size, 2.0)
        return cls(box.cx - side / 2, box.cy - side / 2, side)

    def to_image(self, cx: float, cy: float, w: float, h: float) -> Box:
        """Box in the image from a centre and size given as fractions of the region's side."""
        return Box.from_center(self.x + cx * self.side, self.y + cy * self.side, w * self.side, h * self.side)


def crop(frame: Frame, region: Region, size: int, fill_rgb: tuple[float, float, float]) -> NDArray[np.uint8]:
    """The region resampled bilinearly to `size` x `size` x 3 uint8 RGB; `fill_rgb` (0..255) outside the image.

    Only the part of the frame under the region is read, and colour is converted after resampling.
    """
    x0 = min(max(math.floor(region.x) - _APRON_PX, 0), frame.width)
    y0 = min(max(math.floor(region.y) - _APRON_PX, 0), frame.height)
    x1 = min(max(math.ceil(region.x + region.side) + _APRON_PX, 0), frame.width)
    y1 = min(max(math.ceil(region.y + region.side) + _APRON_PX, 0), frame.height)
    if x1 <= x0 or y1 <= y0:
        return np.full((size, size, 3), np.rint(fill_rgb), np.uint8)
    pixels, order = frame.region(x0, y0, x1, y1)
    step = region.side / size
    # Pixel centres lie at +0.5 in our coordinates and at whole numbers in OpenCV's.
    matrix = np.array(
        [[step, 0.0, region.x - x0 + 0.5 * step - 0.5], [0.0, step, region.y - y0 + 0.5 * step - 0.5]], np.float64
    )
    warped = cv2.warpAffine(
        pixels,
        matrix,
        (size, size),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=order.fill_value(fill_rgb),
    )
    return to_rgb(warped, order)


def mean_rgb(frame: Frame) -> tuple[float, float, float]:
    """Mean colour of a frame (R, G, B in 0..255)."""
    b, g, r, _ = cv2.mean(frame.bgr())
    return (r, g, b)
