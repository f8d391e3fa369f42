"""What one answer says of its own reliability: the shape of the score map, the box's step, what it shows, the image.

Right after the network the caches hold nothing of ours: the first call of a function of NumPy or OpenCV takes 10 to
40 us, however little it does, and plain Python several times what it takes otherwise. So there are few such calls, and
a signal is computed when it is asked for: what is kept for that holds no pixels of the camera's buffer.
docs/reliability.md says how much each signal tells.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from operator import sub
from typing import NamedTuple

import numpy as np

from ros2_tracker.tracking.family import Look, Proposal
from ros2_tracker.tracking.frame import Frame
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.result import ReliabilitySignals
from ros2_tracker.tracking.score_map import PEAK_RADIUS, MapShape
from ros2_tracker.tracking.views import Strips, View

_EPSILON = 1e-6
# Of a box: strips of another that is no further off, or larger or smaller, will do.
_NEAR = 0.2
TRUSTED = 0.8
"""Reliability from which a view is what the next ones are compared with."""
# Video black and what a sensor clips at.
_BLACK_OR_WHITE = bytes([*range(17), *range(250, 256)])


class _Answer(NamedTuple):
    """What signals are computed from; none of it is a view on the camera's buffer."""

    maps: tuple[MapShape, ...]
    box: Box
    last: Box
    """The one before."""
    side: float
    """Of the search region, px."""
    size_update: float
    view: View
    first: View
    recent: View
    strips: Strips
    """Of the image and of the target; see `Seen.strips`."""
    detail: float
    """Of the first box."""

    # Of two corners the worse one counts.
    def psr(self) -> float:
        return min([shape.psr() for shape in self.maps])

    def apce(self) -> float:
        return min([shape.apce() for shape in self.maps])

    def margin(self) -> float:
        # A centre map shows the target as large as it is, a corner map does not.
        cells = self.maps[0].scores.shape[0] if len(self.maps) == 1 else 0
        reach = _reach(self.box, self.side, cells)
        return min([shape.margin(reach) for shape in self.maps])

    def entropy(self) -> float:
        return max([shape.entropy() for shape in self.maps])

    def size_change(self) -> float:
        wider, higher = self._changes()
        return abs(wider + higher)

    def aspect_change(self) -> float:
        wider, higher = self._changes()
        return abs(wider - higher)

    def similarity_first(self) -> float:
        # Since then the target may have turned: only its colours count.
        return self.view.same_colours(self.first)

    def similarity_recent(self) -> float:
        return 0.5 * (self.view.same_colours(self.recent) + self.view.same_pattern(self.recent))

    def sharpness(self) -> float:
        return min(_detail(self.strips.target) / max(self.detail, _EPSILON), 10.0)

    def exposure(self) -> float:
        image = self.strips.image
        return len(image.translate(None, _BLACK_OR_WHITE)) / len(image)

    def _changes(self) -> tuple[float, float]:
        """Log of the ratios of width and of height between the box before and the network's own, unsmoothed one."""
        last, found, weight = self.last, self.box, self.size_update
        w = max(last.w + (found.w - last.w) / weight, 0.01 * last.w)
        h = max(last.h + (found.h - last.h) / weight, 0.01 * last.h)
        return math.log(w / last.w), math.log(h / last.h)


_LATER: dict[str, Callable[[_Answer], float]] = {
    name: getattr(_Answer, name)
    for name in (
        "psr", "apce", "margin", "entropy", "size_change", "aspect_change", "similarity_first", "similarity_recent",
        "sharpness", "exposure",
    )
}  # fmt: skip


# The class is frozen for all others.
_set = object.__setattr__


class SignalsOfAnswer(ReliabilitySignals):
    """Signals of one answer, each computed when it is asked for the first time."""

    __slots__ = ("_answer",)
    _answer: _Answer

    @classmethod
    def of(cls, answer: _Answer, peak: float, motion_distance: float, frozen_for: float) -> SignalsOfAnswer:
        """With those that are known already."""
        signals = object.__new__(cls)
        _set(signals, "_answer", answer)
        _set(signals, "peak", peak)
        _set(signals, "motion_distance", motion_distance)
        _set(signals, "frozen_for", frozen_for)
        return signals

    def __getattr__(self, name: str) -> float:
        # Only called where there is no value yet.
        compute = _LATER.get(name)
        if compute is None:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}", name=name, obj=self)
        value = compute(self._answer)
        _set(self, name, value)
        return value


