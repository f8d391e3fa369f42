"""OSTrack's published loop (SPEC 1.5): windowed score, size as predicted, clip, one template for ever."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ros2_tracker.engines.base import NamedArrays
from ros2_tracker.models.variant import Variant
from ros2_tracker.models.window import hann_window
from ros2_tracker.tracking.family import Appearance, Look, Proposal, at_cell, blended, require_finite
from ros2_tracker.tracking.frame import Frame
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.sample_target import (
    SampleRegion,
    clipped,
    lazy_sample_crop,
    map_back,
    sample_crop,
    search_region,
)

_STRIDE = 16


class OSTrack:
    """Networks with `box`, `score` and a centre `score_map`; see `tracking.family.Family`."""

    inputs = frozenset({"template", "search"})
    outputs = frozenset({"box", "score", "score_map"})

    def __init__(self, variant: Variant, lazy: bool = False) -> None:
        """`lazy`: search crops are left to the engine; see `engines.patch`."""
        self._variant = variant
        self._cut = lazy_sample_crop if lazy else sample_crop
        self._window = hann_window(variant.search.size // _STRIDE)

    def appearance(self, frame: Frame, box: Box, fill: tuple[float, float, float] | None = None) -> Appearance:
        """The template crop. Its tokens meet the search's in every layer, so there is nothing more to keep."""
        return Appearance({"template": self._view(frame, box)})

    def look(self, appearance: Appearance, frame: Frame, last: Box, zoom: float = 1.0) -> Look:
        """The search crop beside the template."""
        region = search_region(frame, last, zoom * self._variant.search.factor, self._variant.search.size)
        inputs = {**appearance.inputs, "search": self._cut(frame, region)}
        return Look(inputs, region, last, frame.width, frame.height)

    def proposal(self, look: Look, outputs: NamedArrays, cell: tuple[int, int] | None = None) -> Proposal:
        """The graph's box, mapped back and clipped."""
        require_finite(box=outputs["box"], score=outputs["score"])
        box = clipped(map_back(outputs["box"], look.last, look.region), look.width, look.height)
        score_map, score = outputs["score_map"], float(outputs["score"])
        if cell is None:
            cell = divmod(int(np.argmax(score_map * self._window)), score_map.shape[1])
        else:
            box, score = at_cell(cell, score_map, look)
            box = clipped(box, look.width, look.height)
        return Proposal(box, score, score_map[None], (cell,))

    def renewed(self, appearance: Appearance, frame: Frame, found: Proposal, frame_number: int) -> Appearance:
        """The first template for ever."""
        return appearance

    def updated(self, first: Appearance, frame: Frame, box: Box, weight: float) -> Appearance | None:
        """Both views in one picture: the network has room for one."""
        if weight == 0.0:
            return None
        return Appearance({"template": blended(first.inputs["template"], self._view(frame, box), weight)})

    def _view(self, frame: Frame, box: Box) -> NDArray[np.uint8]:
        template = self._variant.template
        return sample_crop(frame, SampleRegion.around(box, template.factor, template.size))
