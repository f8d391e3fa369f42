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
# Share of a box whose colours are compared: at its edges is what is behind the target.
_MIDDLE = 0.6
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
    own: float
    """The same without what was learnt, as finds are compared with it."""

    def asked_with(self, find: Appearance) -> Look:
        """The same question, with a find as template, and nothing learnt: that was learnt of the target itself."""
        return replace(self.look, inputs={**self.look.inputs, **find.inputs})

    def likeness(self, look: Look, find: Proposal, backward: Proposal, middle: Colours | None) -> float:
        """Of a find, in [0, 1].

        Geometric mean of its score and the answer's to `asked_with`, in the target's own, times what the colours in the
        middle of both boxes have in common.

        Args:
            look: that it was found in.
            find: the box and its score.
            backward: the answer to `asked_with`.
            middle: `self.middle()`, which stays the same for all finds.

        """
        there = backward.score if iou(backward.box, self.box) >= _SAME_PLACE else 0.0
        both = math.sqrt(_share(find.score, self.score) * _share(there, self.own))
        now = None if middle is None else colours_in(look, find.box, _MIDDLE)
        return both if middle is None or now is None else both * middle.in_common(now)

    def colours(self) -> Colours | None:
        """The target's; None where the network does not see crops of pixels."""
        return colours_in(self.look, self.box)

    def middle(self) -> Colours | None:
        """Those in the middle of its box."""
        return colours_in(self.look, self.box, _MIDDLE)


def _share(score: float, usual: float) -> float:
    return min(score / max(usual, 1e-3), 1.0)


def colours_in(look: Look, box: Box, share: float = 1.0) -> Colours | None:
    """Of a share of a box's width and height, around its middle; None where the look is no crop of pixels."""
    crop = np.asarray(look.inputs.get("search"))
    if crop.dtype != np.uint8 or crop.ndim != 3:
        return None
    there = look.in_crop(box)
    x, y, across, down = there.cx, there.cy, share * there.w / 2.0, share * there.h / 2.0
    return Colours.of(crop, x - across, y - down, x + across, y + down)


class Memories(NamedTuple):
    """Views of a target: one after which reliability stayed up, and a later one of which that is not known yet."""

    proven: Remembered | None = None
    latest: Remembered | None = None

    @property
    def best(self) -> Remembered | None:
        """What a find is compared with."""
        return self.proven or self.latest

    def wants(self, stamp: float) -> bool:
        """Whether a view of that time is one to remember."""
        return self.latest is None or not 0.0 <= stamp - self.latest.stamp < _PROVEN_AFTER_S

    def with_view(self, view: Remembered) -> Memories:
        """After a frame of high reliability, of a time that it `wants`."""
        return Memories(self.latest or self.proven, view)

    def doubted(self) -> Memories:
        """After a frame of less reliability: the latest view may be part of the trouble, but better than none."""
        return self if self.proven is None else Memories(self.proven)
