"""Multi-Stage's loop, ours: exact crops, windowed score, template tokens computed once.

The abstract says nothing of it. The variant says what is outside the image and how fast the size follows.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ros2_tracker.engines.base import Engine, NamedArrays
from ros2_tracker.models.variant import Variant
from ros2_tracker.tracking.crop import Region, crop, lazy_crop, mean_rgb
from ros2_tracker.tracking.decode import smoothed
from ros2_tracker.tracking.discriminator import nothing_learnt
from ros2_tracker.tracking.family import Appearance, Look, Proposal, at_cell, blended
from ros2_tracker.tracking.frame import Frame
from ros2_tracker.tracking.geometry import Box


class MultiStage:
    """Networks with `box`, `score` and a centre `score_map`; see `tracking.family.Family`."""

    inputs = frozenset({"template_tokens", "search", "learnt"})
    outputs = frozenset({"box", "score", "score_map", "cell", "features"})

    def __init__(self, variant: Variant, template_engine: Engine, lazy: bool = False) -> None:
        """`template_engine` runs the template graph: its tokens are computed once and kept.

        `lazy`: search crops are left to the engine; see `engines.patch`.
        """
        self._variant = variant
        self._cut = lazy_crop if lazy else crop
        self.template_engine = template_engine

    def appearance(self, frame: Frame, box: Box, fill: tuple[float, float, float] | None = None) -> Appearance:
        """Tokens of the template, before they meet those of a search region."""
        fill = fill or (mean_rgb(frame) if self._variant.fill == "mean" else (0.0, 0.0, 0.0))
        tokens = self._tokens(frame, box, fill)
        return Appearance({"template_tokens": tokens, "learnt": nothing_learnt(tokens.shape[-1])}, fill)

    def look(self, appearance: Appearance, frame: Frame, last: Box, zoom: float = 1.0) -> Look:
        """The search crop beside the tokens."""
        search = self._variant.search
        region = Region.around(last, zoom * search.factor).snapped(search.size, frame.width, frame.height)
        patch = self._cut(frame, region, search.size, appearance.fill)
        inputs = {**appearance.inputs, "search": patch}
        return Look(inputs, region, last, frame.width, frame.height, drawn=appearance.drawn)

    def proposal(self, look: Look, outputs: NamedArrays, cell: tuple[int, int] | None = None) -> Proposal:
        """The graph's box in the image, drawn as the first one, its size smoothed; its centre in the image."""
        numbers, score = outputs["box"].tolist(), float(outputs["score"])
        # One of them that is not finite makes the sum so.
        if not math.isfinite(sum(numbers, score)):
            raise FloatingPointError(f"the network returned box {numbers} and score {score}")
        cx, cy, w, h = numbers
        box = smoothed(cx, cy, w * look.drawn.w, h * look.drawn.h, look, self._variant.size_update)
        score_map = outputs["score_map"]
        if cell is None:
            cell = tuple(outputs["cell"].tolist())
        else:
            box, score = at_cell(cell, score_map, look)
        return Proposal(box, score, score_map[None], (cell,))

    def renewed(self, appearance: Appearance, frame: Frame, found: Proposal, frame_number: int) -> Appearance:
        """The first template for ever."""
        return appearance

    def updated(self, first: Appearance, frame: Frame, box: Box, weight: float) -> Appearance | None:
        """Tokens of both views mixed."""
        if weight == 0.0:
            return None
        recent = self._tokens(frame, box, first.fill)
        mixed = blended(first.inputs["template_tokens"], recent, weight)
        return replace(first, inputs={**first.inputs, "template_tokens": mixed})

    def _tokens(self, frame: Frame, box: Box, fill: tuple[float, float, float]) -> NDArray[np.floating]:
        template = self._variant.template
        shown = crop(frame, Region.around(box, template.factor), template.size, fill)
        (made,) = self.template_engine.run([{"template": shown}])
        return made["tokens"]
