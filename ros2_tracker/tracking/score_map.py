"""What the shape of a score map says of an answer; what is not asked for is not computed."""

from __future__ import annotations

import math
from operator import mul

import numpy as np
from numpy.typing import NDArray

PEAK_RADIUS = 2
"""Cells around the peak that belong to it (a 5x5 square; Bolme et al. use 11x11 px of a finer map)."""
_EPSILON = 1e-6


class MapShape:
    """An (F, F) score map in [0, 1] and its chosen cell, with the sums that most of what it says is made of.

    In plain Python: of a few hundred numbers, it takes less time than calls of NumPy or OpenCV right after the network.
    """

    __slots__ = ("cell", "highest_sidelobe", "peak", "scores", "sidelobe_squares", "sidelobes", "squares", "total")

    def __init__(self, scores: NDArray[np.floating], cell: tuple[int, int]) -> None:
        """`cell` is (row, column)."""
        self.scores, self.cell = scores, cell
        rest = self._values()
        self.peak = rest[cell[0] * scores.shape[1] + cell[1]]
        # What is near the peak is moved from one list to the other.
        near: list[float] = []
        for part in self._around((PEAK_RADIUS, PEAK_RADIUS)):
            near += rest[part]
            rest[part] = [0.0] * (part.stop - part.start)
        outside, self.sidelobe_squares = sum(rest), sum(map(mul, rest, rest))
        # (count, sum) of the scores outside the peak's surroundings.
        self.sidelobes = len(rest) - len(near), outside
        self.highest_sidelobe = max(rest)
        self.total, self.squares = outside + sum(near), self.sidelobe_squares + sum(map(mul, near, near))

    def _values(self) -> list[float]:
        """Row by row; not kept, as results that somebody keeps would hold eight times the map."""
        return self.scores.ravel().tolist()

    def _around(self, reach: tuple[int, int]) -> list[slice]:
        """What of each row lies within `reach` (rows, columns) of the cell, in the map row by row."""
        (row, column), (rows, columns), (down, across) = self.cell, self.scores.shape, reach
        first, last = max(column - across, 0), min(column + across + 1, columns)
        starts = range(max(row - down, 0) * columns, min(row + down + 1, rows) * columns, columns)
        return [slice(start + first, start + last) for start in starts]

    def psr(self) -> float:
        """Peak-to-sidelobe ratio (Bolme et al., CVPR 2010): (peak - mean) / deviation outside its surroundings."""
        count, total = self.sidelobes
        mean = total / count
        variance = self.sidelobe_squares / count - mean * mean
        return (self.peak - mean) / (math.sqrt(max(variance, 0.0)) + 1e-3)

    def apce(self) -> float:
        """Average peak-to-correlation energy: |max - min|^2 / mean((map - min)^2) (Wang et al., CVPR 2017, eq. 9)."""
        values = self._values()
        low, high = min(values), max(values)
        energy = (self.squares - 2.0 * low * self.total) / len(values) + low * low
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
        rest = self._values()
        for part in self._around(reach):
            rest[part] = [0.0] * (part.stop - part.start)
        score = max(rest)
        return divmod(rest.index(score), self.scores.shape[1]), score
