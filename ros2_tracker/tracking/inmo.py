"""InMo's published loops (SPEC 3.7): mean-coloured crops, penalties for a change of shape, a window added, smoothing.

Both keep the units in which the authors' penalties compare sizes, slips included: their settings were tuned with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from ros2_tracker.engines.base import Engine, NamedArrays
from ros2_tracker.models.variant import Variant
from ros2_tracker.tracking.crop import mean_rgb
from ros2_tracker.tracking.family import Appearance, Look, Proposal, blended, require_finite
from ros2_tracker.tracking.frame import Frame
from ros2_tracker.tracking.geometry import Box, BoxError
from ros2_tracker.tracking.inmo_crop import context_side, sub_window, window_crop, window_patch
from ros2_tracker.tracking.inmo_settings import CNNINMO, TRANSINMO, LoopSettings, loop_settings

_MIN_SIDE_PX = 10.0
_FINE = 193
"""Side of CNNInMo's maps when they are read: the middle of the search region, a cell a pixel."""
_REACH_PX = (12.0, 55.0)
"""Smallest and largest distance to a side of the box within which CNNInMo's best cell is looked for again."""


@dataclass(frozen=True, slots=True)
class InMoAppearance(Appearance):
    """Features of the template."""

    template_side: int = 0
    """Of the region that the template was cut from, px."""


@dataclass(frozen=True, slots=True)
class InMoLook(Look):
    """A look that knows how large the template was."""

    template_side: int = 0
    """See `InMoAppearance`."""


class _InMo:
    """What both loops share; see `tracking.family.Family`."""

    def __init__(
        self, variant: Variant, template_engine: Engine, published: Mapping[str, LoopSettings], lazy: bool
    ) -> None:
        """`template_engine` runs the template graph: its features are computed once and kept.

        `lazy`: search crops are left to the engine; see `engines.patch`.
        """
        self._variant = variant
        self._cut = window_patch if lazy else window_crop
        self.template_engine = template_engine
        self.loop = loop_settings(published, variant.loop)
        self.inputs = frozenset({"search", *(f"template_{name}" for name in template_engine.outputs)})

    def appearance(self, frame: Frame, box: Box, fill: tuple[float, float, float] | None = None) -> InMoAppearance:
        """Features of the template, and the frame's mean colour for all that will lie outside of images."""
        if fill is None:
            red, green, blue = (float(math.trunc(value)) for value in mean_rgb(frame))
            fill = (red, green, blue) if self._variant.fill == "mean" else (0.0, 0.0, 0.0)
        return InMoAppearance(self._features(frame, box, fill), fill, self._template_side(box))

    def look(self, appearance: Appearance, frame: Frame, last: Box, zoom: float = 1.0) -> InMoLook:
        """The search crop beside the features."""
        region = sub_window(last, self._search_side(last, zoom), self._variant.search.size)
        inputs = {**appearance.inputs, "search": self._cut(frame, region, appearance.fill)}
        assert isinstance(appearance, InMoAppearance)  # of this family
        return InMoLook(inputs, region, last, frame.width, frame.height, appearance.template_side)

    def renewed(self, appearance: Appearance, frame: Frame, found: Proposal, frame_number: int) -> Appearance:
        """The first template for ever."""
        return appearance

    def updated(self, first: Appearance, frame: Frame, box: Box, weight: float) -> Appearance | None:
        """Features of both views, blended."""
        if weight <= 0.0:
            return None
        recent = self._features(frame, box, first.fill)
        mixed = {name: blended(value, recent[name], weight) for name, value in first.inputs.items()}
        return replace(first, inputs=mixed)

    def _search_side(self, last: Box, zoom: float) -> int:
        raise NotImplementedError

    def _features(self, frame: Frame, box: Box, fill: tuple[float, float, float]) -> dict[str, NDArray]:
        """Template features under the names of the search graph's inputs."""
        region = sub_window(box, self._template_side(box), self._variant.template.size)
        shown = window_crop(frame, region, fill)
        (made,) = self.template_engine.run([{"template": shown}])
        return {f"template_{name}": value for name, value in made.items()}

    def _template_side(self, box: Box) -> int:
        side = round(context_side(box, self._variant.template.factor))
        if side < 1:
            raise BoxError(f"box {box.w:g}x{box.h:g} px is too small to be cut out")
        return side


