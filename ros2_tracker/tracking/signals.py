"""What one answer says of its own reliability: the shape of the score map, the box's step, what it shows, the image.

Right after the network has emptied the caches, the first call of any function of NumPy or OpenCV takes some 40 us,
however little it does. So there are few of them here, and the rest is plain Python on bytes. docs/reliability.md says
how much each signal tells.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from operator import mul, sub
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ros2_tracker.tracking.crop import Region, crop
from ros2_tracker.tracking.family import Look, Proposal
from ros2_tracker.tracking.frame import ColorOrder, Frame
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.result import ReliabilitySignals

# Cells around the peak that belong to it (a 5x5 square; Bolme et al. use 11x11 px of a finer map).
_PEAK_RADIUS = 2
_EPSILON = 1e-6
# Side of the picture of a target, px: coarse, so that a box that is a little off does not upset it.
_SIDE = 12
# Rows of the image that are averaged to one of the picture: less would flicker, more is not worth their time.
_ROWS_PER_ROW = 2
# Four levels a channel, so that the three of a pixel make one number below 64.
_LEVELS = [bytes(step * (value >> 6) for value in range(256)) for step in (16, 4, 1)]
_TRUSTED = 0.8
"""Reliability from which a view is what the next ones are compared with."""
# Strips of an image row that are looked at, px.
_STRIP_PX = 64
# Video black and what a sensor clips at.
_BLACK_OR_WHITE = bytes([*range(17), *range(250, 256)])


class MapSignals(NamedTuple):
    """What the shape of an (F, F) score map says."""

    psr: float
    """Peak-to-sidelobe ratio: (peak - mean) / deviation outside the peak's surroundings (Bolme et al., CVPR 2010)."""
    apce: float
    """Average peak-to-correlation energy: |max - min|^2 / mean((map - min)^2) (Wang et al., CVPR 2017, eq. 9)."""
    margin: float
    """Peak minus the highest score outside the target, in [-1, 1]; negative where a look-alike is higher."""
    entropy: float
    """Collision entropy (Renyi's of order 2) of the map as a distribution, 0 (one cell) to 1 (uniform)."""


def map_signals(
    score_map: NDArray[np.floating], cell: tuple[int, int], reach: tuple[int, int] = (_PEAK_RADIUS, _PEAK_RADIUS)
) -> MapSignals:
    """Signals of a map whose peak is at `cell` (row, column); the target covers `reach` cells on each side of it."""
    row, column = cell
    low, high, _, _ = cv2.minMaxLoc(score_map)
    total, squares = cv2.sumElems(score_map)[0], cv2.norm(score_map, cv2.NORM_L2SQR)
    near = _around(score_map, cell, (_PEAK_RADIUS, _PEAK_RADIUS))[-1]
    cells, count = score_map.size, score_map.size - near.size
    mean = (total - cv2.sumElems(near)[0]) / count
    variance = (squares - cv2.norm(near, cv2.NORM_L2SQR)) / count - mean * mean
    peak = float(score_map[row, column])
    psr = (peak - mean) / (math.sqrt(max(variance, 0.0)) + 1e-3)

    energy = (squares - 2.0 * low * total) / cells + low * low
    apce = (high - low) ** 2 / (max(energy, 0.0) + _EPSILON)

    others = (cv2.minMaxLoc(part)[1] for part in _around(score_map, cell, reach)[:-1] if part.size)
    entropy = math.log(max(total * total / squares, 1.0)) / math.log(cells) if squares > 0.0 else 1.0
    return MapSignals(psr, apce, peak - max(others, default=0.0), entropy)


