"""Where the tracker reads pixels: a frame hands out regions, so that only what is looked at is ever converted.

Pixels are uint8 throughout. A region may be a view on the camera's own buffer and is never written to.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

# Weights of R, G, B in OpenCV's grey (ITU-R BT.601).
_LUMA_WEIGHTS = (0.299, 0.587, 0.114)


class FrameError(ValueError):
    """A frame whose pixels cannot be had; the text names the offending value."""


class ColorOrder(Enum):
    """What the channels of a region are. GRAY regions have shape (h, w), the others (h, w, `channels`)."""

    BGR = "bgr"
    RGB = "rgb"
    BGRA = "bgra"
    RGBA = "rgba"
    GRAY = "gray"

    @property
    def channels(self) -> int:
        """Number of channels, 1 for GRAY."""
        return 1 if self is ColorOrder.GRAY else len(self.value)

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Which channel is red, green, blue."""
        if self is ColorOrder.GRAY:
            return (0, 0, 0)
        return (self.value.index("r"), self.value.index("g"), self.value.index("b"))

    def fill_rgb(self, rgb: tuple[float, float, float]) -> tuple[float, float, float]:
        """The colour `rgb` (0..255) as it comes back from pixels of this order: whole numbers, grey if GRAY."""
        if self is ColorOrder.GRAY:
            rgb = self.fill_value(rgb) * 3
        r, g, b = (float(round(value)) for value in rgb)
        return (r, g, b)

    def fill_value(self, rgb: tuple[float, float, float]) -> tuple[float, ...]:
        """The colour `rgb` (0..255) as this order writes it: opaque if it has alpha, BT.601 luma if GRAY.

        Fit for the `borderValue` of OpenCV's functions.
        """
        if self is ColorOrder.GRAY:
            return (sum(weight * value for weight, value in zip(_LUMA_WEIGHTS, rgb, strict=True)),)
        value_of = {"r": rgb[0], "g": rgb[1], "b": rgb[2], "a": 255.0}
        return tuple(value_of[channel] for channel in self.value)


_TO_RGB = {
    ColorOrder.BGR: cv2.COLOR_BGR2RGB,
    ColorOrder.BGRA: cv2.COLOR_BGRA2RGB,
    ColorOrder.RGBA: cv2.COLOR_RGBA2RGB,
    ColorOrder.GRAY: cv2.COLOR_GRAY2RGB,
}
_TO_BGR = {
    ColorOrder.RGB: cv2.COLOR_RGB2BGR,
    ColorOrder.BGRA: cv2.COLOR_BGRA2BGR,
    ColorOrder.RGBA: cv2.COLOR_RGBA2BGR,
    ColorOrder.GRAY: cv2.COLOR_GRAY2BGR,
}


class Frame(Protocol):
    """One image of the camera."""

    @property
    def height(self) -> int:
        """Rows, in pixels."""
        ...

    @property
    def width(self) -> int:
        """Columns, in pixels."""
        ...

    def region(self, x0: int, y0: int, x1: int, y1: int) -> tuple[NDArray[np.uint8], ColorOrder]:
        """Pixels of columns x0..x1-1 and rows y0..y1-1, and what their channels are.

        The caller clips to the image: 0 <= x0 < x1 <= width, 0 <= y0 < y1 <= height. The array may be a view on the
        camera's buffer: read it, do not write to it.
        """
        ...

    def bgr(self) -> NDArray[np.uint8]:
        """The whole frame, (height, width, 3) BGR: a view if it is BGR already, else a converted copy."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ArrayFrame:
    """A frame whose pixels lie in memory as they are needed: (H, W) for GRAY, else (H, W, channels), uint8."""

    pixels: NDArray[np.uint8]
    order: ColorOrder = ColorOrder.BGR

    @property
    def height(self) -> int:
        """Rows, in pixels."""
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        """Columns, in pixels."""
        return self.pixels.shape[1]

    def region(self, x0: int, y0: int, x1: int, y1: int) -> tuple[NDArray[np.uint8], ColorOrder]:
        """A view on the pixels; see `Frame.region`."""
        return self.pixels[y0:y1, x0:x1], self.order

    def bgr(self) -> NDArray[np.uint8]:
        """See `Frame.bgr`."""
        return to_bgr(self.pixels, self.order)


def frame_from_array(image: NDArray[np.uint8]) -> ArrayFrame:
    """Frame over an image that a user handed in; the pixels are not copied.

    Args:
        image: H×W×3 uint8 BGR, as OpenCV reads it.

    Raises:
        ValueError: it is something else, or has no pixels; the text names shape and dtype.
    """
    if not isinstance(image, np.ndarray):
        raise ValueError(f"a frame must be an H×W×3 uint8 BGR array, got {type(image).__name__}")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"a frame must be an H×W×3 uint8 BGR array, got shape {image.shape} of {image.dtype}")
    return ArrayFrame(image)


def to_rgb(pixels: NDArray[np.uint8], order: ColorOrder) -> NDArray[np.uint8]:
    """(h, w, 3) RGB of non-empty pixels in `order`: alpha is dropped, grey repeated; RGB is returned as it is."""
    return pixels if order is ColorOrder.RGB else cv2.cvtColor(pixels, _TO_RGB[order])


def to_bgr(pixels: NDArray[np.uint8], order: ColorOrder) -> NDArray[np.uint8]:
    """(h, w, 3) BGR of non-empty pixels in `order`: alpha is dropped, grey repeated; BGR is returned as it is."""
    return pixels if order is ColorOrder.BGR else cv2.cvtColor(pixels, _TO_BGR[order])
