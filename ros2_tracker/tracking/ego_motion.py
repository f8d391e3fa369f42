"""How the camera moved between two images: a homography of the background, from sparse optical flow.

Corners outside the targets' boxes are followed from the last image to this one by pyramidal Lucas-Kanade, and back
again; what does not come back to where it started is left out. RANSAC finds the homography that most of the rest agree
on. The work is bounded: grey images of at most `MAX_WIDTH` columns, at most `MAX_POINTS` corners.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ros2_tracker.tracking.frame import ColorOrder, Frame
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.motion import Homography, LocalMap

MAX_WIDTH = 320
"""Of the grey image that the flow is computed in, px; its height is at most as much."""
MAX_POINTS = 120
MIN_INLIERS = 16
MIN_INLIER_SHARE = 0.5
"""Of the corners that came back. With fewer, as much moves one way as another: what is background is not clear."""
# Around a target's box, in its own width and height: its border and its shadow move with it.
_MASK_MARGIN = 0.15
# In px of the small image.
_CORNER_DISTANCE = 8
# Low, because one bright thing sets the measure for all: what cannot be followed does not come back.
_CORNER_QUALITY = 0.001
_MAX_RETURN_ERROR = 0.7
_RANSAC_ERROR = 1.5
_WINDOW = (11, 11)
_PYRAMID_LEVELS = 3
# Inliers must span this share of the image's width or height, or what the map does elsewhere is a guess.
_MIN_SPREAD = 0.25
# A camera that moves more of the picture out of view than this between two images has been cut, or the flow is wrong.
_MAX_SHIFT = 0.4
_MAX_SCALE = 1.6
_TO_GRAY = {
    ColorOrder.BGR: cv2.COLOR_BGR2GRAY,
    ColorOrder.RGB: cv2.COLOR_RGB2GRAY,
    ColorOrder.BGRA: cv2.COLOR_BGRA2GRAY,
    ColorOrder.RGBA: cv2.COLOR_RGBA2GRAY,
}


class Ego(NamedTuple):
    """The camera's motion from one image to the next."""

    homography: Homography | None
    """From px of the last image to px of this one; None where it cannot be trusted."""
    reason: str = ""
    """Why there is none, for people."""


@dataclass(frozen=True, slots=True)
class _View:
    """What is kept of an image until the next."""

    stamp_ns: int
    size: tuple[int, int]
    """Of the full image: width, height."""
    gray: NDArray[np.uint8]


class EgoMotion:
    """The camera's motion from image to image. Not thread-safe: one thread uses it."""

    def __init__(self) -> None:
        """Before the first image."""
        self._last: _View | None = None

    def forget(self) -> None:
        """The next image is the first again."""
        self._last = None

    @property
    def stamp_ns(self) -> int | None:
        """Of the last image, which the next homography will map from."""
        return None if self._last is None else self._last.stamp_ns

    def to(self, frame: Frame, stamp_ns: int, targets: Sequence[Box]) -> Ego:
        """From the last image to `frame`, which takes its place; `targets` are the boxes in the last one, px."""
        last, view = self._last, _View(stamp_ns, (frame.width, frame.height), small_gray(frame))
        self._last = view
        if last is None:
            return Ego(None, "there is no image before")
        if last.size != view.size:
            return Ego(None, f"the image before had {last.size[0]}x{last.size[1]} px")
        return homography_between(last.gray, view.gray, view.size, targets)


def small_gray(frame: Frame) -> NDArray[np.uint8]:
    """The frame in grey, scaled down to at most MAX_WIDTH columns and rows; (h, w) uint8.

    Frames of BGR, RGB or grey are read in place; others are converted as a whole.
    """
    pixels, order = frame.region(0, 0, frame.width, frame.height)
    scale = min(MAX_WIDTH / max(frame.width, frame.height), 1.0)
    if scale < 1.0:
        size = (max(round(frame.width * scale), 1), max(round(frame.height * scale), 1))
        # Halving by leaving out pixels is a view; the area filter then reads a quarter of them.
        step = max(int(1.0 / (2.0 * scale)), 1)
        pixels = cv2.resize(np.ascontiguousarray(pixels[::step, ::step]), size, interpolation=cv2.INTER_AREA)
    if order is ColorOrder.GRAY:
        # A copy where it is still the camera's own buffer.
        return np.array(pixels) if scale == 1.0 else pixels
    return cv2.cvtColor(pixels, _TO_GRAY[order])


