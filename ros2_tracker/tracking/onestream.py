"""The shipped one-stream networks: exact crops filled with the mean colour, smoothed size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ros2_tracker.engines.base import NamedArrays
from ros2_tracker.models.variant import Variant
from ros2_tracker.models.window import hann_window
from ros2_tracker.tracking.crop import Region, crop, lazy_crop, mean_rgb
from ros2_tracker.tracking.decode import decode_ltrb, smoothed
from ros2_tracker.tracking.family import Appearance, Look, Proposal, blended
from ros2_tracker.tracking.frame import Frame
from ros2_tracker.tracking.geometry import Box

# Of the score map, in pixels of the search crop.
_STRIDE = 16


class OneStream:
    """Networks with `score_map` and `ltrb`; see `tracking.family.Family`."""

    inputs = frozenset({"template", "search"})
    outputs = frozenset({"score_map", "ltrb"})

    def __init__(self, variant: Variant, lazy: bool = False) -> None:
        """`lazy`: search crops are left to the engine; see `engines.patch`."""
        self._variant = variant
        self._cut = lazy_crop if lazy else crop
        self._window = hann_window(variant.search.size // _STRIDE)

    def appearance(self, frame: Frame, box: Box, fill: tuple[float, float, float] | None = None) -> Appearance:
        """The template crop."""
        fill = fill or (mean_rgb(frame) if self._variant.fill == "mean" else (0.0, 0.0, 0.0))
        return Appearance({"template": self._view(frame, box, fill)}, fill)

    def look(self, appearance: Appearance, frame: Frame, last: Box, zoom: float = 1.0) -> Look:
        """The search crop beside the template."""
        search = self._variant.search
        region = Region.around(last, zoom * search.factor).snapped(search.size, frame.width, frame.height)
        patch = self._cut(frame, region, search.size, appearance.fill)
        return Look({**appearance.inputs, "search": patch}, region, last, frame.width, frame.height)

    def proposal(self, look: Look, outputs: NamedArrays, cell: tuple[int, int] | None = None) -> Proposal:
        """Box at the highest windowed score or at a cell: size smoothed against the last, centre kept in the image."""
        score_map = outputs["score_map"]
        best = decode_ltrb(score_map, outputs["ltrb"], self._window, cell)
        box = smoothed(best.cx, best.cy, best.w, best.h, look, self._variant.size_update)
        return Proposal(box, best.score, score_map[None], (best.cell,))

    def renewed(self, appearance: Appearance, frame: Frame, found: Proposal, frame_number: int) -> Appearance:
        """The first template for ever."""
        return appearance

    def updated(self, first: Appearance, frame: Frame, box: Box, weight: float) -> Appearance | None:
        """Both views in one picture: the network has room for one."""
        if weight == 0.0:
            return None
        recent = self._view(frame, box, first.fill)
        return Appearance({"template": blended(first.inputs["template"], recent, weight)}, first.fill)

    def _view(self, frame: Frame, box: Box, fill: tuple[float, float, float]) -> NDArray[np.uint8]:
        template = self._variant.template
        return crop(frame, Region.around(box, template.factor), template.size, fill)
