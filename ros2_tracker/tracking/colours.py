"""Where in an image the colours of a target are: a cheap guess of where to look for it first."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ros2_tracker.tracking.frame import ColorOrder, Frame
from ros2_tracker.tracking.geometry import Box

# Levels of a channel, as bits: coarse, so that a little more light changes little.
_BITS = 2
_COLOURS = 1 << 3 * _BITS
# Samples along the target's size; and of the whole image, which bounds what small targets and large images cost.
_PER_SIZE, _MOST = 4.0, 40_000
# How much a colour's share of the whole image counts against it.
_COMMON = 4.0
# A place within so many of the target's sizes of another one is the same.
_APART = 1.2


@dataclass(frozen=True, slots=True, eq=False)
class Colours:
    """Which colours a target has."""

    shares: NDArray[np.float32]
    """(64,) of the target's pixels, by code: two bits of red, of green, of blue."""

    @classmethod
    def of(cls, crop: NDArray[np.uint8], x0: float, y0: float, x1: float, y1: float) -> Colours | None:
        """Of a rectangle in an (S, S, 3) uint8 RGB crop, px; None where nothing of it is inside."""
        left, top = max(math.floor(x0), 0), max(math.floor(y0), 0)
        part = crop[top : max(math.ceil(y1), 0), left : max(math.ceil(x1), 0)]
        if not part.size:
            return None
        counts = np.bincount(_codes(part, ColorOrder.RGB).ravel(), minlength=_COLOURS)
        return cls((counts / counts.sum()).astype(np.float32))

    def in_common(self, other: Colours) -> float:
        """Bhattacharyya coefficient of both, in [0, 1]: 1 for the same colours in the same shares."""
        return float(np.sqrt(self.shares * other.shares).sum())

    def places(self, frame: Frame, box: Box, count: int) -> list[tuple[float, float]]:
        """Up to `count` places, px, best first, where a rectangle of the box's size has them and its surroundings less.

        Every fourth pixel of the target's size is looked at, but no more than 40,000 of the image.
        """
        pixels, order = frame.region(0, 0, frame.width, frame.height)
        stride = max(int(max(box.size / _PER_SIZE, math.sqrt(frame.width * frame.height / _MOST))), 1)
        # An image may be smaller than a stride.
        top, left = min(stride // 2, frame.height - 1), min(stride // 2, frame.width - 1)
        codes = _codes(np.ascontiguousarray(pixels[top::stride, left::stride]), order)
        common = np.bincount(codes.ravel(), minlength=_COLOURS) / codes.size
        likely = (self.shares / (self.shares + _COMMON * common + 1e-3)).astype(np.float32)[codes]
        inside = max(round(box.w / stride), 1), max(round(box.h / stride), 1)
        around = 2 * inside[0] + 1, 2 * inside[1] + 1
        merit = cv2.blur(likely, inside) - cv2.blur(likely, around)
        apart = max(int(_APART * box.size / stride), 1)
        found = []
        for _ in range(count):
            _, best, _, (x, y) = cv2.minMaxLoc(merit)
            if best <= 0.0:
                break
            found.append(((x + 0.5) * stride, (y + 0.5) * stride))
            merit[max(y - apart, 0) : y + apart + 1, max(x - apart, 0) : x + apart + 1] = -1.0
        return found


def _codes(pixels: NDArray[np.uint8], order: ColorOrder) -> NDArray[np.uint8]:
    """(h, w) colour codes."""
    levels = pixels >> (8 - _BITS)
    if levels.ndim == 2:
        return levels * np.uint8(1 + (1 << _BITS) + (1 << 2 * _BITS))
    r, g, b = order.rgb
    return (levels[..., r] << 2 * _BITS) | (levels[..., g] << _BITS) | levels[..., b]
