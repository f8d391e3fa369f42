"""Is a find the target? Asked the other way round: with the find as template, is the target as it was found?

Checking a track backwards in time is due to Kalal et al. (forward-backward error, ICPR 2010) and, for look-alikes of a
single target, to NeighborTrack (arXiv 2211.06663). Here it is one look at one remembered picture.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ros2_tracker.tracking.colours import Colours
from ros2_tracker.tracking.family import Appearance, Look, Proposal
from ros2_tracker.tracking.geometry import Box, iou

# Of a box with where the target was, for it to be the one that was found.
_SAME_PLACE = 0.3
# Reliability must have stayed up for so long after a view, s: what hides a target often shows before it falls.
_PROVEN_AFTER_S = 0.25


class Remembered(NamedTuple):
    """The target in a frame of high reliability."""

    stamp: float
    """That frame's, s."""
    look: Look
    """What was asked of it: the search crop shows the target and what was around it."""
    box: Box
    """The target in that frame, px."""
    score: float
    """The network's, of that box."""

    def asked_with(self, find: Appearance) -> Look:
        """The same question, with a find as template."""
        return replace(self.look, inputs={**self.look.inputs, **find.inputs})

    def likeness(self, forward: float, backward: Proposal) -> float:
        """Of a find, in [0, 1]: geometric mean of its score and the answer's to `asked_with`, in the target's own."""
        there = backward.score if iou(backward.box, self.box) >= _SAME_PLACE else 0.0
        own = max(self.score, 1e-3)
        return math.sqrt(min(forward / own, 1.0) * min(there / own, 1.0))

    def colours(self) -> Colours | None:
        """The target's; None where the network does not see crops of pixels."""
        crop, region, box = np.asarray(self.look.inputs.get("search")), self.look.region, self.box
        if crop.dtype != np.uint8 or crop.ndim != 3:
            return None
        scale = crop.shape[0] / region.side
        left, top = (box.x - region.x) * scale, (box.y - region.y) * scale
        return Colours.of(crop, left, top, left + box.w * scale, top + box.h * scale)


class Memories(NamedTuple):
    """Views of a target: one after which reliability stayed up, and a later one of which that is not known yet."""

    proven: Remembered | None = None
    latest: Remembered | None = None

    @property
    def best(self) -> Remembered | None:
        """What a find is compared with."""
        return self.proven or self.latest

    def with_view(self, view: Remembered) -> Memories:
        """After a frame of high reliability."""
        if self.latest is None:
            return Memories(self.proven, view)
        if not 0.0 <= view.stamp - self.latest.stamp < _PROVEN_AFTER_S:
            return Memories(self.latest, view)
        return self

    def doubted(self) -> Memories:
        """After a frame of less reliability: the latest view may be part of the trouble, but better than none."""
        return self if self.proven is None else Memories(self.proven)
