"""STARK's published loop (SPEC 2.6): no window; with a score head the second template is renewed now and then."""

from __future__ import annotations

import numpy as np

from ros2_tracker.engines.base import Engine, NamedArrays
from ros2_tracker.models.variant import Variant
from ros2_tracker.tracking.family import Appearance, Look, Proposal, require_finite
from ros2_tracker.tracking.frame import Frame
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.sample_target import (
    SampleRegion,
    clipped,
    lazy_sample_crop,
    map_back,
    padding_mask,
    sample_crop,
    search_region,
)

FEATURES = {"tokens": "template_tokens", "position": "template_position", "cells": "template_cells"}
"""Output of the template graph -> input of the search graph."""


class Stark:
    """Networks with `box`, `score` and two corner maps; see `tracking.family.Family`."""

    inputs = frozenset({*FEATURES.values(), "search", "search_padded"})
    outputs = frozenset({"box", "score", "score_map"})

    def __init__(self, variant: Variant, template_engine: Engine, lazy: bool = False) -> None:
        """`template_engine` runs the template graph: its features are computed once and kept.

        `lazy`: search crops are left to the engine; see `engines.patch`.
        """
        self._variant = variant
        self._cut = lazy_sample_crop if lazy else sample_crop
        self.template_engine = template_engine

    def appearance(self, frame: Frame, box: Box, fill: tuple[float, float, float] | None = None) -> Appearance:
        """Features of the template; with a dynamic template twice, until the second is renewed."""
        features = self._features(frame, box)
        return Appearance({name: np.concatenate([value] * self._variant.templates) for name, value in features.items()})

    def look(self, appearance: Appearance, frame: Frame, last: Box, zoom: float = 1.0) -> Look:
        """The search crop and its mask beside the features."""
        region = search_region(frame, last, zoom * self._variant.search.factor, self._variant.search.size)
        inputs = {
            **appearance.inputs,
            "search": self._cut(frame, region),
            "search_padded": padding_mask(region, frame.width, frame.height),
        }
        return Look(inputs, region, last, frame.width, frame.height)

    def proposal(self, look: Look, outputs: NamedArrays, cell: tuple[int, int] | None = None) -> Proposal:
        """The graph's box, mapped back and clipped; two corners have no second choice, so `cell` says nothing."""
        require_finite(box=outputs["box"], score=outputs["score"])
        box = clipped(map_back(outputs["box"], look.last, look.region), look.width, look.height)
        corners = outputs["score_map"]
        cells = tuple(divmod(int(np.argmax(corner)), corner.shape[1]) for corner in corners)
        return Proposal(box, float(outputs["score"]), corners, cells)

    def renewed(self, appearance: Appearance, frame: Frame, found: Proposal, frame_number: int) -> Appearance:
        """At the interval, and if the score head is confident, the second template becomes what was just found."""
        when = self._variant.template_update
        if when is None or frame_number % when.interval or not found.score > when.confidence:
            return appearance
        return self._beside(appearance, frame, found.box)

    def updated(self, first: Appearance, frame: Frame, box: Box, weight: float) -> Appearance | None:
        """The second template, where the network has one; features of one template do not mix."""
        return None if self._variant.templates == 1 else self._beside(first, frame, box)

    def _beside(self, appearance: Appearance, frame: Frame, box: Box) -> Appearance:
        """The first template with a second one from `box`."""
        second = self._features(frame, box)
        first = {name: value[: len(second[name])] for name, value in appearance.inputs.items()}
        return Appearance({name: np.concatenate([first[name], second[name]]) for name in first})

    def _features(self, frame: Frame, box: Box) -> dict[str, np.ndarray]:
        """Template features under the names of the search graph's inputs."""
        template = self._variant.template
        region = SampleRegion.around(box, template.factor, template.size)
        crop, padded = sample_crop(frame, region), padding_mask(region, frame.width, frame.height)
        (made,) = self.template_engine.run([{"template": crop, "template_padded": padded}])
        return {FEATURES[name]: value for name, value in made.items()}
