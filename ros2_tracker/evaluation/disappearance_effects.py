"""What makes a target disappear from a picture: each effect turns the plain frames of a clip into those that are shown.

Effects are small and hold no images, so that a made sequence can be handed to another process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from ros2_tracker.evaluation.sequences import read_image

Image = NDArray[np.uint8]
Plain = Callable[[int], Image]
"""The (H, W, 3) uint8 BGR frame of a made sequence by its number, before anything was done to it."""

_INPAINT_SIDE_PX = 160
_DARK_NOISE = 4.0


class Effect(Protocol):
    """Turns plain frames into those that are shown."""

    def picture(self, index: int, plain: Plain) -> Image:
        """Frame `index` as the tracker sees it, of unchanged size; may be the plain one itself."""
        ...


class Region(NamedTuple):
    """Whole pixels of an image: left, top, right, bottom; the last two exclusive."""

    x0: int
    y0: int
    x1: int
    y1: int

    def of(self, image: Image) -> Image:
        """That part of an image, as a view."""
        return image[self.y0 : self.y1, self.x0 : self.x1]

    def moved(self, dx: int, dy: int) -> Region:
        """The same size elsewhere."""
        return Region(self.x0 + dx, self.y0 + dy, self.x1 + dx, self.y1 + dy)

    def inside(self, width: int, height: int) -> bool:
        """Whether it lies in an image of that size."""
        return 0 <= self.x0 < self.x1 <= width and 0 <= self.y0 < self.y1 <= height


@dataclass(frozen=True, slots=True)
class Occluder:
    """A textured patch that moves in front."""

    first: int
    """First frame with the patch."""
    corners: tuple[tuple[int, int], ...]
    """Its top-left corner in each frame from there on, px; it may be outside the image."""
    size: tuple[int, int]
    """Width and height of the patch, px."""
    texture: Region
    """Of the image that it is cut from."""
    file: Path = field(repr=False)

    def picture(self, index: int, plain: Plain) -> Image:
        """The patch over the plain frame."""
        image = plain(index)
        step = index - self.first
        if not 0 <= step < len(self.corners):
            return image
        (x, y), (w, h) = self.corners[step], self.size
        height, width = image.shape[:2]
        shown = Region(max(x, 0), max(y, 0), min(x + w, width), min(y + h, height))
        if shown.inside(width, height):
            image = image.copy()
            shown.of(image)[:] = shown.moved(-x, -y).of(_patch(self.file, self.texture, self.size))
        return image


@lru_cache(maxsize=4)
def _patch(file: Path, texture: Region, size: tuple[int, int]) -> Image:
    return cv2.resize(texture.of(read_image(file)), size, interpolation=cv2.INTER_LINEAR)  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class OtherScene:
    """Frames of another clip instead."""

    first: int
    files: tuple[Path, ...] = field(repr=False)
    """One for each frame that is replaced."""

    def picture(self, index: int, plain: Plain) -> Image:
        """The other clip's frame, scaled and cut to the same size."""
        image = plain(index)
        step = index - self.first
        if not 0 <= step < len(self.files):
            return image
        return _covering(read_image(self.files[step]), image.shape[1], image.shape[0])


def _covering(image: Image, width: int, height: int) -> Image:
    """The middle of an image, scaled so that it fills width x height."""
    scale = max(width / image.shape[1], height / image.shape[0])
    size = (max(round(scale * image.shape[1]), width), max(round(scale * image.shape[0]), height))
    scaled = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1.0 else cv2.INTER_LINEAR)
    x, y = (size[0] - width) // 2, (size[1] - height) // 2
    return scaled[y : y + height, x : x + width].copy()  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class Filled:
    """The target's place filled from beside it, faded in and out."""

    first: int
    places: tuple[Region, ...]
    """What is filled in each frame from `first` on."""
    strength: tuple[float, ...]
    """1: nothing of the target is left."""
    shift: tuple[int, int] | None
    """Where the filling is taken from, px away; None: spread inwards from the border."""

    def picture(self, index: int, plain: Plain) -> Image:
        """The plain frame without its target."""
        image = plain(index)
        step = index - self.first
        if not 0 <= step < len(self.places):
            return image
        place, strength = self.places[step], self.strength[step]
        if self.shift is None:
            empty = _inpainted(image, place).astype(np.float32)
        else:
            empty = _taken_from(image, place, self.shift)
        soft = np.zeros(image.shape[:2], np.float32)
        # Soft edges, all of them outside the place.
        Region(max(place.x0 - 2, 0), max(place.y0 - 2, 0), place.x1 + 2, place.y1 + 2).of(soft)[:] = strength
        soft = cv2.GaussianBlur(soft, (5, 5), 1.0)[..., None]
        return np.clip(image + soft * (empty - image) + 0.5, 0, 255).astype(np.uint8)


def _taken_from(image: Image, place: Region, shift: tuple[int, int]) -> NDArray[np.float32]:
    """The image with what is `shift` away in that place, its brightness fitted to the new surroundings."""
    around, patch, _ = _fitted(image, place, shift)
    empty = image.astype(np.float32)
    around.of(empty)[:] = patch
    return empty


def seam(image: Image, place: Region, shift: tuple[int, int]) -> float:
    """How badly what is `shift` away fits into a place: mean difference around it, in grey levels."""
    return _fitted(image, place, shift)[2]


