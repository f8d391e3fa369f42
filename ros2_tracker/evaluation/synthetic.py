"""Render the demo clip: a textured target over a textured background, a look-alike that crosses, an occlusion.

No footage has to be shipped or fetched, and the truth is known to a fraction of a pixel. Everything follows from the
seed; lengths are fractions of the image and times of the clip, so other sizes and frame counts show the same story.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ros2_tracker.tracking.geometry import Box

# Seconds of the story, which takes 10 s (300 frames at 30 Hz).
_STORY_S = 10.0
_CROSSING_S = 2.6
_OCCLUSION_S = 5.6
_HIDDEN_S = 0.7
# The target's sprite: its side in units of the image, its body's half axes in units of the sprite.
_TARGET_SIDE = 0.155
_BODY = (0.47, 0.33)
_SPEED = 0.105
# The occluder, a lorry seen from above that drives down the image: width and length in units of the image.
_LORRY = (0.36, 0.66)
_NOISE_FRAMES = 4
_MIN_SIDE_PX = 64


class SyntheticFrame(NamedTuple):
    """A rendered frame and its truth."""

    image: NDArray[np.uint8]
    """(H, W, 3) BGR."""
    box: Box
    """The whole target's box, px, even behind the occluder."""
    visible: bool
    """Whether any of the target can be seen."""


class _Pose(NamedTuple):
    """Where a sprite is: centre px, scale, angle in radians."""

    x: float
    y: float
    scale: float
    angle: float


