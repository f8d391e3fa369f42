"""Look-alikes: second answers of the network, followed by their motion so that none of them takes the target's place.

When the best answer lies where a look-alike was expected, and a second one nearer to where the target was, the target
is the second one. (SAMURAI, arXiv 2411.11922, weighs candidates by motion too; NeighborTrack, arXiv 2211.06663, follows
neighbours.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from ros2_tracker.tracking.family import Look, Proposal
from ros2_tracker.tracking.score_map import PEAK_RADIUS, MapShape
from ros2_tracker.tracking.settings import DistractorSettings

# Of a look-alike from one image to the next, in sizes of the target.
_NEAR = 0.7
# Images in which it must have been seen before it is believed to be one.
_KNOWN_AFTER = 3
# Weight of a new velocity against the old one.
_VELOCITY_GAIN = 0.5
# Kept at once.
_MOST = 4
# A second answer below this is noise.
_LEAST_SCORE = 0.1


class LookAlike(NamedTuple):
    """One that is followed; px and px/s."""

    x: float
    y: float
    vx: float
    vy: float
    stamp: float
    """When it was last seen, s."""
    seen: int
    """In how many images."""

    def at(self, stamp: float) -> tuple[float, float]:
        """Where it should be."""
        dt = stamp - self.stamp
        return (self.x + self.vx * dt, self.y + self.vy * dt)


class Second(NamedTuple):
    """The best answer outside the chosen box."""

    cell: tuple[int, int]
    x: float
    """Centre of its cell, px of the image."""
    y: float
    score: float


@dataclass(frozen=True, slots=True)
class LookAlikes:
    """Those of one target; replaced as a whole."""

    known: tuple[LookAlike, ...] = ()

    def usurped(
        self, found: Proposal, second: Second | None, expected: tuple[float, float], size: float, stamp: float
    ) -> bool:
        """Whether what was found is a look-alike, and the second answer the target.

        Args:
            found: the network's best answer.
            second: the one after it.
            expected: where the motion model has the target's centre, px.
            size: of the target, px.
            stamp: of the image, s.

        """
        if second is None:
            return False
        place = (found.box.cx, found.box.cy)
        if math.dist(place, expected) <= math.dist((second.x, second.y), expected):
            return False
        return any(
            each.seen >= _KNOWN_AFTER and math.dist(place, each.at(stamp)) < _NEAR * size for each in self.known
        )

    def after(self, second: Second | None, size: float, stamp: float, settings: DistractorSettings) -> LookAlikes:
        """With the second answer of an image; those that have not been seen for long are forgotten."""
        if second is None and not self.known:
            return self
        kept = [each for each in self.known if stamp - each.stamp <= settings.memory]
        if second is not None:
            near = [each for each in kept if math.dist((second.x, second.y), each.at(stamp)) < _NEAR * size]
            before = max(near, key=lambda each: each.seen, default=None)
            if before is None:
                kept = [*kept[-_MOST + 1 :], LookAlike(second.x, second.y, 0.0, 0.0, stamp, 1)]
            else:
                kept = [each for each in kept if each is not before] + [_moved(before, second, stamp)]
        return LookAlikes(tuple(kept))


def second_answer(found: Proposal, shape: MapShape, look: Look, settings: DistractorSettings) -> Second | None:
    """The highest score of a centre map outside the box that was found, if it is a good share of the best."""
    cells, region = shape.scores.shape[0], look.region
    scale = 0.5 * cells / region.side
    reach = max(math.ceil(found.box.h * scale), 1), max(math.ceil(found.box.w * scale), 1)
    least = max(settings.above * shape.peak, _LEAST_SCORE)
    if min(reach) >= PEAK_RADIUS and shape.highest_sidelobe < least:
        return None
    (row, column), score = shape.highest_outside(reach)
    if not score >= least:
        return None
    step = region.side / cells
    return Second((row, column), region.x + (column + 0.5) * step, region.y + (row + 0.5) * step, score)


def _moved(before: LookAlike, second: Second, stamp: float) -> LookAlike:
    dt = stamp - before.stamp
    if dt <= 0.0:
        return before._replace(x=second.x, y=second.y, seen=before.seen + 1)
    vx, vy = (second.x - before.x) / dt, (second.y - before.y) / dt
    keep = 1.0 - _VELOCITY_GAIN
    return LookAlike(
        second.x, second.y, keep * before.vx + _VELOCITY_GAIN * vx, keep * before.vy + _VELOCITY_GAIN * vy, stamp,
        before.seen + 1,
    )  # fmt: skip
