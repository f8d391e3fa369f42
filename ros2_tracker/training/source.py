"""What every set of training images offers: context crops of objects, in tracks.

A context crop is a square window of side 6 * sqrt(w * h) around one object, resampled to 352 px, RGB; outside the
image: the image's mean colour. Templates (2 x) and shifted search regions (4 x, 5 x) are cut from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

CROP_PX = 352
"""Side of a context crop."""
CONTEXT = 6.0
"""Side of its window over sqrt(w * h) of the object."""
# Boxes were rounded to whole pixels when the crops were made.
_SLACK_PX = 1.0


class CropError(ValueError):
    """A crop that cannot be read; the text names it."""


class CropSource(Protocol):
    """Context crops of one data set or pack, in the order of their tracks."""

    name: str
    tracks: NDArray[np.int64]
    """(N,) which track a crop belongs to; equal numbers lie together, in the order of time."""
    boxes: NDArray[np.float32]
    """(N, 4) cx, cy, w, h of the object, px of the crop."""
    left_out: Sequence[str]
    """What is not used and why, a text each."""

    def read(self, index: int) -> NDArray[np.uint8]:
        """(352, 352, 3) RGB; CropError naming the crop when it cannot be read. May be called from several threads."""
        ...


def box_problem(box: NDArray[np.floating] | Sequence[float]) -> str | None:
    """Why a box (cx, cy, w, h in px of the crop) cannot be trained on; None when it can."""
    cx, cy, w, h = (float(v) for v in box)
    shown = f"box {cx:g},{cy:g},{w:g},{h:g}"
    if not np.isfinite((cx, cy, w, h)).all():
        return f"{shown} is not finite"
    if w <= 0.0 or h <= 0.0:
        return f"{shown} has no area"
    low, high = -_SLACK_PX, CROP_PX + _SLACK_PX
    if min(cx - w / 2, cy - h / 2) < low or max(cx + w / 2, cy + h / 2) > high:
        return f"{shown} is not inside the crop of {CROP_PX} px"
    return None
