"""IBFP's crops (SPEC 4.3): nearest pixels outside the image; the first frame also moved, turned, mirrored, blurred."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from ros2_tracker.engines.patch import Axis, Patch
from ros2_tracker.tracking.crop import Region
from ros2_tracker.tracking.frame import ColorOrder, Frame, to_rgb

_APRON_PX = 2  # bilinear sampling reads one pixel beyond the region


@dataclass(frozen=True, slots=True)
class View:
    """How the first frame is shown once: moved, turned, mirrored or blurred."""

    move: tuple[float, float] = (0.0, 0.0)
    """Of the region, in target sizes."""
    turn: float = 0.0
    """Degrees, around the region's middle."""
    mirror: bool = False
    blur: tuple[float, float] = (0.0, 0.0)
    """Sigma in x and y, px of the crop."""

    def region(self, region: Region, size: float) -> Region:
        """Where it looks; `size` of the target, px."""
        return Region(region.x + self.move[0] * size, region.y + self.move[1] * size, region.side)

    def target(self, factor: float) -> tuple[float, float]:
        """Centre of the target in it, in sides; `factor`: side of the region over the target's."""
        return (0.5 - self.move[0] / factor, 0.5 - self.move[1] / factor)


def first_views() -> list[View]:
    """The first frame as it is, and as ATOM augments it: moved, turned, mirrored, blurred. The amounts are ours."""
    moves = [(r * math.cos(a), r * math.sin(a)) for i in range(8) for r, a in (((0.6, 1.2)[i % 2], i * math.pi / 4),)]
    return [
        View(),
        View(mirror=True),
        *(View(move=move) for move in moves),
        *(View(turn=sign * turn) for turn in (5.0, 15.0, 30.0) for sign in (-1, 1)),
        *(View(blur=blur) for blur in ((2.0, 0.2), (0.2, 2.0), (3.0, 3.0))),
    ]


def replicated_crop(frame: Frame, region: Region, size: int, view: View | None = None) -> NDArray[np.uint8]:
    """The region resampled bilinearly to (size, size, 3) uint8 RGB, outside the image its nearest pixels (SPEC 4.3)."""
    view = view or View()
    angle = math.radians(view.turn)
    cos, sin = math.cos(angle), math.sin(angle)
    cx, cy = region.x + 0.5 * region.side, region.y + 0.5 * region.side
    pixels, order, x0, y0 = _source(frame, region, abs(cos) + abs(sin))  # what it reaches when it is turned
    step = region.side / size
    across = -step if view.mirror else step
    rotation = np.array([[cos * across, -sin * step], [sin * across, cos * step]])
    # Pixel centres lie at +0.5 in our coordinates and at whole numbers in OpenCV's.
    start = np.array([cx - x0 - 0.5, cy - y0 - 0.5]) - rotation @ np.full(2, 0.5 * size - 0.5)
    crop = to_rgb(
        cv2.warpAffine(
            pixels,
            np.column_stack([rotation, start]),
            (size, size),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        ),
        order,
    )
    if any(view.blur):
        crop = cv2.GaussianBlur(crop, (0, 0), sigmaX=view.blur[0], sigmaY=view.blur[1])
    return crop


def replicated_patch(frame: Frame, region: Region, size: int) -> Patch:
    """The same for an engine that resamples by itself: not cut yet."""
    pixels, order, x0, y0 = _source(frame, region)
    step = region.side / size
    height, width = pixels.shape[:2]
    x, y = (
        Axis(corner + 0.5 * step - 0.5, step, 0.0, count - 1.0)
        for corner, count in ((region.x - x0, width), (region.y - y0, height))
    )
    return Patch(pixels, order.rgb, x, y, size, (0.0, 0.0, 0.0), partial(replicated_crop, frame, region, size))


def _source(frame: Frame, region: Region, reach: float = 1.0) -> tuple[NDArray[np.uint8], ColorOrder, int, int]:
    """Pixels of the frame under `reach` times the region, their order, and where they begin."""
    half = 0.5 * region.side * reach + _APRON_PX
    cx, cy = region.x + 0.5 * region.side, region.y + 0.5 * region.side
    x0, x1 = _span(cx - half, cx + half, frame.width)
    y0, y1 = _span(cy - half, cy + half, frame.height)
    return *frame.region(x0, y0, x1, y1), x0, y0


def _span(low: float, high: float, limit: int) -> tuple[int, int]:
    """Pixels from low to high that the image has; one at its border at least."""
    first = min(max(math.floor(low), 0), limit - 1)
    return first, max(min(math.ceil(high), limit), first + 1)
