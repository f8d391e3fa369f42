"""What the frame tells in which the user drew the box: how the network's boxes differ from it.

The network looks at it as it will at later frames, with the target in the middle of the search region and beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from ros2_tracker.tracking.family import Drawn
from ros2_tracker.tracking.geometry import Box, iou

# Of the search regions around the target, in its sizes: it lies as far from their middle as one that is fast.
_ASIDE = 0.8
# A box that overlaps the drawn one by less is of something else.
_SAME = 0.3
# Ratios beyond this, and its inverse, say more of a bad start than of a habit.
_MOST = 1.5


def first_places(box: Box) -> list[Box]:
    """Where the frame is looked at: at the target, and around it."""
    step = _ASIDE * box.size
    shifts = [(0.0, 0.0), (-step, -step), (-step, step), (step, -step), (step, step)]
    return [Box(box.x + dx, box.y + dy, box.w, box.h) for dx, dy in shifts]


def is_inside(box: Box, width: int, height: int) -> bool:
    """Whether all of a box lies in the image: of one that does not, the network draws what can be seen."""
    return min(box.x, box.y) >= 0.0 and box.x + box.w <= width and box.y + box.h <= height


def drawn_like(box: Box, found: Sequence[Box], size_update: float, weight: float) -> Drawn:
    """How a user's box differs from the network's of the same frame.

    Args:
        box: that was drawn.
        found: the network's answers, in whose sizes `size_update` is its own part, and the rest the drawn box.
        size_update: in (0, 1].
        weight: in [0, 1], how much is made of the difference.

    """
    same = [each for each in found if iou(each, box) >= _SAME]
    if not same:
        return Drawn()

    def ratio(drawn: float, mixed: Sequence[float]) -> float:
        own = [max(drawn + (each - drawn) / size_update, 1e-3) for each in mixed]
        return min(max(math.exp(weight * median(math.log(drawn / each) for each in own)), 1.0 / _MOST), _MOST)

    return Drawn(ratio(box.w, [each.w for each in same]), ratio(box.h, [each.h for each in same]))
