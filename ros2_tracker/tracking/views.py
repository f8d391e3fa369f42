"""What is kept of an image to compare later ones with: a small picture of the target, and some strips of pixels.

Neither is a view on the camera's buffer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from operator import mul
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ros2_tracker.tracking.crop import Region, crop
from ros2_tracker.tracking.frame import ArrayFrame, ColorOrder, Frame, to_rgb
from ros2_tracker.tracking.geometry import Box

_EPSILON = 1e-6
# Side of the picture of a target, px: coarse, so that a box that is a little off does not upset it.
_SIDE = 12
# Rows of the image that are averaged to one of the picture: less would flicker, more is not worth their time.
_ROWS_PER_ROW = 2
# A square of at most this side is copied, and its picture made when it is asked for, px.
_COPIED = 128
# Four levels a channel, so that the three of a pixel make one number below 64.
_LEVELS = [bytes(step * (value >> 6) for value in range(256)) for step in (16, 4, 1)]
# Strips of an image row that are looked at, px.
_STRIP_PX = 64
# Where, in eighths of the image's width and sixths of its height; and where in a target, in its heights.
_ACROSS = ((1, 1), (4, 3), (7, 5))
_DOWN = (0.35, 0.65)


class View:
    """A small picture of a target, ready to be compared."""

    __slots__ = ("_colours", "_cut", "_moments", "_order", "_pixels", "_planes")

    def __init__(
        self, pixels: NDArray[np.uint8], order: ColorOrder, cut: Callable[[], NDArray[np.uint8]] | None = None
    ) -> None:
        """Of all of these pixels, which are kept; or of what `cut` makes of them when they are needed."""
        self._pixels, self._order, self._cut = pixels, order, cut
        # Most views are never compared with another.
        self._planes: tuple[bytes, bytes, bytes] | None = None
        self._colours: dict[int, float] | None = None
        self._moments: tuple[float, float] | None = None

    @classmethod
    def of(cls, frame: Frame, box: Box, fill: tuple[float, float, float]) -> View:
        """Of the square at a box, of the same area; `fill` (R, G, B) outside the image."""
        return cls(*_square(frame, box, fill))

    @classmethod
    def within(cls, crop: NDArray[np.uint8], box: Box, fill: tuple[float, float, float]) -> View:
        """The same of a crop (RGB) that nobody will write to; until `keep` all of it is held."""
        return cls(crop, ColorOrder.RGB, lambda: _square(ArrayFrame(crop, ColorOrder.RGB), box, fill)[0])

    def keep(self) -> None:
        """Hold no more pixels than are needed."""
        cut = self._cut  # another thread may read signals
        if cut is not None:
            self._pixels, self._cut = cut(), None

    @property
    def pattern(self) -> bytes:
        """(144,) green of the picture: most of what is seen as bright."""
        return self._picture()[1]

    @property
    def colours(self) -> dict[int, float]:
        """The root of each of 64 colours' count in the picture, of those that it has."""
        if self._colours is None:
            # Adding the levels of all pixels at once: none of the sums leaves its byte.
            levels = zip(_LEVELS, self._picture(), strict=True)
            codes = sum(int.from_bytes(plane.translate(table), "big") for table, plane in levels)
            pixels = codes.to_bytes(len(self.pattern), "big")
            self._colours = {code: math.sqrt(pixels.count(code)) for code in set(pixels)}
        return self._colours

    def _picture(self) -> tuple[bytes, bytes, bytes]:
        """Red, green and blue of the picture, (144,) each."""
        if self._planes is None:
            self.keep()
            picture = cv2.resize(self._pixels, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
            flat = to_rgb(picture, self._order).tobytes()
            self._pixels = picture  # results are kept, and need not hold more
            self._planes = flat[0::3], flat[1::3], flat[2::3]
        return self._planes

    def same_colours(self, other: View) -> float:
        """Bhattacharyya coefficient of the histograms, in [0, 1]."""
        theirs = other.colours
        return sum([root * theirs[code] for code, root in self.colours.items() if code in theirs]) / len(self.pattern)

    def same_pattern(self, other: View) -> float:
        """Zero-mean normalised cross-correlation, in [-1, 1]; 0 where either is of one colour."""
        (mine, contrast), (theirs, other_contrast) = self.moments(), other.moments()
        product = sum(map(mul, self.pattern, other.pattern)) - len(self.pattern) * mine * theirs
        return product / (contrast * other_contrast + _EPSILON)

    def moments(self) -> tuple[float, float]:
        """Mean of the pattern, and its length without it; computed once, as a view can be compared for long."""
        if self._moments is None:
            pattern = self.pattern
            mean = sum(pattern) / len(pattern)
            left = sum(map(mul, pattern, pattern)) - len(pattern) * mean * mean
            self._moments = mean, math.sqrt(max(left, 0.0))
        return self._moments


def _square(frame: Frame, box: Box, fill: tuple[float, float, float]) -> tuple[NDArray[np.uint8], ColorOrder]:
    """The pixels of a box's square, of some of its rows, as a copy."""
    exact, finer = box.size, _ROWS_PER_ROW * _SIDE
    x, y, side = round(box.cx - exact / 2), round(box.cy - exact / 2), round(exact)
    # Of a small target, half a pixel would be much.
    if side < finer or x < 0 or y < 0 or x + side > frame.width or y + side > frame.height:
        return crop(frame, Region.around(box, 1.0), finer, fill), ColorOrder.RGB
    pixels, order = frame.region(x, y, x + side, y + side)
    rows = pixels[:: side // finer]
    if side > _COPIED:
        # Results that somebody keeps would hold it all.
        return cv2.resize(rows, (finer, finer), interpolation=cv2.INTER_AREA), order
    return rows.copy(), order


class Strips(NamedTuple):
    """Some pixels of an image: two images of one camera have the same ones only if it is stuck."""

    image: bytes
    """From all over the image."""
    target: bytes
    """From the target, which may be all that moves. Green."""

    @classmethod
    def of(cls, frame: Frame, box: Box) -> Strips:
        """Three from the image, two from a box."""
        width, height = frame.width, frame.height
        across = [(width * i // 8, height * j // 6) for i, j in _ACROSS]
        both = _pixels(frame, across + _places(box))
        end = len(both) * len(_ACROSS) // (len(_ACROSS) + len(_DOWN))
        return cls(both[:end], both[end:])

    @staticmethod
    def at(frame: Frame, box: Box) -> bytes:
        """Two from a box."""
        return _pixels(frame, _places(box))


def _places(box: Box) -> list[tuple[int, int]]:
    x = int(box.cx)
    return [(x, int(box.y + part * box.h)) for part in _DOWN]


def _pixels(frame: Frame, centers: list[tuple[int, int]]) -> bytes:
    """The green of strips of a row around places, moved into the image."""
    width, height = frame.width, frame.height
    length = min(_STRIP_PX, width)
    strips = []
    for cx, cy in centers:
        x = min(max(cx - length // 2, 0), width - length)
        y = min(max(cy, 0), height - 1)
        strips.append(frame.region(x, y, x + length, y + 1)[0].tobytes())
    flat = b"".join(strips)
    step = len(flat) // (length * len(centers))
    return flat[step // 2 :: step]
