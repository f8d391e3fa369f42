"""What the shape of a score map says of an answer; what is not asked for is not computed."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

PEAK_RADIUS = 2
"""Cells around the peak that belong to it (a 5x5 square; Bolme et al. use 11x11 px of a finer map)."""
_EPSILON = 1e-6


class MapShape:
    """An (F, F) score map in [0, 1] and its chosen cell, with the sums that most of what it says is made of."""

    __slots__ = ("cell", "peak", "scores", "sidelobe_squares", "sidelobes", "squares", "total")

    def __init__(self, scores: NDArray[np.floating], cell: tuple[int, int]) -> None:
        """`cell` is (row, column)."""
        self.scores, self.cell = scores, cell
        self.peak = float(scores[cell])
        near = around(scores, cell, (PEAK_RADIUS, PEAK_RADIUS))
        self.total, self.squares = _sums(scores)
        values = near.ravel().tolist()
        near_total, near_squares = math.fsum(values), sum([value * value for value in values])
        # (count, sum) of the scores outside the peak's surroundings.
        self.sidelobes = scores.size - near.size, self.total - near_total
        self.sidelobe_squares = self.squares - near_squares

    def psr(self) -> float:
        """Peak-to-sidelobe ratio (Bolme et al., CVPR 2010): (peak - mean) / deviation outside its surroundings."""
        count, total = self.sidelobes
        mean = total / count
        variance = self.sidelobe_squares / count - mean * mean
        return (self.peak - mean) / (math.sqrt(max(variance, 0.0)) + 1e-3)

    def apce(self) -> float:
        """Average peak-to-correlation energy: |max - min|^2 / mean((map - min)^2) (Wang et al., CVPR 2017, eq. 9)."""
        low, high, _, _ = cv2.minMaxLoc(self.scores)
        energy = (self.squares - 2.0 * low * self.total) / self.scores.size + low * low
        return (high - low) ** 2 / (max(energy, 0.0) + _EPSILON)

    def entropy(self) -> float:
        """Collision entropy (Renyi's of order 2) of the map as a distribution, 0 (one cell) to 1 (uniform)."""
        if not self.squares > 0.0:
            return 1.0
        return math.log(max(self.total * self.total / self.squares, 1.0)) / math.log(self.scores.size)

    def margin(self, reach: tuple[int, int]) -> float:
        """Peak minus the highest score outside a target that covers `reach` cells (rows, columns) on each side of it.

        In [-1, 1]; negative where a look-alike is higher.
        """
        return self.peak - self.highest_outside(reach)[1]

    def highest_outside(self, reach: tuple[int, int]) -> tuple[tuple[int, int], float]:
        """(row, column) of the highest score that is not within `reach` of the cell, and that score; 0 if none is."""
        rest = self.scores.copy()
        around(rest, self.cell, reach)[:] = 0.0
        _, score, _, (column, row) = cv2.minMaxLoc(rest)
        return (row, column), score


def around(scores: NDArray[np.floating], cell: tuple[int, int], reach: tuple[int, int]) -> NDArray[np.floating]:
    """The part of a map within `reach` (rows, columns) of a cell, as a view."""
    (row, column), (rows, columns) = cell, reach
    return scores[max(row - rows, 0) : row + rows + 1, max(column - columns, 0) : column + columns + 1]


def _sums(scores: NDArray[np.floating]) -> tuple[float, float]:
    """Of the scores, and of their squares: in one call, as each costs more than what it computes."""
    mean, deviation = cv2.meanStdDev(scores)
    m, d = mean.item(), deviation.item()
    return m * scores.size, (d * d + m * m) * scores.size
