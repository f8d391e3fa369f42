"""From the network's maps to one candidate box inside the search region."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ros2_tracker.tracking.family import Look
from ros2_tracker.tracking.geometry import Box, kept_in_image


class Candidate(NamedTuple):
    """The best box of a search region; coordinates are fractions of the region's side."""

    cx: float
    cy: float
    w: float
    h: float
    score: float
    """Score of the chosen cell before windowing, in [0, 1]."""
    cell: tuple[int, int]
    """(row, column) of the chosen cell."""


def decode_ltrb(
    score_map: NDArray[np.float32],
    ltrb: NDArray[np.float32],
    window: NDArray[np.float32] | None,
    cell: tuple[int, int] | None = None,
) -> Candidate:
    """Candidate at the highest windowed score of an anchor-free head, or at another cell.

    Args:
        score_map: (F, F) scores in [0, 1]; cell (i, j) is centred at ((j + 0.5) / F, (i + 0.5) / F).
        ltrb: (4, F, F) distances from the cell's centre to left, top, right, bottom, in search sides.
        window: (F, F) weights, or None.
        cell: (row, column) of the one that is wanted; None: the best.

    Raises:
        FloatingPointError: the maps hold a value that is not finite at the chosen cell.

    """
    if cell is None:
        weighted = score_map if window is None else score_map * window
        cell = divmod(int(weighted.argmax()), score_map.shape[1])
    row, column = cell
    left, top, right, bottom = ltrb[:, row, column].tolist()
    score = float(score_map[row, column])
    # One of them that is not finite makes the sum so.
    if not math.isfinite(score + left + top + right + bottom):
        raise FloatingPointError(f"the network returned score {score} and ltrb {(left, top, right, bottom)}")
    cells = score_map.shape[0]
    x, y = (column + 0.5) / cells, (row + 0.5) / cells
    return Candidate(x + (right - left) / 2, y + (bottom - top) / 2, left + right, top + bottom, score, (row, column))


def smoothed(cx: float, cy: float, w: float, h: float, look: Look, size_update: float) -> Box:
    """Box in the image of one in fractions of the search region, its centre kept in the image.

    Its size is `size_update` of the new one and the rest of the one before.
    """
    region, last, keep = look.region, look.last, 1.0 - size_update
    scale = size_update * region.side
    box = Box.from_center(
        region.x + cx * region.side, region.y + cy * region.side, scale * w + keep * last.w, scale * h + keep * last.h
    )
    return kept_in_image(box, look.width, look.height)
