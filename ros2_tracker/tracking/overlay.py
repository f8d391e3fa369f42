"""Draw what the tracker believes onto an image, for people: the debug image, the overlay video.

Everything is drawn in place on (H, W, 3) uint8 BGR images, in sizes that follow the image's. Coordinates are those of
`tracking.geometry`. What lies outside the image is cut off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from ros2_tracker.tracking.result import TrackState

Color = tuple[int, int, int]

STATE_COLORS: dict[TrackState, Color] = {
    TrackState.TRACKING: (96, 220, 60),
    TrackState.UNCERTAIN: (0, 176, 255),
    TrackState.LOST: (66, 66, 245),
}
"""BGR: green, amber, red."""
TRUTH_COLOR: Color = (255, 236, 190)

_DARK: Color = (24, 22, 20)
_LIGHT: Color = (245, 245, 245)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
# Sub-pixel drawing: OpenCV takes coordinates in units of 1/2^_SHIFT px.
_SHIFT = 3
# Under this short side (px) letters would cover the image; only shapes are drawn.
_MIN_TEXT_SIDE = 96


@dataclass(frozen=True, slots=True)
class _Style:
    """Sizes for one image, px."""

    line: int
    font: float
    stroke: int
    pad: int
    text: bool

    @classmethod
    def of(cls, image: NDArray[np.uint8]) -> _Style:
        height, width = image.shape[:2]
        scale = math.sqrt(height * width) / 550.0
        return cls(
            line=max(round(2.0 * scale), 1),
            font=min(max(0.48 * scale, 0.34), 4.0),
            stroke=max(round(1.15 * scale), 1),
            pad=max(round(5.0 * scale), 2),
            text=min(height, width) >= _MIN_TEXT_SIDE,
        )


def draw_target(
    image: NDArray[np.uint8],
    target_id: str,
    box: Sequence[float] | None,
    reliability: float,
    state: TrackState,
    *,
    candidate: Sequence[float] | None = None,
    truth: Sequence[float] | None = None,
    latency_s: float | None = None,
) -> None:
    """Draw one target: box, reliability bar and label in the colour of its state.

    Args:
        image: drawn on.
        target_id: shown in the label; may be empty.
        box: (x, y, w, h) px; None when there is none.
        reliability: in [0, 1].
        state: colours the box; red, amber or green.
        candidate: drawn dashed where there is no box: the best guess, or the place last seen, (x, y, w, h) px.
        truth: the true box where known, (x, y, w, h) px; drawn thin beneath.
        latency_s: added to the label in ms.

    """
    style = _Style.of(image)
    color = STATE_COLORS[state]
    if _drawable(truth):
        _rectangle(image, truth, TRUTH_COLOR, 1)
    shown = box if _drawable(box) else candidate
    label = "  ".join(part for part in (_ascii(target_id), state.name, _percent(reliability, state)) if part)
    if latency_s is not None:
        label += f"  {latency_s * 1000.0:.0f} ms"
    if not _drawable(shown):
        _chip(image, label, (image.shape[1] / 2, 2.0 * style.pad), color, style, centered=True)
        return
    # A thick line would hide a target of a few pixels.
    outline = replace(style, line=min(style.line, max(round(min(shown[2], shown[3]) / 12.0), 1)))
    if _drawable(box):
        _rectangle(image, shown, color, outline.line)
    else:
        _dashed(image, shown, color, outline)
    bar_end = _bar(image, shown, reliability, color, style)
    _label(image, label, shown, bar_end, color, style)


def draw_footer(image: NDArray[np.uint8], lines: Sequence[str]) -> None:
    """Write lines of text over a darkened strip at the bottom; lines for which there is no room are left out."""
    style = _Style.of(image)
    height = image.shape[0]
    _, text_height, baseline = _text_size("Ag", style)
    pitch = text_height + baseline + style.pad
    room = max(int(height * 0.5) // pitch, 0)
    shown = [_ascii(line) for line in lines][:room]
    if not style.text or not shown:
        return
    top = height - pitch * len(shown) - style.pad
    _shade(image, 0, top, image.shape[1], height, _DARK, 0.6)
    for row, line in enumerate(shown):
        y = top + style.pad + row * pitch + text_height
        draw_text(image, line, (2 * style.pad, y), style.font, style.stroke)


def _drawable(box: Sequence[float] | None) -> bool:
    return box is not None and all(math.isfinite(v) for v in box) and box[2] > 0 and box[3] > 0


def _percent(reliability: float, state: TrackState) -> str:
    return "" if state is TrackState.LOST or not math.isfinite(reliability) else f"{reliability * 100.0:.0f}%"


def _ascii(text: str) -> str:
    """OpenCV's built-in fonts have no other letters."""
    return text.encode("ascii", "replace").decode()


def _text_size(text: str, style: _Style) -> tuple[int, int, int]:
    (width, height), baseline = cv2.getTextSize(text, _FONT, style.font, style.stroke)
    return width, height, baseline


def draw_text(
    image: NDArray[np.uint8], text: str, origin: tuple[int, int], scale: float = 0.45, stroke: int = 1
) -> None:
    """Light text with a dark rim, in place; `origin` is the left end of the baseline, `stroke` its width, px."""
    # Not with a wider stroke: since OpenCV 5 that makes the text longer, and the rim would be beside it.
    for dx, dy in ((-1, -1), (1, -1), (-1, 1), (1, 1)):
        cv2.putText(image, text, (origin[0] + dx, origin[1] + dy), _FONT, scale, _DARK, stroke, cv2.LINE_AA)
    cv2.putText(image, text, origin, _FONT, scale, _LIGHT, stroke, cv2.LINE_AA)