class Seen(NamedTuple):
    """What was made of one answer."""

    signals: ReliabilitySignals
    view: View
    """Of the box that was found."""
    box: Box
    """That box."""
    strips: Strips
    """Of the image, and of a box,"""
    spot: Box
    """which is that one, or one before that covers much of the same."""


class Familiar(NamedTuple):
    """What the signals of one target are relative to; replaced as a whole in each frame."""

    first: View
    """Of the box that the user drew."""
    detail: float
    """Of that box; see `_detail`."""
    recent: View
    """Of the last frame of high reliability."""
    strips: Strips
    """Of the image before, and of the target in it,"""
    spot: Box
    """where it was then, or nearly so."""
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

    def strips_of(self, frame: Frame) -> Strips:
        """Of the next image, where those of the one before are: `seen` compares them.

        They are best read together with the search crop, before the network: then their pixels are at hand.
        """
        return Strips.of(frame, self.spot)

    def seen(
        self,
        frame: Frame,
        look: Look,
        found: Proposal,
        maps: tuple[MapShape, ...],
        strips: Strips,
        dt: float,
        motion_distance: float,
        size_update: float,
    ) -> Seen:
        """The signals of an answer.

        Args:
            frame: that was looked at.
            look: that the answer is to.
            found: the answer.
            maps: its score maps.
            strips: of the frame; see `strips_of`.
            dt: seconds since the frame before.
            motion_distance: of the found centre from the predicted one, in deviations.
            size_update: weight of the network's own width and height in the found ones, in (0, 1].

        """
        box = found.box
        view = _view(frame, look, box, self.fill)
        there, spot = strips, self.spot
        if not _is_on(spot, box):
            there, spot = Strips(strips.image, Strips.at(frame, box)), box
        answer = _Answer(
            maps, box, look.last, look.region.side, size_update, view, self.first, self.recent, there, self.detail
        )
        frozen_for = self.frozen_for + dt if strips == self.strips else 0.0
        return Seen(SignalsOfAnswer.of(answer, found.score, motion_distance, frozen_for), view, box, there, spot)

    def after(self, seen: Seen, reliability: float) -> Familiar:
        """What the next frame is compared with; from now on `seen` holds no search crop."""
        trusted = reliability >= TRUSTED
        seen.view.keep()
        return Familiar(
            self.first,
            self.detail,
            seen.view if trusted else self.recent,
            seen.strips,
            seen.spot,
            seen.signals.frozen_for,
            self.fill,
            seen.signals if trusted else self.trusted,
        )


def _view(frame: Frame, look: Look, box: Box, fill: tuple[float, float, float]) -> View:
    """Of a box that was found. Of the search crop where that shows it: the frame's pixels have left the caches."""
    cut = look.inputs.get("search")
    if isinstance(cut, np.ndarray) and cut.dtype == np.uint8:
        there = look.in_crop(box)
        reach = 0.5 * there.size + 1.0
        if reach <= min(there.cx, there.cy) and max(there.cx, there.cy) <= len(cut) - reach:
            return View.within(cut, there, fill)
    return View.of(frame, box, fill)


def _is_on(spot: Box, box: Box) -> bool:
    """Whether strips of one box show what the other holds as well as its own would: reading those takes 15 us."""
    across, down = _NEAR * box.w, _NEAR * box.h
    return (
        abs(spot.cx - box.cx) <= across
        and abs(spot.cy - box.cy) <= down
        and abs(spot.w - box.w) <= across
        and abs(spot.h - box.h) <= down
    )


def _detail(strips: bytes) -> float:
    """Mean difference between neighbouring pixels of a target's strips."""
    return sum(map(abs, map(sub, strips[1:], strips))) / len(strips)


def _reach(box: Box, side: float, cells: int) -> tuple[int, int]:
    """Rows and columns of the score map of a region that a box covers on each side of its centre, and one more."""
    scale = cells / (2.0 * side)
    return max(round(box.h * scale) + 1, PEAK_RADIUS), max(round(box.w * scale) + 1, PEAK_RADIUS)
