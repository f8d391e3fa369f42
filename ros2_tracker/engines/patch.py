"""A crop that is still to be cut: what an engine that resamples by itself needs of it, without the tracking room."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_UINT8 = np.dtype(np.uint8)


class Axis(NamedTuple):
    """Where the pixels of a crop are sampled along one axis of its source, whose pixel centres are whole numbers."""

    first: float
    """Coordinate of the first one."""
    step: float
    """From one to the next."""
    low: float = -np.inf
    """Coordinates are raised to this much."""
    high: float = np.inf
    """Coordinates are lowered to this much."""


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """A `size` x `size` x 3 uint8 RGB crop as bilinear samples of its source pixels; `fill` is what lies beyond them.

    NumPy takes one for the array that it stands for.
    """

    pixels: NDArray[np.uint8]
    """(h, w) or (h, w, channels); may be a view on the camera's buffer."""
    rgb: tuple[int, int, int]
    """Which channel is red, green, blue."""
    x: Axis
    y: Axis
    size: int
    fill: tuple[float, float, float]
    """R, G, B in 0..255, whole numbers."""
    cut: Callable[[], NDArray[np.uint8]]
    """The crop as OpenCV cuts it on the CPU: within one grey level of the samples."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the crop."""
        return (self.size, self.size, 3)

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """Of the crop."""
        return _UINT8

    def array(self) -> NDArray[np.uint8]:
        """The crop, cut on the CPU."""
        return self.cut()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray:
        # `copy` may be False: what is cut is nobody else's.
        return np.asarray(self.cut(), dtype)