def _shade(image: NDArray[np.uint8], x0: int, y0: int, x1: int, y1: int, color: Color, alpha: float) -> None:
    """Blend a rectangle, cut to the image."""
    x0, y0 = max(x0, 0), max(y0, 0)
    part = image[y0 : max(y1, 0), x0 : max(x1, 0)]
    if part.size:
        part[:] = cv2.addWeighted(part, 1.0 - alpha, np.full_like(part, color), alpha, 0.0)


def _corners(image: NDArray[np.uint8], box: Sequence[float]) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) in OpenCV's pixel centres, limited so that fixed-point coordinates cannot overflow."""
    height, width = image.shape[:2]
    left, right = (min(max(v - 0.5, -2.0 * width), 3.0 * width) for v in (box[0], box[0] + box[2]))
    top, bottom = (min(max(v - 0.5, -2.0 * height), 3.0 * height) for v in (box[1], box[1] + box[3]))
    return left, top, right, bottom


def _fixed(points: Sequence[tuple[float, float]]) -> NDArray[np.int32]:
    return np.rint(np.array(points) * (1 << _SHIFT)).astype(np.int32).reshape(-1, 1, 2)


def _polyline(
    image: NDArray[np.uint8], points: Sequence[tuple[float, float]], closed: bool, color: Color, line: int
) -> None:
    """A line with a dark rim, so that it shows on any background."""
    fixed = _fixed(points)
    rim = line + max(round(line * 0.8), 1) * 2 if line > 1 else 3
    cv2.polylines(image, [fixed], closed, _DARK, rim, cv2.LINE_AA, _SHIFT)
    cv2.polylines(image, [fixed], closed, color, line, cv2.LINE_AA, _SHIFT)


def _rectangle(image: NDArray[np.uint8], box: Sequence[float], color: Color, line: int) -> None:
    left, top, right, bottom = _corners(image, box)
    _polyline(image, [(left, top), (right, top), (right, bottom), (left, bottom)], True, color, line)


def _dashed(image: NDArray[np.uint8], box: Sequence[float], color: Color, style: _Style) -> None:
    """Dashes along the four sides, symmetric and at least three a side."""
    left, top, right, bottom = _corners(image, box)
    ring = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    for (ax, ay), (bx, by) in pairwise(ring):
        length = abs(bx - ax) + abs(by - ay)
        n = min(max(round(length / (5.0 * style.line)) // 2, 1), 60) * 2 + 1
        for i in range(0, n, 2):
            start, end = i / n, (i + 1) / n
            ends = [(ax + (bx - ax) * t, ay + (by - ay) * t) for t in (start, end)]
            _polyline(image, ends, False, color, style.line)


def _bar(
    image: NDArray[np.uint8], box: Sequence[float], reliability: float, color: Color, style: _Style
) -> tuple[int, int]:
    """Reliability as a filled bar under the box, or over its lower side at the image's border; its (top, bottom)."""
    height = image.shape[0]
    left, _, right, bottom = _corners(image, box)
    thickness = max(3 * style.line, 3)
    length = max(right - left, 12.0 * style.line)
    x0 = round((left + right - length) / 2)
    x1 = round(x0 + length)
    y0 = round(bottom + 2.5 * style.line)
    if y0 + thickness > height:
        y0 = height - thickness - style.line
    level = min(max(reliability, 0.0), 1.0) if math.isfinite(reliability) else 0.0
    _shade(image, x0 - 1, y0 - 1, x1 + 1, y0 + thickness + 1, _DARK, 0.75)
    filled = image[max(y0, 0) : max(y0 + thickness, 0), max(x0, 0) : max(round(x0 + length * level), 0)]
    filled[:] = color
    return y0, y0 + thickness


def _label(
    image: NDArray[np.uint8],
    text: str,
    box: Sequence[float],
    bar: tuple[int, int],
    color: Color,
    style: _Style,
) -> None:
    """The label above the box; under the bar, or inside at the top, where there is no room above."""
    left, top, _, _ = _corners(image, box)
    _, text_height, baseline = _text_size(text, style)
    chip = text_height + baseline + style.pad
    y = top - chip - 2 * style.line
    if y < 0:
        below = bar[1] + 2 * style.line
        y = below if below + chip <= image.shape[0] else max(top, 0.0) + 2 * style.line
    _chip(image, text, (left - style.line / 2, y), color, style)


def _chip(
    image: NDArray[np.uint8],
    text: str,
    corner: tuple[float, float],
    color: Color,
    style: _Style,
    centered: bool = False,
) -> None:
    """Text on a dark plate with a coloured edge, moved so that it lies in the image where it fits."""
    if not style.text:
        return
    height, width = image.shape[:2]
    text_width, text_height, baseline = _text_size(text, style)
    edge = 2 * style.line
    chip_width = edge + text_width + 2 * style.pad
    chip_height = text_height + baseline + style.pad
    x = corner[0] - chip_width / 2 if centered else corner[0]
    x0 = round(max(min(x, width - chip_width), 0))
    y0 = round(max(min(corner[1], height - chip_height), 0))
    _shade(image, x0, y0, x0 + chip_width, y0 + chip_height, _DARK, 0.78)
    _shade(image, x0, y0, x0 + edge, y0 + chip_height, color, 1.0)
    at = (x0 + edge + style.pad, y0 + style.pad // 2 + text_height + baseline // 2)
    draw_text(image, text, at, style.font, style.stroke)