def _around(score_map: NDArray[np.floating], cell: tuple[int, int], reach: tuple[int, int]) -> list[NDArray]:
    """The parts of a map above, below, left and right of a rectangle around a cell, and the rectangle."""
    (row, column), (rows, columns) = cell, reach
    top, bottom, left, right = max(row - rows, 0), row + rows + 1, max(column - columns, 0), column + columns + 1
    middle = score_map[top:bottom]
    return [score_map[:top], score_map[bottom:], middle[:, :left], middle[:, right:], middle[:, left:right]]


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A small picture of a target, ready to be compared."""

    pattern: bytes
    """(144,) its green, which is most of what is seen as bright."""
    mean: float
    """Of the pattern."""
    contrast: float
    """Length of the pattern without its mean."""
    colours: Counter[int]
    """How many pixels have which of 64 colours."""

    @classmethod
    def of(cls, frame: Frame, box: Box, fill: tuple[float, float, float]) -> View:
        """Of the square at a box, of the same area; `fill` (R, G, B) outside the image."""
        first, green, last = _planes(*_picture(frame, box, fill))
        mean = sum(green) / len(green)
        contrast = math.sqrt(max(sum(map(mul, green, green)) - len(green) * mean * mean, 0.0))
        # Adding the levels of all pixels at once: none of the sums leaves its byte.
        levels = zip(_LEVELS, (first, green, last), strict=True)
        codes = sum(int.from_bytes(plane.translate(table), "big") for table, plane in levels)
        return cls(green, mean, contrast, Counter(codes.to_bytes(len(green), "big")))

    def same_colours(self, other: View) -> float:
        """Bhattacharyya coefficient of the histograms, in [0, 1]."""
        theirs = other.colours
        shared = sum(math.sqrt(n * theirs[code]) for code, n in self.colours.items() if code in theirs)
        return shared / len(self.pattern)

    def same_pattern(self, other: View) -> float:
        """Zero-mean normalised cross-correlation, in [-1, 1]; 0 where either is of one colour."""
        product = sum(map(mul, self.pattern, other.pattern)) - len(self.pattern) * self.mean * other.mean
        return product / (self.contrast * other.contrast + _EPSILON)


def _picture(frame: Frame, box: Box, fill: tuple[float, float, float]) -> tuple[NDArray[np.uint8], ColorOrder]:
    region, finer = Region.around(box, 1.0), _ROWS_PER_ROW * _SIDE
    x, y, side = round(region.x), round(region.y), round(region.side)
    # Of a small target, half a pixel would be much.
    if side < finer or x < 0 or y < 0 or x + side > frame.width or y + side > frame.height:
        pixels, order = crop(frame, region, finer, fill), ColorOrder.RGB
    else:
        pixels, order = frame.region(x, y, x + side, y + side)
        pixels = pixels[:: side // finer]
    return cv2.resize(pixels, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), order


def _planes(pixels: NDArray[np.uint8], order: ColorOrder) -> tuple[bytes, bytes, bytes]:
    """Its three channels, green in the middle. One camera has one order, so red and blue need not be told apart."""
    flat, step = pixels.tobytes(), order.channels
    return (flat, flat, flat) if step == 1 else (flat[0::step], flat[1::step], flat[2::step])


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
        across = [(width * i // 8, height * j // 6) for i, j in ((1, 1), (4, 3), (7, 5))]
        return cls(_pixels(frame, across), Strips.at(frame, box))

    @staticmethod
    def at(frame: Frame, box: Box) -> bytes:
        """Two from a box."""
        return _pixels(frame, [(int(box.cx), int(box.y + part * box.h)) for part in (0.35, 0.65)])


def _pixels(frame: Frame, centers: list[tuple[int, int]]) -> bytes:
    """The green of strips of a row around places, moved into the image."""
    length = min(_STRIP_PX, frame.width)
    strips = []
    for cx, cy in centers:
        x = min(max(cx - length // 2, 0), frame.width - length)
        y = min(max(cy, 0), frame.height - 1)
        pixels, order = frame.region(x, y, x + length, y + 1)
        strips.append(pixels.tobytes()[order.channels // 2 :: order.channels])
    return b"".join(strips)


class Seen(NamedTuple):
    """What was made of one answer."""

    signals: ReliabilitySignals
    view: View
    """Of the box that was found."""
    strips: Strips
    """Of the image, and of that box."""
    box: Box


@dataclass(frozen=True, slots=True, eq=False)
class Familiar:
    """What the signals of one target are relative to; replaced as a whole in each frame."""

    first: View
    """Of the box that the user drew."""
    detail: float
    """Of that box; see `_detail`."""
    recent: View
    """Of the last frame of high reliability."""
    strips: Strips
    """Of the image before, and of the box in it,"""
    box: Box
    """which was there."""
    frozen_for: float
    """Seconds since they last changed."""
    fill: tuple[float, float, float]
    """Colour outside the image (R, G, B in 0..255)."""
    trusted: ReliabilitySignals | None = None
    """Signals of the last frame of high reliability."""

    @classmethod
    def of(cls, frame: Frame, box: Box, fill: tuple[float, float, float]) -> Familiar:
        """On the frame the box was drawn on."""
        first, strips = View.of(frame, box, fill), Strips.of(frame, box)
        return cls(first, _detail(strips.target), first, strips, box, 0.0, fill)

    def seen(
        self, frame: Frame, look: Look, found: Proposal, dt: float, motion_distance: float, size_update: float
    ) -> Seen:
        """The signals of an answer.

        Args:
            frame: that was looked at.
            look: that the answer is to.
            found: the answer.
            dt: seconds since the frame before.
            motion_distance: of the found centre from the predicted one, in deviations.
            size_update: weight of the network's own width and height in the found ones, in (0, 1].

        """
        # A centre map shows the target as large as it is, a corner map does not.
        cells = found.score_maps[0].shape[0] if len(found.score_maps) == 1 else 0
        reach = _reach(found.box, look.region.side, cells)
        maps = [map_signals(m, cell, reach) for m, cell in zip(found.score_maps, found.cells, strict=True)]
        size_change, aspect_change = _changes(look.last, found.box, size_update)
        view = View.of(frame, found.box, self.fill)
        strips = Strips.of(frame, self.box)
        frozen = strips == self.strips
        target = strips.target if found.box == self.box else Strips.at(frame, found.box)
        signals = ReliabilitySignals(
            peak=found.score,
            # Of two corners the worse one counts.
            psr=min(each.psr for each in maps),
            apce=min(each.apce for each in maps),
            motion_distance=motion_distance,
            margin=min(each.margin for each in maps),
            entropy=max(each.entropy for each in maps),
            size_change=size_change,
            aspect_change=aspect_change,
            # Since then the target may have turned: only its colours count.
            similarity_first=view.same_colours(self.first),
            similarity_recent=0.5 * (view.same_colours(self.recent) + view.same_pattern(self.recent)),
            sharpness=min(_detail(target) / max(self.detail, _EPSILON), 10.0),
            exposure=len(strips.image.translate(None, _BLACK_OR_WHITE)) / len(strips.image),
            frozen_for=self.frozen_for + dt if frozen else 0.0,
        )
        return Seen(signals, view, Strips(strips.image, target), found.box)

    def after(self, seen: Seen, reliability: float) -> Familiar:
        """What the next frame is compared with."""
        trusted = reliability >= _TRUSTED
        return Familiar(
            self.first,
            self.detail,
            seen.view if trusted else self.recent,
            seen.strips,
            seen.box,
            seen.signals.frozen_for,
            self.fill,
            seen.signals if trusted else self.trusted,
        )


def _detail(strips: bytes) -> float:
    """Mean difference between neighbouring pixels of a target's strips."""
    return sum(map(abs, map(sub, strips[1:], strips))) / len(strips)


def _reach(box: Box, side: float, cells: int) -> tuple[int, int]:
    """Rows and columns of the score map of a region that a box covers on each side of its centre, and one more."""
    scale = cells / (2.0 * side)
    return max(round(box.h * scale) + 1, _PEAK_RADIUS), max(round(box.w * scale) + 1, _PEAK_RADIUS)


def _changes(last: Box, found: Box, size_update: float) -> tuple[float, float]:
    """|log| of the ratios of area and of aspect between the box before and the network's own, unsmoothed one."""
    w, h = (
        max(before + (now - before) / size_update, 0.01 * before)
        for before, now in ((last.w, found.w), (last.h, found.h))
    )
    wider, higher = math.log(w / last.w), math.log(h / last.h)
    return abs(wider + higher), abs(wider - higher)
