"""The published tracking loops of OSTrack and STARK, box by box, around a network that is handed in.

Without motion, reliability and recovery: what an official checkpoint is measured with. Nothing here knows the library
that runs the network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ros2_tracker.models.variant import Variant
from ros2_tracker.models.window import hann_window
from ros2_tracker.tracking.decode import Candidate, decode_center
from ros2_tracker.tracking.frame import Frame
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.sample_target import SampleRegion, clipped, map_back, padding_mask, sample_crop

FeaturesT = TypeVar("FeaturesT")
"""What a network makes of a template; the loops keep it and hand it back."""


class CenterNetwork(Protocol[FeaturesT]):
    """OSTrack as its loop sees it. Crops are (S, S, 3) uint8 RGB; the network normalises them."""

    def template(self, crop: NDArray[np.uint8]) -> FeaturesT:
        """Features of a template."""
        ...

    def search(
        self, template: FeaturesT, crop: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Score (F, F), size (2, F, F) and offset (2, F, F), as `decode_center` takes them."""
        ...


class CornerNetwork(Protocol[FeaturesT]):
    """STARK as its loop sees it. Crops as above; masks are (S, S) bool, True outside the image."""

    def template(self, crop: NDArray[np.uint8], padded: NDArray[np.bool_]) -> FeaturesT:
        """Features of a template."""
        ...

    def search(
        self, templates: Sequence[FeaturesT], crop: NDArray[np.uint8], padded: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], float | None]:
        """(4,) cx, cy, w, h in search sides, and the score head's confidence in [0, 1] if there is one."""
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """One frame's outcome."""

    box: Box
    """Clipped, px; where the next search is centred."""
    region: SampleRegion
    """Where it was searched."""
    score: float | None
    """In [0, 1]; None for networks that do not judge themselves."""


class OSTrackLoop(Generic[FeaturesT]):
    """SPEC 1.5: windowed score, size as predicted, clip, one template for ever."""

    def __init__(self, network: CenterNetwork[FeaturesT], variant: Variant, frame: Frame, box: Box) -> None:
        """Start on `frame`; BoxError when the box cannot be cut out."""
        self._network = network
        self._variant = variant
        region = SampleRegion.around(box, variant.template.factor, variant.template.size)
        self._template = network.template(sample_crop(frame, region))
        self.box = box

    def update(self, frame: Frame) -> Step:
        """Find the target in the next frame; FloatingPointError, and nothing changed, when the answer is not finite."""
        search = self._variant.search
        region = SampleRegion.around(self.box, search.factor, search.size)
        score_map, size_map, offset_map = self._network.search(self._template, sample_crop(frame, region))
        found: Candidate = decode_center(score_map, size_map, offset_map, hann_window(score_map.shape[0]))
        box = map_back(np.array([found.cx, found.cy, found.w, found.h]), self.box, region)
        self.box = clipped(box, frame.width, frame.height)
        return Step(self.box, region, found.score)


class StarkLoop(Generic[FeaturesT]):
    """SPEC 2.6: no window; with a score head the second template is renewed from confident frames."""

    def __init__(self, network: CornerNetwork[FeaturesT], variant: Variant, frame: Frame, box: Box) -> None:
        """Start on `frame`; BoxError when the box cannot be cut out."""
        self._network = network
        self._variant = variant
        first = self._template_at(frame, box)
        self._templates = (first, first) if variant.template_update else (first,)
        self._frames = 0
        self.box = box

    def update(self, frame: Frame) -> Step:
        """Find the target in the next frame; FloatingPointError, and nothing changed, when the answer is not finite."""
        search = self._variant.search
        region = SampleRegion.around(self.box, search.factor, search.size)
        padded = padding_mask(region, frame.width, frame.height)
        found, confidence = self._network.search(self._templates, sample_crop(frame, region), padded)
        if not all(math.isfinite(v) for v in (*found, confidence or 0.0)):
            raise FloatingPointError(f"the network returned box {found} and confidence {confidence}")
        box = clipped(map_back(found, self.box, region), frame.width, frame.height)
        if self._renews(self._frames + 1, confidence):
            self._templates = (self._templates[0], self._template_at(frame, box))
        self._frames += 1
        self.box = box
        return Step(box, region, confidence)

    def _renews(self, frame_number: int, confidence: float | None) -> bool:
        """Whether this frame gives the second template; frames count from 1 after the first."""
        when = self._variant.template_update
        if when is None or confidence is None:
            return False
        return frame_number % when.interval == 0 and confidence > when.confidence

    def _template_at(self, frame: Frame, box: Box) -> FeaturesT:
        template = self._variant.template
        region = SampleRegion.around(box, template.factor, template.size)
        padded = padding_mask(region, frame.width, frame.height)
        return self._network.template(sample_crop(frame, region), padded)