def homography_between(
    last: NDArray[np.uint8], this: NDArray[np.uint8], size: tuple[int, int], targets: Sequence[Box] = ()
) -> Ego:
    """Of the background, in px of the full image, from two small grey images of the same (h, w).

    Args:
        last: the earlier one.
        this: the later one.
        size: (width, height) of the full image, px.
        targets: boxes in the earlier full image that are no background, px.

    """
    height, width = last.shape
    to_full = np.array([size[0] / width, size[1] / height], np.float64)
    corners = cv2.goodFeaturesToTrack(
        last, MAX_POINTS, _CORNER_QUALITY, _CORNER_DISTANCE, mask=_background(last.shape, to_full, targets)
    )
    if corners is None or len(corners) < MIN_INLIERS:
        return Ego(None, f"{0 if corners is None else len(corners)} corners in the background")
    there, found, _ = cv2.calcOpticalFlowPyrLK(last, this, corners, None, winSize=_WINDOW, maxLevel=_PYRAMID_LEVELS)
    back, returned, _ = cv2.calcOpticalFlowPyrLK(this, last, there, None, winSize=_WINDOW, maxLevel=_PYRAMID_LEVELS)
    error = np.linalg.norm((back - corners).reshape(-1, 2), axis=1)
    good = (found.ravel() == 1) & (returned.ravel() == 1) & (error < _MAX_RETURN_ERROR)
    count = int(good.sum())
    if count < MIN_INLIERS:
        return Ego(None, f"{count} of {len(corners)} corners could be followed")
    # OpenCV counts from the centre of the first pixel, we from its outer corner.
    start = (corners.reshape(-1, 2)[good].astype(np.float64) + 0.5) * to_full
    end = (there.reshape(-1, 2)[good].astype(np.float64) + 0.5) * to_full
    matrix, inliers = cv2.findHomography(start, end, cv2.RANSAC, _RANSAC_ERROR * float(to_full.max()), maxIters=300)
    if matrix is None:
        return Ego(None, "no homography fits")
    agreeing = inliers.ravel() == 1
    n_inliers = int(agreeing.sum())
    if n_inliers < max(MIN_INLIERS, MIN_INLIER_SHARE * count):
        return Ego(None, f"{n_inliers} of {count} corners agree")
    spread = np.ptp(start[agreeing], axis=0) / size
    if spread.min() < _MIN_SPREAD:
        return Ego(None, f"the corners that agree span {spread[0]:.0%} x {spread[1]:.0%} of the image")
    reason = _implausible(matrix, *size)
    return Ego(None, reason) if reason else Ego(matrix)


def warp_box(box: Box, homography: Homography) -> Box:
    """A box that stands still against the background, in the next image."""
    near = LocalMap.of(homography, box.cx, box.cy)
    return Box.from_center(near.x, near.y, *near.sides(box.w, box.h))


def _background(shape: tuple[int, ...], to_full: NDArray[np.float64], targets: Sequence[Box]) -> NDArray[np.uint8]:
    """255 where corners may be looked for."""
    mask = np.full(shape[:2], 255, np.uint8)
    for box in targets:
        margin_x, margin_y = _MASK_MARGIN * box.w, _MASK_MARGIN * box.h
        left, right = (box.x - margin_x) / to_full[0], (box.x + box.w + margin_x) / to_full[0]
        top, bottom = (box.y - margin_y) / to_full[1], (box.y + box.h + margin_y) / to_full[1]
        rows = slice(max(math.floor(top), 0), max(math.ceil(bottom), 0))
        mask[rows, max(math.floor(left), 0) : max(math.ceil(right), 0)] = 0
    return mask


def _implausible(homography: Homography, width: int, height: int) -> str:
    """What a camera cannot have done between two images; empty where all is well."""
    corners = [(0.0, 0.0), (width, 0.0), (width, height), (0.0, height)]
    depths = [float(homography[2] @ (x, y, 1.0)) for x, y in corners]
    if not np.isfinite(homography).all() or min(depths) <= 0.5 or max(depths) >= 2.0:
        return "the homography is degenerate"
    for x, y in [*corners, (width / 2, height / 2)]:
        near = LocalMap.of(homography, x, y)
        area = near.xx * near.yy - near.xy * near.yx
        if not 1.0 / _MAX_SCALE**2 < area < _MAX_SCALE**2:
            return f"areas would change by {area:.2f}"
    if abs(near.x - width / 2) > _MAX_SHIFT * width or abs(near.y - height / 2) > _MAX_SHIFT * height:
        return f"the image would jump by {near.x - width / 2:+.0f}, {near.y - height / 2:+.0f} px"
    return ""
