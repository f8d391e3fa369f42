"""Find a LOST target again: where to look in each image, and what becomes of a find.

Around the place where it was last trusted the search grows. Beside it, a bounded number of windows of each image is
looked into: in turns those where its colours are, and all of them, overlapping, nearest first. A find is only a
candidate, and so is the box that was given up in doubt: it is looked at as a target would be, image after image, and is
the target when its reliability has stayed up (`tracking.reliability`) and it is like what was lost
(`tracking.likeness`). While it is not, another find may take its place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ros2_tracker.tracking.colours import Colours
from ros2_tracker.tracking.family import Appearance, Proposal
from ros2_tracker.tracking.frame import Frame
from ros2_tracker.tracking.geometry import Box, iou, kept_in_image
from ros2_tracker.tracking.reliability import WayBack
from ros2_tracker.tracking.settings import RecoverySettings

# Of neighbouring windows, in their sides: what is at the edge of one is well inside the next.
_STRIDE = 0.5
# Search sides are at least this many target sizes, so this is a lower bound of a window's.
_SIZES_PER_SIDE = 4.0
# Windows along either side of the image: a bound on the sweep's length and on the time to plan it.
_MOST_ALONG = 16
# Places with the target's colours that are looked into, the best ones of each image.
_PLACES = 8
# Share of the time until a find is accepted that it takes where it could not be more alike.
_SOONEST = 1.0 / 3.0
# Of what `accept_above` leaves to certainty: how much more reliability a find needs that is just alike enough.
_SURER = 0.25
# Share of the score of a find under which the last place is looked at in every second image only.
_HOPELESS = 0.5
# Share of the likeness that is accepted under which a find is not even published as UNCERTAIN.
_GUESS_SHARE = 0.5
# Times its own score: what a find elsewhere must have for a candidate that is alike to give way.
_CLEARLY_BETTER = 1.4
# The same for the box that was followed when the target was LOST, while it is doubted.
_BETTER = 1.3
# Share of the score of its trusted views from which that box is followed on.
_ALIVE = 0.5
# Of a new likeness in the smoothed one.
_NEW_SHARE = 0.25


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
    sweep: tuple[Window, ...]
    """All over the image, in the order in which they are looked into, again and again."""
    colours: Colours | None = None
    """The target's, if it is looked for where they are, too."""
    middle: Colours | None = None
    """Those in the middle of its box, which a find is compared with."""
    images: int = 0
    """How many have been looked at."""
    swept: int = 0
    """Windows of the sweep that have been looked into, counting on from sweep to sweep."""
    picked: int = 0
    """Windows that were chosen by colour."""
    candidate: Box | None = None
    """A find that is being looked at, px."""
    followed_above: float = math.inf
    """Score from which the candidate, the box that was followed when it was LOST, stays one though it is doubted."""
    view: Appearance | None = None
    """The candidate as a template, for `tracking.likeness`."""
    likeness: float | None = None
    """Of the candidate, smoothed; None: not known yet."""
    at_place: int | None = None
    """Which of the last image's windows was around the place."""
    there: float = 1.0
    """The network's score when the place was last looked at."""

    @classmethod
    def begin(
        cls,
        place: Box,
        stamp: float,
        width: int,
        height: int,
        settings: RecoverySettings,
        colours: Colours | None = None,
        middle: Colours | None = None,
        followed: Proposal | None = None,
        usual: float = math.inf,
    ) -> Search:
        """In `width` x `height` px images, for a target of these colours that was last trusted at `place`.

        `followed` was found last; given up in doubt, it may be the target all the same, whose trusted views have the
        score `usual`.
        """
        # Wide windows are through sooner; in narrower ones the network sees more.
        zooms = (settings.zoom, math.sqrt(settings.zoom)) if settings.zoom > 1.0 else (1.0,)
        centers = ((x, y, zoom) for zoom in zooms for x, y in sweep_centers(place, width, height, zoom))
        windows = (Window(Box.from_center(x, y, place.w, place.h), zoom) for x, y, zoom in centers)
        search = cls(kept_in_image(place, width, height), stamp, tuple(windows), colours, middle)
        least = max(_ALIVE * usual, settings.candidate_above)
        if followed is None or followed.score < least:
            return search
        return replace(search, candidate=followed.box, followed_above=least)

    def looked(self, frame: Frame, stamp: float, settings: RecoverySettings) -> tuple[tuple[Window, ...], Search]:
        """Where to look in an image, at least one window, and the search that has done so."""
        # A candidate's view is a further run of the network, in place of a window where there are several.
        checking = 1 if self.view is not None and settings.windows_per_image > 1 else 0
        count = 1 + settings.windows_per_image - checking
        windows = [] if self.candidate is None else [Window(self.candidate)]
        at_place = None
        if len(windows) < count and self._place_is_due(count, settings):
            at_place = len(windows)
            windows.append(self._last_place(stamp, settings))
        count -= len(windows)
        places = self._colourful(frame, (count + self.images // 2 % 2) // 2)
        swept = min(count - len(places), len(self.sweep))
        windows += [*places, *(self.sweep[(self.swept + i) % len(self.sweep)] for i in range(swept))]
        picked = self.picked + len(places)
        after = replace(self, images=self.images + 1, swept=self.swept + swept, picked=picked, at_place=at_place)
        return tuple(windows), after

    def _place_is_due(self, count: int, settings: RecoverySettings) -> bool:
        """Whether the place where it was lost is among the `count` windows of an image."""
        second = self.images % 2 == 1
        if self.candidate is not None:
            # It may be there all the same.
            return second and not self._is_alike(self.likeness, settings)
        return count == 1 or not second or self.there >= _HOPELESS * settings.candidate_above

    def _last_place(self, stamp: float, settings: RecoverySettings) -> Window:
        """In turns grown, for a target that moved on, and as it was, where a wider search would miss details."""
        grown = 1.0 + settings.growth * max(stamp - self.since, 0.0)
        return Window(self.place, min(grown, settings.zoom) if self.images // 2 % 2 else 1.0)

    @staticmethod
    def _is_alike(likeness: float | None, settings: RecoverySettings) -> bool:
        return likeness is not None and likeness >= settings.accept_likeness

    def _colourful(self, frame: Frame, count: int) -> list[Window]:
        """Windows where the target's colours are: the best places in turns."""
        if self.colours is None or count == 0:
            return []
        places = self.colours.places(frame, self.place, _PLACES)
        chosen = [places[(self.picked + i) % len(places)] for i in range(min(count, len(places)))]
        return [Window(Box.from_center(x, y, self.place.w, self.place.h)) for x, y in chosen]

    def way_back(self, settings: RecoverySettings) -> WayBack:
        """What reliability must do for the candidate to be the target."""
        if self.candidate is None or self.likeness is None:
            # What a wide search finds is to be looked at first.
            return WayBack(settings.accept_above, math.inf)
        if self.likeness < settings.accept_likeness:
            told = self.likeness >= _GUESS_SHARE * settings.accept_likeness
            return WayBack(settings.accept_above, math.inf, settings.guess_after if told else math.inf)
        # The more alike, the sooner, and the less sure of its box the network must be.
        missing = (1.0 - self.likeness) / max(1.0 - settings.accept_likeness, 1e-6)
        above = settings.accept_above + _SURER * missing * (1.0 - settings.accept_above)
        after = settings.accept_after * max(missing, _SOONEST)
        return WayBack(above, after, settings.guess_after)

    def after(
        self, found: Sequence[Proposal], doubtful: bool, likeness: float | None, settings: RecoverySettings
    ) -> Search:
        """The search after the answers to all windows.

        Args:
            found: one a window.
            doubtful: what reliability says of the first of them.
            likeness: of the candidate to what was lost, where that was asked.
            settings: of recovery.

        """
        there = self.there if self.at_place is None else found[self.at_place].score
        rivals = found if self.candidate is None else found[1:]
        best = max(rivals, key=lambda proposal: proposal.score, default=None)
        if best is not None and best.score < settings.candidate_above:
            best = None
        if self.candidate is not None:
            own, known = found[0], self.likeness
            if likeness is not None:
                known = likeness if known is None else known + _NEW_SHARE * (likeness - known)
            if doubtful:
                stays = self._is_followed_on(own, best)
            else:
                stays = best is None or not self._yields(own, known, best, settings)
            if stays:
                return replace(self, candidate=own.box, view=None, likeness=known, there=there)
            # A candidate that disappoints is not looked at again for what it is, but nor is what convinces even less.
            if doubtful and best is not None and best.score < own.score:
                best = None
        candidate = None if best is None else best.box
        return replace(self, candidate=candidate, followed_above=math.inf, view=None, likeness=None, there=there)

    def _is_followed_on(self, own: Proposal, rival: Proposal | None) -> bool:
        """Whether a candidate that is doubted stays one."""
        return own.score >= self.followed_above and (rival is None or rival.score < _BETTER * own.score)

    def _yields(self, own: Proposal, likeness: float | None, rival: Proposal, settings: RecoverySettings) -> bool:
        """Whether a candidate gives way to a find elsewhere: the less like what was lost, the sooner."""
        if likeness is None or iou(own.box, rival.box) > 0.0:
            return False
        alike = self._is_alike(likeness, settings)
        return rival.score > own.score * (_CLEARLY_BETTER if alike else likeness / settings.accept_likeness)


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
