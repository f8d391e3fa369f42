"""What is learnt of a target while it is followed: a linear classifier of what the network sees in each cell.

The network compares with a template, and takes what resembles it for the target; what surrounds the target, and how
both have changed since, it does not know. A ridge regression does: of the cells' features on a Gaussian around the
target's centre, as correlation filters learn theirs (Henriques et al., TPAMI 2015, eq. 4). ATOM (arXiv 1811.07628) and
DCFST (Zheng et al., ECCV 2020) learn more elaborate ones beside deep networks. The network's graph answers with it and
mixes both (`models.graphs.mixed_score`), so that a frame stays one run; a lesson costs less than a millisecond of one
core, a few times a second, and can wait until the frame's answer is out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ros2_tracker.models.learnt import LEAST_RESPONSE
from ros2_tracker.tracking.crop import Region
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.settings import LearningSettings

# Of a label, in widths and heights of the target.
_SIGMA = 0.25
# The same, at least, in cells: of a target of one cell, its neighbours are not to be nothing.
_LEAST_SIGMA = 0.5
# Of the constant feature; lower holds the bias back.
_BIAS = 0.3
# Ridge, as a share of the mean of what it is added to.
_RIDGE = 0.03
# Share of the first frame, whose box the user drew, among all that was learnt.
_FIRST = 0.3
# What passed between two lessons counts as no more than this, or than the interval, s.
_LONGEST_S = 0.2
# Multiplications of one product of matrices: for a million and more, OpenBLAS would wake its threads, which spin on for
# 0.1 s on the cores that the network's next run needs (28 instead of 17 ms).
_QUIET_PRODUCT = 900_000
# Steps of a solution: of the first, and of one that starts from the last and comes to some 2 % of the exact one.
_FIRST_STEPS, _STEPS = 200, 20
# What may be left of the right side, as a share of its square.
_SOLVED = 1e-10
# Of a camera's stamps: a lesson is not to wait for another image because of it.
_JITTER_S = 0.005
# In an answer, for the network's own score to be had from it.
_MOST_SHARE = 0.95
# A find that covers less of the region than this, in cells, says nothing.
_LEAST_LABEL = 1e-3


_Moments: TypeAlias = NDArray[np.float32]
"""(C + 2, C + 2) second moments of samples: features, the constant one, and the label."""


@dataclass(frozen=True, slots=True, eq=False)
class Discriminator:
    """A classifier of one target. Never changed: what has learnt more is another one."""

    first: _Moments
    """Of the frame the box was drawn on."""
    all: _Moments
    """Of that and those after, the later the more."""
    learnt: NDArray[np.float32]
    """(C + 2,) as the graph takes it: weights, bias, its share in the answer. The same array until more is learnt."""
    weight: float
    """That share."""
    age: float = 0.0
    """Seconds since the last frame that it learnt from."""

    @classmethod
    def of(
        cls, views: Sequence[tuple[NDArray[np.floating], Region]], box: Box, settings: LearningSettings
    ) -> Discriminator:
        """From one frame, in which the target is at `box`.

        Args:
            views: (F^2, C) unit vectors, row by row, and the search region that they are of. In several regions the
                target lies in several places: else it is told by its place, which features know, as much as by its
                look.
            box: px.
            settings: of learning.

        Raises:
            FloatingPointError: the features are not finite.

        """
        seen = [_moments(_checked(features), region, box) for features, region in views]
        moments = sum(seen) / np.float32(len(seen))
        nothing = np.zeros(len(moments) - 1, np.float32)
        solution = _solution(moments, nothing, _FIRST_STEPS)
        return cls(moments, moments, _answer(solution, settings.weight), settings.weight)

    def after(
        self,
        features: NDArray[np.floating],
        region: Region,
        box: Box,
        reliability: float,
        dt: float,
        settings: LearningSettings,
    ) -> Discriminator:
        """After a frame in which the target was found at `box`, `dt` seconds after the one before.

        The arguments are as those of `of`. FloatingPointError: the features are not finite.
        """
        age = self.age + dt
        if age < settings.interval - _JITTER_S or reliability < settings.above:
            return replace(self, age=age)
        # After a pause one view is not to outweigh all before it.
        share = 1.0 - 2.0 ** (-min(age, max(_LONGEST_S, settings.interval)) / settings.half_life)
        everything = _mixed(self.all, _moments(_checked(features), region, box), share)
        weights, bias = self.learnt[:-2], self.learnt[-2:-1]
        # One lesson changes little: from the last solution on, a few steps lead to the next.
        last = np.concatenate([weights, bias / _BIAS], dtype=np.float32)
        solution = _solution(_mixed(everything, self.first, _FIRST), last, _STEPS)
        return Discriminator(self.first, everything, _answer(solution, self.weight), self.weight)

    def told(self, weight: float) -> NDArray[np.float32]:
        """`learnt` with another share; the same array if it has that one."""
        if self.weight == weight:
            return self.learnt
        learnt = self.learnt.copy()
        learnt[-1] = weight
        return learnt


def unmixed_score(score: float, features: NDArray[np.floating], learnt: NDArray[np.float32]) -> float:
    """The network's own score of a cell, from the one that what was learnt is mixed into (`models.graphs.mixed_score`).

    Args:
        score: in (0, 1].
        features: (C,) of that cell.
        learnt: (C + 2,) as the graph took it.

    """
    share = float(learnt[-1])
    # From there on too little of it is left to be told.
    if share > _MOST_SHARE or not score > 0.0:
        return score
    response = float(features @ learnt[:-2]) + float(learnt[-2])
    if not math.isfinite(response):
        return score
    response = min(max(response, LEAST_RESPONSE), 1.0)
    return math.exp(min((math.log(score) - share * math.log(response)) / (1.0 - share), 0.0))


def nothing_learnt(channels: int) -> NDArray[np.float32]:
    """What a graph takes where there is no classifier."""
    return np.zeros(channels + 2, np.float32)


def _checked(features: NDArray[np.floating]) -> NDArray[np.floating]:
    if not np.isfinite(features).all():
        raise FloatingPointError("the network returned features that are not finite")
    return features


def _moments(features: NDArray[np.floating], region: Region, box: Box) -> _Moments:
    """Target and background weigh the same, however small the target is."""
    label = _label(region, box, round(len(features) ** 0.5))
    weights = 0.5 * label / max(float(label.sum()), _LEAST_LABEL) + 0.5 * (1.0 - label) / float((1.0 - label).sum())
    samples = np.empty((len(features), features.shape[1] + 2), np.float32)
    samples[:, :-2], samples[:, -2], samples[:, -1] = features, _BIAS, label
    weighted = samples * weights[:, None]
    rows = max(_QUIET_PRODUCT // samples.shape[1] ** 2, 1)
    parts = (slice(start, start + rows) for start in range(0, len(samples), rows))
    return sum(samples[part].T @ weighted[part] for part in parts)


def _mixed(moments: _Moments, other: _Moments, share: float) -> _Moments:
    """With a share of others."""
    return moments + np.float32(share) * (other - moments)


def _answer(solution: NDArray[np.float32], weight: float) -> NDArray[np.float32]:
    """As the graph takes it."""
    return np.concatenate([solution[:-1], [_BIAS * solution[-1], weight]], dtype=np.float32)


def _solution(moments: _Moments, start: NDArray[np.float32], steps: int) -> NDArray[np.float32]:
    """(C + 1,) of the ridge regression, by at most so many steps of conjugate gradients (Hestenes and Stiefel, 1952).

    Each is one product of the matrix with a vector: for 192 features, 20 of them take two thirds of the time of
    LAPACK's solution on one thread, and wake no others.

    Args:
        moments: of all that is known.
        start: (C + 1,) weights and that of the constant feature.
        steps: at most.

    """
    squares, right = moments[:-1, :-1].copy(), moments[:-1, -1]
    diagonal = np.einsum("ii->i", squares)
    diagonal += _RIDGE * diagonal.mean()
    solution, rest = start, right - squares @ start
    along, left = rest, float(rest @ rest)
    enough = _SOLVED * float(right @ right)
    for _ in range(steps):
        if left <= enough:
            break
        moved = squares @ along
        curvature = float(along @ moved)
        if not curvature > 0.0:
            break
        step = np.float32(left / curvature)
        solution, rest = solution + step * along, rest - step * moved
        before, left = left, float(rest @ rest)
        along = rest + np.float32(left / before) * along
    return solution


def _label(region: Region, box: Box, cells: int) -> NDArray[np.float32]:
    """(cells^2,) a Gaussian at the box's centre, 1 there."""
    scale = cells / region.side
    at = np.arange(cells, dtype=np.float32) + 0.5
    along_x, along_y = (
        np.exp(-0.5 * ((at - (center - corner) * scale) / max(_SIGMA * side * scale, _LEAST_SIGMA)) ** 2)
        for center, corner, side in ((box.cx, region.x, box.w), (box.cy, region.y, box.h))
    )
    return np.outer(along_y, along_x).ravel()
