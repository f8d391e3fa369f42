"""The pixel formats of `sensor_msgs/Image`: how each lies in memory, and the frame that reads it region by region.

A region is converted alone, and equals the same part of the whole image converted, bit for bit: regions are widened
to the 2×2 grid that chroma or the Bayer mosaic lies on, and for a mosaic by the pixels that its interpolation reads.
YUV is BT.601 with video range, as in OpenCV.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ros2_tracker.tracking.frame import ArrayFrame, ColorOrder, Frame, to_bgr

_STRETCH_PERCENTILES = (1.0, 99.0)
_STRETCH_SAMPLES_PER_SIDE = 128


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How one encoding lies in memory, and what makes a frame of it."""

    frame: Callable[[NDArray[Any]], Frame]
    """From the typed view on the buffer: (rows, width), or (rows, width, channels) for several channels."""
    channels: int = 1
    dtype: type[np.unsignedinteger[Any]] = np.uint8
    planes_height: float = 1.0
    """Rows in the buffer for each row of the image."""
    width_multiple: int = 1
    height_multiple: int = 1
    min_side: int = 1
    """Smallest width and height that OpenCV can convert."""


@dataclass(frozen=True, slots=True, eq=False)
class ConvertedFrame:
    """A frame in one plane that must be converted: `raw` is (H, W) or (H, W, channels) of uint8 or uint16."""

    raw: NDArray[Any]
    convert: Callable[[NDArray[Any]], NDArray[np.uint8]]
    """From a part of `raw` to pixels of the same height and width in `order`."""
    order: ColorOrder
    grid: int = 1
    """Parts handed to `convert` start at multiples of this in x and y."""
    apron: int = 0
    """How far the conversion looks beyond a pixel, in px; a multiple of `grid`."""

    @property
    def height(self) -> int:
        """Rows, in pixels."""
        return self.raw.shape[0]

    @property
    def width(self) -> int:
        """Columns, in pixels."""
        return self.raw.shape[1]

    def region(self, x0: int, y0: int, x1: int, y1: int) -> tuple[NDArray[np.uint8], ColorOrder]:
        """See `Frame.region`."""
        left, right = self._widened(x0, x1, self.width)
        top, bottom = self._widened(y0, y1, self.height)
        pixels = self.convert(self.raw[top:bottom, left:right])
        return pixels[y0 - top : y1 - top, x0 - left : x1 - left], self.order

    def bgr(self) -> NDArray[np.uint8]:
        """See `Frame.bgr`."""
        return to_bgr(self.convert(self.raw), self.order)

    def _widened(self, start: int, stop: int, size: int) -> tuple[int, int]:
        start -= start % self.grid + self.apron
        stop += -stop % self.grid + self.apron
        return max(start, 0), min(stop, size)


