"""The pictures that the world is made of: ground with a path, two people from behind, a roof. Seeded, BGR(A)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .world import PERSON, Scenario

GROUND_SCALE = 26.0
"""px/m of the ground's picture."""
SPRITE_SCALE = 100.0
"""px/m of people; of the roof half of it."""
_MARGIN_M = 25.0
_PATH_M = 3.6

Color = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Looks:
    """Colours of somebody's clothes, BGR."""

    jacket: Color
    trousers: Color
    hair: Color
    shoes: Color
    pack: Color
    """The backpack."""

    def like(self, other: Looks, likeness: float) -> Looks:
        """Clothes between these (0) and another's (1)."""
        ours, theirs = (np.array(astuple(looks), np.float64) for looks in (self, other))
        return Looks(*(tuple(color) for color in (ours + likeness * (theirs - ours)).tolist()))


TARGET_LOOKS = Looks((44, 44, 192), (112, 70, 44), (34, 46, 66), (206, 210, 212), pack=(64, 58, 54))
OTHER_LOOKS = Looks((150, 108, 48), (150, 176, 190), (52, 92, 130), (50, 50, 54), pack=(70, 160, 200))
"""Of somebody who is not like the target at all."""


def noise(rng: np.random.Generator, width: int, height: int, cell: float) -> NDArray[np.float32]:
    """(height, width) of several octaves, the coarsest with details of `cell` px, in [0, 1]."""
    total = np.zeros((height, width), np.float32)
    weight = 1.0
    while cell >= 2.0:
        shape = (max(math.ceil(height / cell), 2), max(math.ceil(width / cell), 2))
        total += weight * cv2.resize(rng.random(shape, np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        weight *= 0.65
        cell /= 2.5
    return cv2.normalize(total, None, 0.0, 1.0, cv2.NORM_MINMAX)


def mixed(low: Color, high: Color, weight: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Colours between two, by a weight in [0, 1] for each pixel."""
    table = np.linspace(0.0, 1.0, 256)[:, None] * (np.array(high) - low) + low
    return np.clip(table, 0, 255).astype(np.uint8)[(weight * 255).astype(np.uint8)]


class Ground:
    """The ground's picture, and where on it a point of the world is."""

    def __init__(self, scenario: Scenario) -> None:
        """Paint meadow, bare soil, bushes and the paved path."""
        rng = np.random.default_rng((scenario.seed, 1))
        road = scenario.road()
        self._corner = road.min(axis=0) - _MARGIN_M
        extent = road.max(axis=0) + _MARGIN_M - self._corner
        width, height = (round(float(v) * GROUND_SCALE) for v in extent)
        grass = mixed((40, 84, 70), (90, 150, 130), noise(rng, width, height, 2 * GROUND_SCALE))
        soil = mixed((76, 104, 128), (136, 168, 188), noise(rng, width, height, GROUND_SCALE))
        where = np.clip((noise(rng, width, height, 12 * GROUND_SCALE) - 0.55) * 8.0, 0.0, 1.0)
        self.picture = _blended(grass, soil, where)
        self._plant(rng, width, height)
        self._pave(rng, self.to_picture(road), width, height)

    def to_picture(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N, 2) px of points in m."""
        return (points - self._corner) * GROUND_SCALE

    def matrix(self) -> NDArray[np.float64]:
        """(3, 3) from px of the picture to m."""
        scale = 1.0 / GROUND_SCALE
        return np.array([[scale, 0.0, self._corner[0]], [0.0, scale, self._corner[1]], [0.0, 0.0, 1.0]])

    def _plant(self, rng: np.random.Generator, width: int, height: int) -> None:
        for _ in range(width * height // 25_000):
            centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
            radius = rng.uniform(0.15, 0.9) * GROUND_SCALE
            axes = (round(radius), round(radius * rng.uniform(0.6, 1.0)))
            turn = float(rng.uniform(0, 180))
            shadow = (centre[0] + round(0.4 * radius), centre[1] - round(0.4 * radius))
            cv2.ellipse(self.picture, shadow, axes, turn, 0, 360, (26, 40, 36), -1, cv2.LINE_AA)
            stone = rng.random() < 0.3
            color = np.array((150, 156, 160) if stone else (38, 96, 62)) + rng.uniform(-18, 18)
            cv2.ellipse(self.picture, centre, axes, turn, 0, 360, color.tolist(), -1, cv2.LINE_AA)
            for _ in range(4):
                spot = (np.array(centre) + rng.normal(0, 0.35 * radius, 2)).round().astype(int).tolist()
                lit = (color + rng.uniform(-25, 35)).tolist()
                cv2.circle(self.picture, spot, max(round(0.22 * radius), 1), lit, -1, cv2.LINE_AA)

    def _pave(self, rng: np.random.Generator, road: NDArray[np.float64], width: int, height: int) -> None:
        # The look-alike walks to the left of the target.
        along = np.gradient(road, axis=0)
        left = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.hypot(*along.T)[:, None]
        middle = road + left * 0.55 * GROUND_SCALE
        mask = np.zeros((height, width), np.uint8)
        cv2.polylines(mask, [np.int32(middle)], False, 255, round(_PATH_M * GROUND_SCALE), cv2.LINE_AA)
        mask = cv2.GaussianBlur(mask, (0, 0), 0.08 * GROUND_SCALE)
        gravel = mixed((128, 140, 148), (176, 186, 192), noise(rng, width, height, GROUND_SCALE))
        self.picture = _blended(self.picture, gravel, mask.astype(np.float32) / 255.0)
        for aside in (-0.5, 0.5):
            edge = np.int32(middle + left * aside * _PATH_M * GROUND_SCALE)
            cv2.polylines(self.picture, [edge], False, (104, 110, 116), 3, cv2.LINE_AA)
        for start in range(0, len(middle), 6):
            ends = np.int32([middle[start] + left[start] * side * 0.5 * _PATH_M * GROUND_SCALE for side in (-1, 1)])
            cv2.polylines(self.picture, [ends], False, (116, 124, 130), 1, cv2.LINE_AA)


def _blended(a: NDArray[np.uint8], b: NDArray[np.uint8], weight: NDArray[np.float32]) -> NDArray[np.uint8]:
    return cv2.blendLinear(a, b, 1.0 - weight, weight)


def person(rng: np.random.Generator, looks: Looks) -> list[NDArray[np.uint8]]:
    """(h, w, 4) BGRA from behind, standing on the lower edge, for each phase of a step; lit from the upper left."""
    return [_phase(rng.integers(1 << 30), looks, swing) for swing in (0.0, 0.7, 1.0, 0.7, 0.0, -0.7, -1.0, -0.7)]


def _phase(seed: int, looks: Looks, swing: float) -> NDArray[np.uint8]:
    fine = 2
    scale = SPRITE_SCALE * fine
    width, height = (round(v * scale) for v in PERSON)
    picture = np.zeros((height, width, 4), np.uint8)

    def at(aside: float, up: float) -> tuple[int, int]:
        return round(width / 2 + aside * scale), round(height - 1 - up * scale)

    def limb(points: Sequence[tuple[float, float]], thick: float, color: Color) -> None:
        ring = np.int32([at(*point) for point in points])
        cv2.polylines(picture, [ring], False, (*color, 255), round(thick * scale), cv2.LINE_8)

    def oval(aside: float, up: float, half: tuple[float, float], color: Color) -> None:
        axes = (round(half[0] * scale), round(half[1] * scale))
        cv2.ellipse(picture, at(aside, up), axes, 0, 0, 360, (*color, 255), -1, cv2.LINE_8)

    for side in (-1, 1):
        lift = 0.11 * max(side * swing, 0.0)
        limb([(0.09 * side, 0.86), (0.10 * side, 0.45 + 0.5 * lift), (0.09 * side, 0.10 + lift)], 0.145, looks.trousers)
        limb([(0.07 * side, 0.045 + lift), (0.12 * side, 0.045 + lift)], 0.085, looks.shoes)
        hand = 0.07 * side * swing
        sleeve = [(0.19 * side, 1.36), (0.225 * side, 1.10), (0.215 * side, 0.90 + hand)]
        limb(sleeve, 0.105, tuple(0.88 * v for v in looks.jacket))
        oval(0.215 * side, 0.84 + hand, (0.045, 0.06), (120, 150, 190))
    torso = [(-0.20, 1.44), (0.20, 1.44), (0.185, 0.84), (-0.185, 0.84)]
    cv2.fillPoly(picture, [np.int32([at(*point) for point in torso])], (*looks.jacket, 255))
    oval(0.0, 1.43, (0.205, 0.07), looks.jacket)
    limb([(-0.17, 0.87), (0.17, 0.87)], 0.04, tuple(0.6 * v for v in looks.jacket))
    pack = [(-0.135, 1.40), (0.135, 1.40), (0.15, 1.00), (-0.15, 1.00)]
    cv2.fillPoly(picture, [np.int32([at(*point) for point in pack])], (*looks.pack, 255))
    oval(0.0, 1.40, (0.135, 0.05), looks.pack)
    limb([(-0.11, 1.14), (0.11, 1.14)], 0.02, tuple(0.55 * v for v in looks.pack))
    limb([(-0.09, 1.26), (0.09, 1.26)], 0.016, tuple(0.7 * v for v in looks.pack))
    oval(0.0, 1.52, (0.05, 0.07), (120, 150, 190))
    oval(0.0, 1.635, (0.095, 0.12), looks.hair)
    cloth = noise(np.random.default_rng(seed), width, height, 0.12 * scale)
    across = np.linspace(-1.0, 1.0, width, dtype=np.float32)[None, :]
    shade = (1.0 - 0.22 * across - 0.25 * across**2) * (0.84 + 0.32 * cloth)
    picture[..., :3] = np.clip(picture[..., :3] * shade[..., None], 0, 255).astype(np.uint8)
    # Colours fade out at the edges, so they must be known a little beyond them.
    alpha = picture[..., 3].astype(np.float32) / 255.0
    size = (width // fine, height // fine)
    color = cv2.resize(picture[..., :3] * alpha[..., None], size, interpolation=cv2.INTER_AREA)
    alpha = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)
    color /= np.maximum(alpha, 1e-3)[..., None]
    return np.dstack([np.clip(color, 0, 255), 255.0 * alpha]).round().astype(np.uint8)


def shadow() -> NDArray[np.uint8]:
    """(h, w, 4) BGRA: what lies on the ground beside somebody's feet."""
    picture = np.zeros((round(0.7 * SPRITE_SCALE), round(1.6 * SPRITE_SCALE), 4), np.uint8)
    height, width = picture.shape[:2]
    axes = (round(0.36 * width), round(0.26 * height))
    cv2.ellipse(picture, (width // 2, height // 2), axes, 0, 0, 360, (20, 24, 24, 130), -1)
    picture[..., 3] = cv2.GaussianBlur(picture[..., 3], (0, 0), 5.0)
    return picture


def roof(rng: np.random.Generator, along: float, across: float) -> NDArray[np.uint8]:
    """(h, w, 4) BGRA: a roof from above, `along` m of the path below wide (columns), `across` m long (rows)."""
    width, height = round(along * SPRITE_SCALE / 2), round(across * SPRITE_SCALE / 2)
    picture = mixed((112, 118, 122), (166, 170, 172), noise(rng, width, height, 40.0))
    for row in range(0, height, max(height // 8, 1)):
        cv2.line(picture, (0, row), (width, row), (88, 92, 96), 2)
    for column in (0.04, 0.96):
        at = round(column * width)
        cv2.line(picture, (at, 0), (at, height), (70, 74, 80), 5, cv2.LINE_AA)
    cv2.line(picture, (width // 2, 0), (width // 2, height), (196, 202, 204), 2, cv2.LINE_AA)
    return np.dstack([picture, np.full((height, width), 255, np.uint8)])
