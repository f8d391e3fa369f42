"""Images from the camera: `sensor_msgs` messages to frames without copying, and BGR pixels to a message.

cv_bridge is not needed: it is asked only for encodings that `pixel_formats` does not know.
"""

from __future__ import annotations

import sys
from functools import cache, cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from ros2_tracker.ros.pixel_formats import FORMATS
from ros2_tracker.tracking.frame import ArrayFrame, ColorOrder, Frame, FrameError, frame_from_array

_SHOWN_CHARS = 40


class ImageError(FrameError):
    """An image message that cannot be read; the text names the offending value."""


class CompressedFrame:
    """A JPEG or PNG that is decoded when first asked for anything, then kept as (H, W, 3) BGR.

    A damaged one raises `ImageError` at that moment, from whichever attribute is asked for.
    """

    def __init__(self, data: Any, format_name: str) -> None:
        self._data = data
        self._format_name = format_name

    @cached_property
    def _decoded(self) -> ArrayFrame:
        description = f"compressed image of {len(self._data)} bytes, format {_shortened(self._format_name)}"
        try:
            # The orientation tag is ignored: camera_info and boxes refer to the sensor's rows and columns.
            pixels = cv2.imdecode(np.frombuffer(self._data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        except cv2.error as error:
            raise ImageError(f"{description}, cannot be decoded: {error.err or error}") from error
        if pixels is None:
            raise ImageError(f"{description}, cannot be decoded")
        return ArrayFrame(pixels)

    @property
    def height(self) -> int:
        """Rows, in pixels."""
        return self._decoded.height

    @property
    def width(self) -> int:
        """Columns, in pixels."""
        return self._decoded.width

    def region(self, x0: int, y0: int, x1: int, y1: int) -> tuple[NDArray[np.uint8], ColorOrder]:
        """See `Frame.region`."""
        return self._decoded.region(x0, y0, x1, y1)

    def bgr(self) -> NDArray[np.uint8]:
        """See `Frame.bgr`."""
        return self._decoded.bgr()


def image_view(msg: Image) -> NDArray[Any]:
    """Read-only array over the message's data: uint8 or uint16, (height, width) or (height, width, channels).

    It equals cv_bridge's `imgmsg_to_cv2(msg, "passthrough")`, padded rows and byte order included, where cv_bridge
    knows the encoding; nv12 and nv21 are (height·3/2, width). No pixel is copied; the array keeps the data alive.

    Raises:
        ImageError: encoding not in `FORMATS`, or sizes that do not fit each other or the encoding.

    """
    pixel_format = FORMATS.get(msg.encoding)
    if pixel_format is None:
        raise ImageError(_unsupported(msg.encoding))
    height, width, step, encoding = msg.height, msg.width, msg.step, msg.encoding
    _check_has_pixels(msg)
    if width % pixel_format.width_multiple or height % pixel_format.height_multiple:
        sides = "width and height" if pixel_format.height_multiple > 1 else "width"
        raise ImageError(f"{encoding} image of {width}x{height} px: {sides} must be even")
    if min(width, height) < pixel_format.min_side:
        least = pixel_format.min_side
        raise ImageError(f"{encoding} image of {width}x{height} px: at least {least}x{least} px are needed")
    dtype = np.dtype(pixel_format.dtype)
    pixel_bytes = pixel_format.channels * dtype.itemsize
    if step < width * pixel_bytes:
        raise ImageError(
            f"step of {step} bytes is less than a row of {width} {encoding} pixels ({width * pixel_bytes})"
        )
    rows = int(height * pixel_format.planes_height)
    size = memoryview(msg.data).nbytes
    if size < step * rows:
        raise ImageError(
            f"data of {size} bytes is less than {rows} rows of {step} bytes for a {width}x{height} {encoding} image"
        )
    shape: tuple[int, ...] = (rows, width)
    strides: tuple[int, ...] = (step, pixel_bytes)
    if pixel_format.channels > 1:
        shape, strides = (*shape, pixel_format.channels), (*strides, dtype.itemsize)
    view = np.ndarray(shape, dtype.newbyteorder(">" if msg.is_bigendian else "<"), msg.data, strides=strides)
    view.flags.writeable = False
    return view


def frame_from_image(msg: Image) -> Frame:
    """Frame over an image message; regions are converted when they are read. See `pixel_formats` for each encoding.

    Raises:
        ImageError: see `image_view`; for an encoding unknown to us, when cv_bridge is missing or refuses it as well.

    """
    if msg.encoding not in FORMATS:
        return _frame_by_cv_bridge(msg)
    return FORMATS[msg.encoding].frame(image_view(msg))


def frame_from_compressed(msg: CompressedImage) -> Frame:
    """Frame over a compressed image, decoded when first used, so that a skipped one costs nothing.

    Raises:
        ImageError: the message is empty. Damaged data raises it later, when the frame is first used.

    """
    if not len(msg.data):
        raise ImageError(f"compressed image without data, format {_shortened(msg.format)}")
    return CompressedFrame(msg.data, msg.format)


def image_message(pixels_bgr: NDArray[np.uint8], header: Header) -> Image:
    """Image message with a copy of H×W×3 uint8 BGR pixels.

    Raises:
        ValueError: the pixels are something else.

    """
    frame = frame_from_array(pixels_bgr)
    msg = Image(
        header=header,
        height=frame.height,
        width=frame.width,
        encoding="bgr8",
        is_bigendian=sys.byteorder == "big",
        step=frame.width * 3,
    )
    # Into the message's own array: its constructor and setter copy once more, and check every element of an ndarray.
    msg.data.frombytes(memoryview(np.ascontiguousarray(frame.pixels)).cast("B"))
    return msg


@cache
def _cv_bridge() -> Any | None:
    """The one place that imports cv_bridge; None where it is missing."""
    try:
        from cv_bridge import CvBridge
    except ImportError:
        return None
    return CvBridge()


def _frame_by_cv_bridge(msg: Image) -> Frame:
    _check_has_pixels(msg)
    bridge = _cv_bridge()
    if bridge is None:
        raise ImageError(_unsupported(msg.encoding))
    try:
        return frame_from_array(bridge.imgmsg_to_cv2(msg, "bgr8"))
    except Exception as error:  # cv_bridge lets through whatever its compiled part or NumPy throws
        raise ImageError(f"{_unsupported(msg.encoding)}; cv_bridge: {error}") from error


def _check_has_pixels(msg: Image) -> None:
    if msg.width < 1 or msg.height < 1:
        raise ImageError(f"image of {msg.width}x{msg.height} px has no pixels")


def _unsupported(encoding: str) -> str:
    return f"encoding {_shortened(encoding)} is not supported; supported: {', '.join(sorted(FORMATS))}"


def _shortened(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…")