@dataclass(frozen=True, slots=True, eq=False)
class SemiPlanarFrame:
    """YUV 4:2:0 as a plane of luma and one of interleaved chroma; `raw` is (H·3/2, W) uint8, H and W even."""

    raw: NDArray[np.uint8]
    code: int
    """OpenCV's conversion to BGR."""

    @property
    def height(self) -> int:
        """Rows, in pixels."""
        return self.raw.shape[0] * 2 // 3

    @property
    def width(self) -> int:
        """Columns, in pixels."""
        return self.raw.shape[1]

    def region(self, x0: int, y0: int, x1: int, y1: int) -> tuple[NDArray[np.uint8], ColorOrder]:
        """See `Frame.region`."""
        left, right = x0 - x0 % 2, x1 + x1 % 2
        top, bottom = y0 - y0 % 2, y1 + y1 % 2
        luma = self.raw[top:bottom, left:right]
        # Two bytes of chroma for two columns: the same columns at half the rows.
        chroma = self.raw[self.height + top // 2 : self.height + bottom // 2, left:right]
        chroma = chroma.reshape(chroma.shape[0], -1, 2)
        pixels = cv2.cvtColorTwoPlane(luma, chroma, self.code)
        return pixels[y0 - top : y1 - top, x0 - left : x1 - left], ColorOrder.BGR

    def bgr(self) -> NDArray[np.uint8]:
        """See `Frame.bgr`."""
        return self.region(0, 0, self.width, self.height)[0]


@dataclass(frozen=True, eq=False)
class StretchedFrame:
    """16-bit values without a scale of their own (thermal counts, depth): `raw` is (H, W) uint16, any byte order.

    They fill a narrow and unknown part of the 16-bit range, so the 1st percentile of the frame becomes 0, the 99th
    255, linearly; what lies beyond is clipped. The percentiles are estimated from a grid of at most 128×128 pixels
    when the first region is read, and hold for the whole frame. Grey values of two frames thus compare only as far as
    their percentiles do.
    """

    raw: NDArray[np.uint16]

    @property
    def height(self) -> int:
        """Rows, in pixels."""
        return self.raw.shape[0]

    @property
    def width(self) -> int:
        """Columns, in pixels."""
        return self.raw.shape[1]

    @cached_property
    def limits(self) -> tuple[int, int]:
        """The values that become 0 and 255; the second is the greater."""
        stride = -(-max(self.raw.shape) // _STRETCH_SAMPLES_PER_SIDE)
        samples = np.array(self.raw[::stride, ::stride], np.uint16)
        low, high = np.percentile(samples, _STRETCH_PERCENTILES)
        return int(low), max(int(np.ceil(high)), int(low) + 1)

    def region(self, x0: int, y0: int, x1: int, y1: int) -> tuple[NDArray[np.uint8], ColorOrder]:
        """See `Frame.region`."""
        low, high = self.limits
        values = np.array(self.raw[y0:y1, x0:x1], np.uint16)
        np.maximum(values, np.uint16(low), out=values)
        values -= np.uint16(low)
        return cv2.convertScaleAbs(values, alpha=255.0 / (high - low)), ColorOrder.GRAY

    def bgr(self) -> NDArray[np.uint8]:
        """See `Frame.bgr`."""
        return to_bgr(*self.region(0, 0, self.width, self.height))


def _scaled(raw: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """0..65535 to 0..255, rounded, as cv_bridge does; `raw` in any byte order."""
    # The copy has the machine's byte order and alignment, which OpenCV needs.
    return cv2.convertScaleAbs(np.array(raw, np.uint16), alpha=255.0 / 65535.0)


def _demosaiced16(raw: NDArray[np.uint16], code: int) -> NDArray[np.uint8]:
    return _scaled(cv2.cvtColor(np.array(raw, np.uint16), code))


def _as_is(order: ColorOrder) -> PixelFormat:
    return PixelFormat(partial(ArrayFrame, order=order), channels=order.channels)


def _yuv422(code: int) -> PixelFormat:
    frame = partial(ConvertedFrame, convert=partial(cv2.cvtColor, code=code), order=ColorOrder.BGR, grid=2)
    return PixelFormat(frame, channels=2, width_multiple=2)


def _yuv420(code: int) -> PixelFormat:
    return PixelFormat(partial(SemiPlanarFrame, code=code), planes_height=1.5, width_multiple=2, height_multiple=2)


def _bayer8(code: int) -> PixelFormat:
    convert = partial(cv2.cvtColor, code=code)
    return PixelFormat(partial(ConvertedFrame, convert=convert, order=ColorOrder.BGR, grid=2, apron=2), min_side=3)


def _bayer16(code: int) -> PixelFormat:
    frame = partial(ConvertedFrame, convert=partial(_demosaiced16, code=code), order=ColorOrder.BGR, grid=2, apron=2)
    return PixelFormat(frame, dtype=np.uint16, min_side=3)


# OpenCV names a mosaic by the second and third pixel of its second row: BayerBG begins R G / G B.
_RGGB, _BGGR = cv2.COLOR_BayerBG2BGR, cv2.COLOR_BayerRG2BGR
_GBRG, _GRBG = cv2.COLOR_BayerGR2BGR, cv2.COLOR_BayerGB2BGR

FORMATS: dict[str, PixelFormat] = {
    "bgr8": _as_is(ColorOrder.BGR),
    "rgb8": _as_is(ColorOrder.RGB),
    "bgra8": _as_is(ColorOrder.BGRA),
    "rgba8": _as_is(ColorOrder.RGBA),
    "mono8": _as_is(ColorOrder.GRAY),
    # Types that say nothing of colour are taken as OpenCV would have written them.
    "8UC1": _as_is(ColorOrder.GRAY),
    "8UC3": _as_is(ColorOrder.BGR),
    "8UC4": _as_is(ColorOrder.BGRA),
    "yuv422": _yuv422(cv2.COLOR_YUV2BGR_UYVY),
    "uyvy": _yuv422(cv2.COLOR_YUV2BGR_UYVY),
    "yuv422_yuy2": _yuv422(cv2.COLOR_YUV2BGR_YUY2),
    "yuyv": _yuv422(cv2.COLOR_YUV2BGR_YUY2),
    "nv12": _yuv420(cv2.COLOR_YUV2BGR_NV12),
    "nv21": _yuv420(cv2.COLOR_YUV2BGR_NV21),
    "mono16": PixelFormat(partial(ConvertedFrame, convert=_scaled, order=ColorOrder.GRAY), dtype=np.uint16),
    "16UC1": PixelFormat(StretchedFrame, dtype=np.uint16),
    "bayer_rggb8": _bayer8(_RGGB),
    "bayer_bggr8": _bayer8(_BGGR),
    "bayer_gbrg8": _bayer8(_GBRG),
    "bayer_grbg8": _bayer8(_GRBG),
    "bayer_rggb16": _bayer16(_RGGB),
    "bayer_bggr16": _bayer16(_BGGR),
    "bayer_gbrg16": _bayer16(_GBRG),
    "bayer_grbg16": _bayer16(_GRBG),
}
"""By the encoding's name in sensor_msgs/image_encodings.hpp."""