class TransInMo(_InMo):
    """Networks with a `score_map` and a box a cell."""

    outputs = frozenset({"score_map", "box_map"})

    def __init__(self, variant: Variant, template_engine: Engine, lazy: bool = False) -> None:
        super().__init__(variant, template_engine, TRANSINMO, lazy)

    def proposal(self, look: Look, outputs: NamedArrays, cell: tuple[int, int] | None = None) -> Proposal:
        """The cell of the best score, penalised and with the window; its box, smoothed and kept in the image."""
        score_map, boxes, loop = outputs["score_map"], outputs["box_map"], self.loop
        require_finite(score=score_map.max(), box=boxes.sum())
        cells, last, region = score_map.shape[0], look.last, look.region
        in_image = boxes.astype(np.float64) * region.side
        penalty = np.ones((cells, cells))
        if loop.penalty:
            # The units slip: pixels of the image against those of the template.
            assert isinstance(look, InMoLook)
            scale = self._variant.template.size / look.template_side
            penalty = shape_penalty(in_image[2], in_image[3], last.w * scale, last.h * scale, loop.penalty)
        ranked = penalty * score_map * (1.0 - loop.window) + _window(cells) * loop.window
        row, column = cell or divmod(int(ranked.argmax()), cells)
        cx, cy, w, h = (float(value) for value in in_image[:, row, column])
        rate = loop.size_rate
        if loop.penalty:
            rate *= float(penalty[row, column] * ranked[row, column])
        box = _kept(
            last.cx + cx - region.side / 2,
            last.cy + cy - region.side / 2,
            rate * w + (1.0 - rate) * last.w,
            rate * h + (1.0 - rate) * last.h,
            look,
        )
        return Proposal(box, float(score_map[row, column]), score_map[None], ((row, column),))

    def _search_side(self, last: Box, zoom: float) -> int:
        return max(math.ceil(context_side(last, self._variant.search.factor) * zoom), 1)


