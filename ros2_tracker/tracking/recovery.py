"""Find a LOST target again: where to look in each image, and what becomes of a find.

Around the place where it was last trusted the search grows; beside it, the whole image is gone through in overlapping
windows, a bounded number for each image, nearest first. A find there is only a candidate: it is looked at as a target
would be, image after image, and counts as found when its reliability has stayed up (`tracking.reliability`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ros2_tracker.tracking.family import Proposal
from ros2_tracker.tracking.geometry import Box, kept_in_image
from ros2_tracker.tracking.reliability import WayBack
from ros2_tracker.tracking.settings import RecoverySettings

# Of neighbouring windows, in their sides: what is at the edge of one is well inside the next.
_STRIDE = 0.5
# Search sides are at least this many target sizes, so this is a lower bound of a window's.
_SIZES_PER_SIDE = 4.0
# Windows along either side of the image: a bound on the sweep's length and on the time to plan it.
_MOST_ALONG = 16
# Times as long must reliability last where the network's score is not what it was: most look-alikes fail by then,
# and a target that looks different now is not given up for ever.
_WHEN_LESS_CONVINCING = 10.0


class Window(NamedTuple):
    """A place to look at."""

    around: Box
    """Of the target's size, px; its centre is the window's."""
    zoom: float = 1.0
    """Side of the search region, in usual ones."""


@dataclass(frozen=True, slots=True)
class Search:
    """The search for one target, from the image in which it was LOST; replaced as a whole."""

    place: Box
    """Where, and how large, it was when it was last trusted, px."""
    since: float
    """Stamp of the image with which the search began, s."""
    score: float
    """The network's, in the last frame of high reliability before that; 0 if there was none."""
    sweep: tuple[Window, ...]
    """All over the image, in the order in which they are looked into, again and again."""
    swept: int = 0
    """Windows of the sweep that have been looked into, counting on from sweep to sweep."""
    candidate: Box | None = None
    """A find that is being looked at, px."""

    @classmethod
    def begin(
        cls,
        place: Box,
        stamp: float,
        score: float,
        width: int,
        height: int,
        settings: RecoverySettings,
    ) -> Search:
        """In `width` x `height` px images, for a target that was last trusted at `place`, with `score` before."""
        # Wide windows are through sooner; in narrower ones the network sees more.
        zooms = (settings.zoom, math.sqrt(settings.zoom)) if settings.zoom > 1.0 else (1.0,)
        centers = ((x, y, zoom) for zoom in zooms for x, y in sweep_centers(place, width, height, zoom))
        windows = (Window(Box.from_center(x, y, place.w, place.h), zoom) for x, y, zoom in centers)
        return cls(kept_in_image(place, width, height), stamp, score, tuple(windows))

    def windows(self, stamp: float, settings: RecoverySettings) -> tuple[Window, ...]:
        """Where to look in the image of that stamp; at least one window."""
        count = min(settings.windows_per_image, len(self.sweep))
        elsewhere = (self.sweep[(self.swept + i) % len(self.sweep)] for i in range(count))
        if self.candidate is not None:
            return (Window(self.candidate), *elsewhere)
        grown = 1.0 + settings.growth * max(stamp - self.since, 0.0)
        return (Window(self.place, min(grown, settings.zoom)), *elsewhere)

    def way_back(self, score: float, settings: RecoverySettings) -> WayBack:
        """What reliability must do for a find of that score to be the target."""
        if self.candidate is None:
            # What a wide search finds is to be looked at first.
            return WayBack(math.inf, settings.accept_after)
        convincing = score >= settings.accept_share * self.score
        return WayBack(settings.accept_above, settings.accept_after * (1.0 if convincing else _WHEN_LESS_CONVINCING))

    def after(self, found: Sequence[Proposal], doubtful: bool, settings: RecoverySettings) -> Search:
        """The search after the answers to all windows; `doubtful` is what reliability says of the first of them."""
        searched = replace(self, swept=self.swept + len(found) - 1, candidate=None)
        if self.candidate is not None and not doubtful:
            return replace(searched, candidate=found[0].box)
        # A candidate that disappoints is not looked at again for what it is.
        others = found if self.candidate is None else found[1:]
        best = max(others, key=lambda proposal: proposal.score, default=None)
        if best is None or best.score < settings.candidate_above:
            return searched
        return replace(searched, candidate=best.box)


def sweep_centers(place: Box, width: int, height: int, zoom: float) -> list[tuple[float, float]]:
    """Centres, px, of windows that cover a `width` x `height` image twice over, nearest to `place` first.

    Of a target too small for its windows to cover the image, those around the place alone.
    """
    stride = _STRIDE * _SIZES_PER_SIDE * zoom * max(place.size, 2.0)

    def along(length: int, place: float) -> list[float]:
        count = max(math.ceil(length / stride), 1)
        nearest = int(min(max(place / length * count, 0), count - 1))
        first = min(max(nearest - _MOST_ALONG // 2, 0), max(count - _MOST_ALONG, 0))
        return [(i + 0.5) * length / count for i in range(first, min(first + _MOST_ALONG, count))]

    centers = [(x, y) for y in along(height, place.cy) for x in along(width, place.cx)]
    return sorted(centers, key=lambda c: math.hypot(c[0] - place.cx, c[1] - place.cy))