def _fitted(image: Image, place: Region, shift: tuple[int, int]) -> tuple[Region, NDArray[np.float32], float]:
    """The place with a border, what fills it, and the mean difference along the border that a plane leaves."""
    height, width = image.shape[:2]
    band = max(4, round(0.06 * max(place.x1 - place.x0, place.y1 - place.y0)))
    around = Region(
        max(place.x0 - band, 0), max(place.y0 - band, 0), min(place.x1 + band, width), min(place.y1 + band, height)
    )
    source = around.moved(*shift)
    if not source.inside(width, height):
        around, source = place, place.moved(*shift)
    patch = source.of(image).astype(np.float32)
    border = np.ones(patch.shape[:2], bool)
    place.moved(-around.x0, -around.y0).of(border)[:] = False
    if not border.any():
        return around, patch, 0.0
    difference = around.of(image)[border] - patch[border]
    rows, columns = np.mgrid[-1 : 1 : patch.shape[0] * 1j, -1 : 1 : patch.shape[1] * 1j]
    plane = np.stack([np.ones(rows.size), columns.ravel(), rows.ravel()], axis=1)
    fit, *_ = np.linalg.lstsq(plane[border.ravel()], difference, rcond=None)
    fitted = patch + (plane @ fit).reshape(patch.shape).astype(np.float32)
    return around, fitted, float(np.abs(around.of(image)[border] - fitted[border]).mean())


def _inpainted(image: Image, place: Region) -> Image:
    """The image with that place filled by Telea's method (2004), at low resolution: nothing finer would be true."""
    scale = min(1.0, _INPAINT_SIDE_PX / max(image.shape[:2]))
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    mask = np.zeros(image.shape[:2], np.uint8)
    place.of(mask)[:] = 255
    mask = cv2.resize(mask, (small.shape[1], small.shape[0]), interpolation=cv2.INTER_LINEAR)
    filled = cv2.inpaint(small, (mask > 0).astype(np.uint8), 3, cv2.INPAINT_TELEA)
    size = (image.shape[1], image.shape[0])
    return cv2.resize(filled, size, interpolation=cv2.INTER_LINEAR)  # type: ignore[return-value]


class View(NamedTuple):
    """What a camera sees of a picture: a window of it, shown in full size."""

    cx: float
    """Centre of the window, px."""
    cy: float
    zoom: float
    """Width of the picture by that of the window."""
    angle: float = 0.0
    """Of the window, degrees."""

    def matrix(self, width: int, height: int) -> NDArray[np.float64]:
        """(2, 3) from the picture's pixels to those shown."""
        matrix = cv2.getRotationMatrix2D((self.cx, self.cy), self.angle, self.zoom)
        matrix[:, 2] += (width / 2 - self.cx, height / 2 - self.cy)
        return matrix

    def boxes(self, boxes: NDArray[np.float64], width: int, height: int) -> NDArray[np.float64]:
        """(N, 4) x, y, w, h px as this view shows them; only for angle 0."""
        low = (boxes[:, :2] - (self.cx, self.cy)) * self.zoom + (width / 2, height / 2)
        return np.hstack([low, boxes[:, 2:] * self.zoom])


@dataclass(frozen=True, slots=True)
class CameraJump:
    """Three views of the same clip, one after the other."""

    first: int
    """First frame of the second view."""
    last: int
    """Its last one."""
    views: tuple[View, View, View]

    def picture(self, index: int, plain: Plain) -> Image:
        """What the view of that time shows."""
        image = plain(index)
        view = self.views[(index >= self.first) + (index > self.last)]
        height, width = image.shape[:2]
        # Continuous coordinates have the first pixel's centre at 0.5, OpenCV at 0.
        matrix = view.matrix(width, height)
        matrix[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
        size, border = (width, height), cv2.BORDER_REFLECT_101
        return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=border)  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class Black:
    """Black frames."""

    first: int
    last: int

    def picture(self, index: int, plain: Plain) -> Image:
        """Nothing at all in between."""
        image = plain(index)
        return np.zeros_like(image) if self.first <= index <= self.last else image


@dataclass(frozen=True, slots=True)
class Frozen:
    """One frame again and again while the clip goes on."""

    first: int
    last: int

    def picture(self, index: int, plain: Plain) -> Image:
        """The last frame before, as long as it lasts."""
        return plain(self.first - 1 if self.first <= index <= self.last else index)


@dataclass(frozen=True, slots=True)
class LightsOff:
    """The light fades until only the sensor's noise is left, and comes back."""

    first: int
    """First frame with less light."""
    gains: tuple[float, ...]
    """What is left of the light in each frame from there on."""
    seed: tuple[int, ...]

    def picture(self, index: int, plain: Plain) -> Image:
        """Dimmed, with noise."""
        image = plain(index)
        step = index - self.first
        if not 0 <= step < len(self.gains):
            return image
        noise = np.random.default_rng((*self.seed, index)).standard_normal(image.shape, np.float32)
        return np.clip(self.gains[step] * image + _DARK_NOISE * noise + 0.5, 0, 255).astype(np.uint8)


def textured_region(image: Image, size: tuple[int, int], rng: np.random.Generator, tries: int = 12) -> Region:
    """Of random places of an image with the shape of `size` (width, height), the one with the strongest edges."""
    height, width = image.shape[:2]
    scale = min(1.0, width / size[0], height / size[1])
    w, h = max(int(scale * size[0]), 1), max(int(scale * size[1]), 1)
    edges = np.abs(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.CV_32F))
    corners = [(int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))) for _ in range(tries)]
    regions: Sequence[Region] = [Region(x, y, x + w, y + h) for x, y in corners]
    return max(regions, key=lambda region: float(region.of(edges).mean()))