class CnnInMo(_InMo):
    """Networks with a `score_map`, a `center_map` and the distances `ltrb` to the sides from each cell."""

    outputs = frozenset({"score_map", "center_map", "ltrb"})

    def __init__(self, variant: Variant, template_engine: Engine, lazy: bool = False) -> None:
        super().__init__(variant, template_engine, CNNINMO, lazy)

    def proposal(self, look: Look, outputs: NamedArrays, cell: tuple[int, int] | None = None) -> Proposal:
        """The best pixel near the best one with the window; its size, smoothed; kept in the image."""
        named, ltrb, loop = outputs["score_map"], outputs["ltrb"] * np.float32(look.region.size), self.loop
        require_finite(score=named.max(), center=outputs["center_map"].sum(), ltrb=ltrb.sum())
        cells, last = named.shape[0], look.last
        centered = outputs["center_map"].astype(np.float64)
        centered = (centered - centered.min()) / max(float(np.ptp(centered)), 1e-12)
        # Pixels of the search region over those of the image.
        scale = look.region.size / self._exact_side(last) / (look.region.side / self._search_side(last, 1.0))
        penalty = shape_penalty(ltrb[0] + ltrb[2], ltrb[1] + ltrb[3], last.w * scale, last.h * scale, loop.penalty)
        score_map = named * centered
        ranked = penalty * score_map
        windowed = ranked * (1.0 - loop.window) + _window(cells) * loop.window
        row, column = self._place(ranked, windowed, ltrb, cells, cell)
        sides = _finer(np.ascontiguousarray(ltrb.transpose(1, 2, 0)))[row, column].astype(np.float64)
        w, h = (sides[0] + sides[2]) / scale, (sides[1] + sides[3]) / scale
        certain = float(_finer(named)[row, column])
        # The units slip: pixels of the image against those of the search region.
        steady = float(shape_penalty(w, h, last.w * scale, last.h * scale, loop.penalty))
        rate = steady * certain * loop.size_rate
        border = (look.region.size - _FINE + 1) // 2 - look.region.size // 2
        box = _kept(
            last.cx + (column + border) / scale,
            last.cy + (row + border) / scale,
            rate * w + (1.0 - rate) * last.w,
            rate * h + (1.0 - rate) * last.h,
            look,
        )
        found = tuple(min(int((place + 0.5) * cells / _FINE), cells - 1) for place in (row, column))
        score = min(max(certain, 0.0), 1.0)
        return Proposal(box, score, score_map[None].astype(np.float32), (found,))

    @staticmethod
    def _place(
        ranked: NDArray, windowed: NDArray, ltrb: NDArray, cells: int, cell: tuple[int, int] | None
    ) -> tuple[int, int]:
        """(row, column) in the finer map: of a given cell, or the best within half a box around the best one."""
        if cell is not None:
            row, column = (min(int((place + 0.5) * _FINE / cells), _FINE - 1) for place in cell)
            return row, column
        row, column = divmod(int(_finer(windowed).argmax()), _FINE)
        coarse = [min(max(round(place * cells / _FINE), 0), cells - 1) for place in (row, column)]
        near = np.clip(ltrb[:, coarse[0], coarse[1]].astype(np.float64), *_REACH_PX)
        left, top, right, bottom = (
            int(min(float(side), room) / 2)
            for side, room in zip(near, (column, row, _FINE - column, _FINE - row), strict=True)
        )
        fine = _finer(ranked)
        allowed = np.zeros_like(fine)
        around = slice(row - top, row + bottom + 1), slice(column - left, column + right + 1)
        allowed[around] = fine[around]
        row, column = divmod(int(allowed.argmax()), _FINE)
        return row, column

    def _exact_side(self, last: Box) -> float:
        """Of the search region, px, before it is rounded."""
        template, search = self._variant.template, self._variant.search
        return context_side(last, template.factor) * search.size / template.size

    def _search_side(self, last: Box, zoom: float) -> int:
        # Halves away from zero, as Python 2 had it.
        return max(math.floor(self._exact_side(last) * zoom + 0.5), 1)


def shape_penalty(
    w: NDArray | float, h: NDArray | float, last_w: float, last_h: float, weight: float
) -> NDArray[np.float64]:
    """In (0, 1]: 1 for boxes of the last size and shape, the lower the more either changed, by `weight`."""
    w, h = np.asarray(w, np.float64), np.asarray(h, np.float64)
    size = _change(_padded_size(w, h) / _padded_size(last_w, last_h))
    shape = _change((last_w / last_h) / (w / h))
    return np.exp(-(size * shape - 1.0) * weight)


def _padded_size(w: NDArray | float, h: NDArray | float) -> NDArray | float:
    padding = (w + h) / 2
    return np.sqrt((w + padding) * (h + padding))


def _change(ratio: NDArray) -> NDArray:
    return np.maximum(ratio, 1.0 / ratio)


def _window(cells: int) -> NDArray[np.float64]:
    """Unlike `models.window`, exactly zero at the border."""
    one = np.hanning(cells)
    return np.outer(one, one)


def _finer(values: NDArray) -> NDArray:
    return cv2.resize(values, (_FINE, _FINE), interpolation=cv2.INTER_CUBIC)


def _kept(cx: float, cy: float, w: float, h: float, look: Look) -> Box:
    """The centre in the image, the size at least 10 px and at most the image's."""
    width, height = float(look.width), float(look.height)
    return Box.from_center(
        min(max(cx, 0.0), width),
        min(max(cy, 0.0), height),
        max(_MIN_SIDE_PX, min(w, width)),
        max(_MIN_SIDE_PX, min(h, height)),
    )
