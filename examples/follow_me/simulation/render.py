"""The camera's image of the world: planes and sprites through homographies, and noise that is never twice the same."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from .scenery import OTHER_LOOKS, SPRITE_SCALE, TARGET_LOOKS, Ground, person, roof, shadow
from .world import ROOF_HEIGHT, STEPS_HZ, Pinhole, Place, Scenario, Vehicle

_NOISE_FIELDS = 4
_NOISE_SHIFT = 64
_NOISE_SIGMA = 2.5


class Renderer:
    """Draws what the camera of a vehicle sees at a time; the same arguments give the same image."""

    def __init__(self, scenario: Scenario, camera: Pinhole) -> None:
        """Paint everything once; takes a second or two."""
        self._scenario, self._camera = scenario, camera
        self.ground = Ground(scenario)
        rng = np.random.default_rng((scenario.seed, 2))
        self._target = person(rng, TARGET_LOOKS)
        self._look_alike = person(rng, OTHER_LOOKS.like(TARGET_LOOKS, scenario.likeness))
        self._shadow = shadow()
        self._roof = roof(rng, *scenario.roof_size)
        shape = (camera.height + _NOISE_SHIFT, camera.width + _NOISE_SHIFT, 3)
        self._noise = [rng.normal(0.0, _NOISE_SIGMA, shape).round().astype(np.int16) for _ in range(_NOISE_FIELDS)]

    def render(self, vehicle: Vehicle, t: float, frame: int) -> NDArray[np.uint8]:
        """(H, W, 3) BGR at scenario time `t`; `frame` chooses the noise."""
        camera, scenario = self._camera, self._scenario
        ground = camera.plane_to_image(vehicle) @ self.ground.matrix()
        image = cv2.warpPerspective(
            self.ground.picture,
            ground,
            (camera.width, camera.height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT,
        )
        people = [(scenario.target(t), self._target), (scenario.look_alike(t), self._look_alike)]
        # The farther one first.
        people.sort(key=lambda each: -math.hypot(each[0].x - vehicle.x, each[0].y - vehicle.y))
        flat = camera.plane_to_image(vehicle)
        for place, _ in people:
            _put(image, self._shadow, flat @ _lying(self._shadow, place, SPRITE_SCALE))
        for place, phases in people:
            sprite = phases[int(t * STEPS_HZ / 2.0 * len(phases)) % len(phases)]
            _put(image, sprite, camera.upright_to_image(vehicle, place) @ _standing(sprite, SPRITE_SCALE))
        above = camera.plane_to_image(vehicle, ROOF_HEIGHT)
        _put(image, self._roof, above @ _lying(self._roof, scenario.roof, SPRITE_SCALE / 2.0))
        image = cv2.GaussianBlur(image, (0, 0), 0.6)
        lit = cv2.convertScaleAbs(image, alpha=1.0 + 0.04 * math.sin(0.6 * t))
        rng = np.random.default_rng((scenario.seed, 3, frame))
        x, y = rng.integers(0, _NOISE_SHIFT, 2)
        grain = self._noise[int(rng.integers(_NOISE_FIELDS))][y : y + camera.height, x : x + camera.width]
        return cv2.add(lit, grain, dtype=cv2.CV_8U)


def _lying(sprite: NDArray[np.uint8], place: Place, scale: float) -> NDArray[np.float64]:
    """(3, 3) from px of a picture to m on its plane: columns go ahead, rows to the right, its middle is the place."""
    height, width = sprite.shape[:2]
    cos, sin = math.cos(place.heading) / scale, math.sin(place.heading) / scale
    a, b = (width - 1) / 2.0, (height - 1) / 2.0
    return np.array(
        [[cos, sin, place.x - cos * a - sin * b], [sin, -cos, place.y - sin * a + cos * b], [0.0, 0.0, 1.0]]
    )


def _standing(sprite: NDArray[np.uint8], scale: float) -> NDArray[np.float64]:
    """(3, 3) from px of a picture to m to the right of and above the middle of its lower edge."""
    height, width = sprite.shape[:2]
    return np.array(
        [[1.0 / scale, 0.0, -(width - 1) / 2.0 / scale], [0.0, -1.0 / scale, height / scale], [0.0, 0.0, 1.0]]
    )


def _put(image: NDArray[np.uint8], sprite: NDArray[np.uint8], matrix: NDArray[np.float64]) -> None:
    """Blend a BGRA picture into the image through a homography, in place."""
    height, width = sprite.shape[:2]
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]]) @ matrix.T
    x0, y0, x1, y1 = 0, 0, image.shape[1], image.shape[0]
    if (corners[:, 2] > 0.1).all():
        uv = corners[:, :2] / corners[:, 2:]
        low, high = np.floor(uv.min(axis=0)) - 1, np.ceil(uv.max(axis=0)) + 2
        x0, y0 = max(int(low[0]), 0), max(int(low[1]), 0)
        x1, y1 = min(int(high[0]), x1), min(int(high[1]), y1)
    elif (corners[:, 2] <= 0.1).all():
        return
    if x1 <= x0 or y1 <= y0:
        return
    shift = np.array([[1.0, 0.0, -x0], [0.0, 1.0, -y0], [0.0, 0.0, 1.0]])
    warped = cv2.warpPerspective(sprite, shift @ matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)
    part = image[y0:y1, x0:x1]
    alpha = warped[..., 3].astype(np.float32) / 255.0
    part[:] = cv2.blendLinear(np.ascontiguousarray(warped[..., :3]), np.ascontiguousarray(part), alpha, 1.0 - alpha)