class SyntheticClip:
    """The demo clip; also an `evaluation.sequences.FrameSource`."""

    name = "synthetic"

    def __init__(
        self, frames: int = 300, width: int = 640, height: int = 480, fps: float = 30.0, seed: int = 0
    ) -> None:
        """Prepare the textures; ValueError for no frames, less than 64x64 px, or a frame rate that is not positive."""
        if frames < 1 or min(width, height) < _MIN_SIDE_PX or not 0.0 < fps < math.inf:
            raise ValueError(
                f"a clip needs one frame or more of at least {_MIN_SIDE_PX}x{_MIN_SIDE_PX} px at a positive rate, "
                f"got {frames} frames of {width}x{height} px at {fps:g} Hz"
            )
        self.fps: float | None = fps
        self._frames = frames
        self._width, self._height = width, height
        self._unit = min(height, 0.75 * width)
        self._margin = round(0.1 * self._unit)
        rng = np.random.default_rng(seed)
        self._background = _landscape(rng, width + 2 * self._margin, height + 2 * self._margin, self._unit)
        side = round(_TARGET_SIDE * self._unit)
        self._target = _creature(rng, side, coat=(40, 92, 214), spots=(210, 225, 235))
        self._look_alike = _creature(rng, side, coat=(52, 120, 205), spots=(190, 215, 230))
        self._lorry = _lorry(rng, *(round(v * self._unit) for v in _LORRY))
        truth = [self._truth(i) for i in range(frames)]
        # (N, 4) x, y, w, h px, NaN where the target is hidden.
        self.ground_truth: NDArray[np.float64] | None = np.array(
            [box.as_tuple() if visible else (np.nan,) * 4 for box, visible in truth]
        )
        self._noise = rng.normal(0.0, 2.5, (_NOISE_FRAMES, height, width, 3)).round().astype(np.int8)

    def __len__(self) -> int:
        """Number of frames."""
        return self._frames

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """The images alone."""
        return (frame.image for frame in self.frames())

    def frames(self) -> Iterator[SyntheticFrame]:
        """Render frame after frame with its truth."""
        return (self.render(index) for index in range(self._frames))

    def render(self, index: int) -> SyntheticFrame:
        """Render one frame; IndexError unless 0 <= index < len."""
        if not 0 <= index < self._frames:
            raise IndexError(f"frame {index} of a clip of {self._frames}")
        t = self._story_time(index)
        image = self._view(t)
        _paste(image, self._look_alike, self._look_alike_pose(t))
        _paste(image, self._target, self._target_pose(t))
        _cover(image, self._lorry, *self._lorry_corner(t))
        lit = cv2.convertScaleAbs(image, alpha=1.0 + 0.06 * math.sin(1.1 * t))
        noisy = cv2.add(lit, self._noise[index % _NOISE_FRAMES], dtype=cv2.CV_8U)
        return SyntheticFrame(noisy, *self._truth(index))

    def _story_time(self, index: int) -> float:
        return _STORY_S * index / max(self._frames - 1, 1)

    def _truth(self, index: int) -> tuple[Box, bool]:
        t = self._story_time(index)
        pose = self._target_pose(t)
        half_w, half_h = _half_extent(self._target.shape[0], pose)
        box = Box.from_center(pose.x, pose.y, 2 * half_w, 2 * half_h)
        left, top = self._lorry_corner(t)
        height, width = self._lorry.shape[:2]
        hidden = left <= box.x and box.x + box.w <= left + width and top <= box.y and box.y + box.h <= top + height
        return box, not hidden

    def _target_pose(self, t: float) -> _Pose:
        away = t - _OCCLUSION_S
        return _Pose(
            x=0.56 * self._width + _SPEED * self._unit * away,
            y=self._height * (0.52 + 0.17 * math.cos(1.25 * away)),
            scale=1.0 + 0.12 * math.sin(0.9 * away),
            angle=0.25 * math.sin(1.6 * away),
        )

    def _look_alike_pose(self, t: float) -> _Pose:
        """Runs across the target's path just before it at `_CROSSING_S`."""
        meeting, away = self._target_pose(_CROSSING_S), t - _CROSSING_S
        return _Pose(
            x=meeting.x + self._unit * (0.19 + 0.04 * away),
            y=meeting.y + self._unit * 0.30 * away,
            scale=0.95,
            angle=1.35,
        )

    def _lorry_corner(self, t: float) -> tuple[int, int]:
        """Left and top, px: over the target at `_OCCLUSION_S`, as fast as hides it for `_HIDDEN_S`."""
        height, width = self._lorry.shape[:2]
        meeting = self._target_pose(_OCCLUSION_S)
        speed = (height - 2.0 * _half_extent(self._target.shape[0], meeting)[1]) / _HIDDEN_S
        top = meeting.y - height / 2 + speed * (t - _OCCLUSION_S)
        return round(meeting.x - width / 2), round(top)

    def _view(self, t: float) -> NDArray[np.uint8]:
        """The background as a camera sees it that sways a little."""
        x = self._margin * (1.0 + 0.8 * math.sin(0.5 * t))
        y = self._margin * (1.0 + 0.6 * math.sin(0.8 * t + 1.0))
        shift = np.array([[1.0, 0.0, x], [0.0, 1.0, y]])
        return cv2.warpAffine(
            self._background,
            shift,
            (self._width, self._height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT,
        )


def _half_extent(side: int, pose: _Pose) -> tuple[float, float]:
    """Half width and height, px, of the turned ellipse that a creature's outline is."""
    a, b = (half * side * pose.scale for half in _BODY)
    cos, sin = math.cos(pose.angle), math.sin(pose.angle)
    return math.hypot(a * cos, b * sin), math.hypot(a * sin, b * cos)


def _paste(image: NDArray[np.uint8], sprite: NDArray[np.uint8], pose: _Pose) -> None:
    """Blend a (S, S, 4) BGRA sprite into the image, in place."""
    side = sprite.shape[0]
    reach = math.ceil(0.75 * side * pose.scale) + 1
    x0, y0 = max(math.floor(pose.x) - reach, 0), max(math.floor(pose.y) - reach, 0)
    x1 = min(math.floor(pose.x) + reach, image.shape[1])
    y1 = min(math.floor(pose.y) + reach, image.shape[0])
    if x1 <= x0 or y1 <= y0:
        return
    cos, sin = math.cos(pose.angle) * pose.scale, math.sin(pose.angle) * pose.scale
    # Pixel centres lie at +0.5 in our coordinates and at whole numbers in OpenCV's.
    middle = side / 2 - 0.5
    matrix = np.array(
        [
            [cos, -sin, pose.x - 0.5 - x0 - cos * middle + sin * middle],
            [sin, cos, pose.y - 0.5 - y0 - sin * middle - cos * middle],
        ]
    )
    warped = cv2.warpAffine(sprite, matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)
    alpha = warped[..., 3:].astype(np.float32) / 255.0
    part = image[y0:y1, x0:x1]
    part[:] = np.rint(part + (warped[..., :3] - part.astype(np.float32)) * alpha).astype(np.uint8)


def _smooth_noise(rng: np.random.Generator, width: int, height: int, cell: float) -> NDArray[np.float32]:
    """(height, width) noise of several octaves, coarsest details of `cell` px, scaled to [0, 1]."""
    total = np.zeros((height, width), np.float32)
    weight = 1.0
    while cell >= 1.5:
        shape = (max(math.ceil(height / cell), 2), max(math.ceil(width / cell), 2))
        coarse = rng.random(shape, np.float32)
        total += weight * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        weight *= 0.6
        cell /= 2.0
    return cv2.normalize(total, None, 0.0, 1.0, cv2.NORM_MINMAX)


def _blend(low: tuple[int, int, int], high: tuple[int, int, int], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """(h, w, 3) colours between two, by a weight in [0, 1] per pixel."""
    return np.float32(low) + weight[..., None] * (np.float32(high) - np.float32(low))


def _landscape(rng: np.random.Generator, width: int, height: int, unit: float) -> NDArray[np.uint8]:
    """Grass and bare ground with bushes, stones and a path."""
    grass = _blend((38, 82, 66), (92, 150, 128), _smooth_noise(rng, width, height, 0.1 * unit))
    ground = _blend((78, 104, 126), (140, 170, 188), _smooth_noise(rng, width, height, 0.05 * unit))
    where = np.clip((_smooth_noise(rng, width, height, 0.45 * unit) - 0.52) * 7.0, 0.0, 1.0)
    image = grass + where[..., None] * (ground - grass)

    path = np.zeros((height, width), np.float32)
    points = [(x, 0.68 * height + 0.1 * height * math.sin(3.0 * x / width)) for x in np.linspace(0, width, 40)]
    cv2.polylines(path, [np.int32(points)], False, 1.0, round(0.1 * unit), cv2.LINE_AA)
    path = cv2.GaussianBlur(path, (0, 0), 0.012 * unit) * 0.85
    image += path[..., None] * (_blend((120, 140, 152), (168, 182, 190), ground[..., 0] / 255.0) - image)

    texture = _smooth_noise(rng, width, height, 0.025 * unit)
    stones = _blend((70, 74, 78), (196, 200, 204), texture)
    bushes = _blend((24, 58, 40), (70, 140, 96), texture)
    for _ in range(46):
        stone = rng.random() < 0.5
        centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        radius = unit * float(rng.uniform(0.012, 0.035 if stone else 0.07))
        axes = (max(round(radius), 2), max(round(radius * float(rng.uniform(0.55, 0.95))), 2))
        shadow = (centre[0] + round(0.35 * radius), centre[1] + round(0.4 * radius))
        turn = float(rng.uniform(0, 180))
        _spot(image, shadow, axes, turn, np.float32((26, 34, 34)), 0.5, 0.006 * unit)
        _spot(image, centre, axes, turn, stones if stone else bushes, 1.0, 0.002 * unit)
    return np.clip(image, 0, 255).astype(np.uint8)


def _spot(
    image: NDArray[np.float32],
    centre: tuple[int, int],
    axes: tuple[int, int],
    turn: float,
    color: NDArray[np.float32],
    strength: float,
    blur: float,
) -> None:
    """Blend an ellipse of one colour, or of a picture of the image's size, into the image, in place."""
    reach = max(axes) + math.ceil(3.0 * blur) + 2
    x0, y0 = max(centre[0] - reach, 0), max(centre[1] - reach, 0)
    part = image[y0 : max(centre[1] + reach, 0), x0 : max(centre[0] + reach, 0)]
    if part.size == 0:
        return
    mask = np.zeros(part.shape[:2], np.uint8)
    cv2.ellipse(mask, (centre[0] - x0, centre[1] - y0), axes, turn, 0, 360, 255, -1, cv2.LINE_AA)
    weight = mask.astype(np.float32) * (strength / 255.0)
    if blur > 0.3:
        weight = cv2.GaussianBlur(weight, (0, 0), blur)
    if color.ndim == 3:
        color = color[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]]
    part += weight[..., None] * (color - part)


def _creature(
    rng: np.random.Generator, side: int, coat: tuple[int, int, int], spots: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """(side, side, 4) BGRA: an oval animal from above, with a patterned coat, a dark head and a shaded rim.

    `coat` and `spots` are BGR; the random state gives the pattern.
    """
    fine = 4  # drawn larger, so that edges are soft after shrinking
    n = side * fine
    y, x = (np.mgrid[0:n, 0:n].astype(np.float32) + 0.5) / n - 0.5
    radius = np.sqrt((x / _BODY[0]) ** 2 + (y / _BODY[1]) ** 2)
    dark = tuple(round(0.45 * v) for v in coat)
    image = _blend(dark, coat, _smooth_noise(rng, n, n, 0.25 * n))
    patches = np.clip((_smooth_noise(rng, n, n, 0.3 * n) - 0.56) * 14.0, 0.0, 1.0)
    image += patches[..., None] * (np.float32(spots) - image)
    for along in (-0.22, -0.02, 0.16):
        stripe = np.exp(-(((x - along + 0.25 * y * y) / 0.022) ** 2))
        image += 0.85 * stripe[..., None] * (np.float32((30, 28, 34)) - image)
    head = np.clip((x - 0.27) * 30.0, 0.0, 1.0)
    image += head[..., None] * (np.float32((46, 38, 40)) - image)
    for side_y in (-0.1, 0.1):
        eye = np.clip((0.042 - np.hypot(x - 0.36, y - side_y)) * 80.0, 0.0, 1.0)
        image += eye[..., None] * (np.float32((225, 240, 240)) - image)
    # Lit from the upper left, darker towards the rim.
    image *= (1.08 - 0.45 * radius**4 - 0.35 * x * 0.5 - 0.5 * y)[..., None]
    alpha = np.where(radius <= 1.0, 255.0, 0.0).astype(np.float32)
    sprite = np.dstack([np.clip(image, 0.0, 255.0), alpha]).astype(np.float32)
    return np.rint(cv2.resize(sprite, (side, side), interpolation=cv2.INTER_AREA)).astype(np.uint8)


def _cover(image: NDArray[np.uint8], cover: NDArray[np.uint8], left: int, top: int) -> None:
    """Put an opaque picture over the image, in place, cut to it."""
    x0, y0 = max(left, 0), max(top, 0)
    part = cover[y0 - top : max(image.shape[0] - top, 0), x0 - left : max(image.shape[1] - left, 0)]
    image[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]] = part


def _lorry(rng: np.random.Generator, width: int, length: int) -> NDArray[np.uint8]:
    """(length, width, 3) BGR: a lorry from above, its cab at the lower end, under a tarpaulin with seams."""
    cloth = _smooth_noise(rng, width, length, 0.25 * width)
    image = _blend((92, 78, 62), (158, 138, 112), cloth)
    across = np.linspace(-1.0, 1.0, width, dtype=np.float32)
    image *= (1.08 - 0.4 * np.abs(across + 0.2) ** 3)[None, :, None]
    seam = max(round(0.012 * width), 1)
    for y in np.linspace(0.02, 0.76, 7) * length:
        sag = [(x, y + 0.015 * length * math.cos(2.5 * (x / width - 0.5))) for x in np.linspace(0, width, 24)]
        cv2.polylines(image, [np.int32(sag)], False, (64.0, 54.0, 44.0), 2 * seam, cv2.LINE_AA)
        cv2.polylines(image, [np.int32(sag) + np.int32((0, 2 * seam))], False, (186.0, 168.0, 144.0), seam, cv2.LINE_AA)
    gap, cab = round(0.8 * length), round(0.83 * length)
    image[gap:cab] = (34.0, 34.0, 36.0)
    image[cab:] = _blend((150, 156, 160), (206, 212, 214), cloth[cab:])
    glass = np.int32([[0.08, 0.93], [0.92, 0.93], [0.86, 0.975], [0.14, 0.975]] * np.float32((width, length)))
    cv2.fillPoly(image, [glass], (70.0, 58.0, 46.0), cv2.LINE_AA)
    cv2.rectangle(image, (0, 0), (width - 1, length - 1), (40.0, 38.0, 38.0), seam)
    return np.clip(image, 0.0, 255.0).astype(np.uint8)
