"""OSTrack's published loop (SPEC 1.5): windowed score, size as predicted, clip, one template for ever."""

from __future__ import annotations

import numpy as np

from ros2_tracker.engines.base import NamedArrays
from ros2_tracker.models.variant import Variant
from ros2_tracker.models.window import hann_window
from ros2_tracker.tracking.family import Appearance, Look, Proposal, require_finite
from ros2_tracker.tracking.frame import Frame
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.sample_target import SampleRegion, clipped, map_back, sample_crop, search_region

_STRIDE = 16


class OSTrack:
    """Networks with `box`, `score` and a centre `score_map`; see `tracking.family.Family`."""

    inputs = frozenset({"template", "search"})
    outputs = frozenset({"box", "score", "score_map"})

    def __init__(self, variant: Variant) -> None:
        self._variant = variant
        self._window = hann_window(variant.search.size // _STRIDE)

    def appearance(self, frame: Frame, box: Box) -> Appearance:
        """The template crop. Its tokens meet the search's in every layer, so there is nothing more to keep."""
        template = self._variant.template
        return Appearance({"template": sample_crop(frame, SampleRegion.around(box, template.factor, template.size))})

    def look(self, appearance: Appearance, frame: Frame, last: Box, zoom: float = 1.0) -> Look:
        """The search crop beside the template."""
        region = search_region(frame, last, zoom * self._variant.search.factor, self._variant.search.size)
        inputs = {**appearance.inputs, "search": sample_crop(frame, region)}
        return Look(inputs, region, last, frame.width, frame.height)

    def proposal(self, look: Look, outputs: NamedArrays) -> Proposal:
        """The graph's box, mapped back and clipped."""
        require_finite(box=outputs["box"], score=outputs["score"])
        box = clipped(map_back(outputs["box"], look.last, look.region), look.width, look.height)
        score_map = outputs["score_map"]
        cell = divmod(int(np.argmax(score_map * self._window)), score_map.shape[1])
        return Proposal(box, float(outputs["score"]), score_map[None], (cell,))

    def renewed(self, appearance: Appearance, frame: Frame, found: Proposal, frame_number: int) -> Appearance:
        """The first template for ever."""
        return appearance
