"""What is learnt of a target while it is followed: a linear classifier of what the network sees in each cell.

The network compares with a template, and takes what resembles it for the target; what surrounds the target, and how
both have changed since, it does not know. A ridge regression does: of the cells' features on a Gaussian around the
target's centre, solved in closed form each time, as correlation filters learn theirs (Henriques et al., TPAMI 2015,
eq. 4). ATOM (arXiv 1811.07628) and DCFST (Zheng et al., ECCV 2020) learn more elaborate ones beside deep networks. The
network's graph answers with it and mixes both (`models.graphs.mixed_score`), so that a frame stays one run; a lesson
costs about three milliseconds of one core, a few times a second.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

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
# Rows of a matrix from which OpenCV leaves it to a BLAS, if it has one.
_LARGE = 100
# Of a camera's stamps: a lesson is not to wait for another image because of it.
_JITTER_S = 0.005
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
    age: float = 0.0
    """Seconds since it last learnt."""

    @classmethod
    def of(cls, features: NDArray[np.floating], region: Region, box: Box, settings: LearningSettings) -> Discriminator:
        """From one frame.

        Args:
            features: (F^2, C) unit vectors, row by row, of a search region.
            region: that they are of.
            box: where the target is, px.
            settings: of learning.

        Raises:
            FloatingPointError: the features are not finite; `after` raises it, too.

        """
        moments = _moments(features, region, box)
        return cls(moments, moments, _solved(moments, settings.weight))

    def after(
        self,
        features: NDArray[np.floating],
        region: Region,
        box: Box,
        reliability: float,
        dt: float,
        settings: LearningSettings,
    ) -> Discriminator:
        """After a frame in which the target was found at `box`, `dt` seconds after the one before."""
        age = self.age + dt
        if age < settings.interval - _JITTER_S or reliability < settings.above:
            return replace(self, age=age)
        # After a pause one view is not to outweigh all before it.
        share = 1.0 - 2.0 ** (-min(age, max(_LONGEST_S, settings.interval)) / settings.half_life)
        everything = _mixed(self.all, _moments(features, region, box), share)
        return Discriminator(self.first, everything, _solved(_mixed(everything, self.first, _FIRST), settings.weight))

    def told(self, weight: float) -> NDArray[np.float32]:
        """`learnt` with another share; the same array if it has that one."""
        if self.learnt[-1] == np.float32(weight):
            return self.learnt
        learnt = self.learnt.copy()
        learnt[-1] = weight
        return learnt


def nothing_learnt(channels: int) -> NDArray[np.float32]:
    """What a graph takes where there is no classifier."""
    return np.zeros(channels + 2, np.float32)


# Sums of products are left to OpenCV, in pieces that it does not leave to a BLAS: NumPy's, and the one in OpenCV's
# wheels, would take a tenth of the time and let their threads spin on for 0.1 s, on the cores that the network's next
# run needs (28 instead of 17 ms).


def _moments(features: NDArray[np.floating], region: Region, box: Box) -> _Moments:
    """Target and background weigh the same, however small the target is."""
    label = _label(region, box, round(len(features) ** 0.5))
    weights = 0.5 * label / max(float(label.sum()), _LEAST_LABEL) + 0.5 * (1.0 - label) / float((1.0 - label).sum())
    samples = np.empty((len(features), features.shape[1] + 2), np.float32)
    samples[:, :-2], samples[:, -2], samples[:, -1] = features, _BIAS, label
    if not cv2.checkRange(samples)[0]:
        raise FloatingPointError("the network returned features that are not finite")
    samples *= np.sqrt(weights)[:, None]
    parts = range(0, len(samples), _LARGE - 1)
    return sum(cv2.mulTransposed(samples[start : start + _LARGE - 1], aTa=True) for start in parts)


def _mixed(moments: _Moments, other: _Moments, share: float) -> _Moments:
    """With a share of others."""
    return moments + share * (other - moments)


def _solved(moments: _Moments, weight: float) -> NDArray[np.float32]:
    squares = moments[:-1, :-1].copy()
    diagonal = np.einsum("ii->i", squares)
    diagonal += _RIDGE * diagonal.mean()
    solution = _solution(squares, moments[:-1, -1:].copy())[:, 0]
    return np.concatenate([solution[:-1], [_BIAS * solution[-1], weight]], dtype=np.float32)


def _solution(matrix: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, K) of a symmetric positive definite (N, N) matrix and right sides, eliminating one half after the other."""
    if len(matrix) < _LARGE:
        found, solution = cv2.solve(matrix, right, flags=cv2.DECOMP_CHOLESKY)
        if not found:
            raise FloatingPointError("what was learnt of the target cannot be solved for")
        return solution
    half = len(matrix) // 2
    across = np.ascontiguousarray(matrix[:half, half:])
    first = _solution(np.ascontiguousarray(matrix[:half, :half]), np.hstack([across, right[:half]]))
    coupling, alone = map(np.ascontiguousarray, np.hsplit(first, [across.shape[1]]))
    # What the first half leaves of the second: its Schur complement.
    left = cv2.gemm(across, coupling, -1.0, np.ascontiguousarray(matrix[half:, half:]), 1.0, flags=cv2.GEMM_1_T)
    rest = cv2.gemm(across, alone, -1.0, np.ascontiguousarray(right[half:]), 1.0, flags=cv2.GEMM_1_T)
    second = _solution(left, rest)
    return np.vstack([cv2.gemm(coupling, second, -1.0, alone, 1.0), second])


def _label(region: Region, box: Box, cells: int) -> NDArray[np.float32]:
    """(cells^2,) a Gaussian at the box's centre, 1 there."""
    scale = cells / region.side
    at = np.arange(cells, dtype=np.float32) + 0.5
    along_x, along_y = (
        np.exp(-0.5 * ((at - (center - corner) * scale) / max(_SIGMA * side * scale, _LEAST_SIGMA)) ** 2)
        for center, corner, side in ((box.cx, region.x, box.w), (box.cy, region.y, box.h))
    )
    return np.outer(along_y, along_x).ravel()
