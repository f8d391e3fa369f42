"""Images to JPEG, each once for all browsers, on a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import cv2

from ros2_tracker.operator.chooser import FrameChooser
from ros2_tracker.tracking.frame import FrameError
from ros2_tracker.tracking.frame_buffer import StampedFrame

_IDLE_WAIT_S = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One image as it is sent."""

    stamp_ns: int
    width: int
    """Of the camera's image, px: what boxes refer to."""
    height: int
    jpeg: bytes
    """Perhaps smaller, of the same aspect."""
    tag: object
    """The image's, see `StampedFrame`."""


def encode(source: StampedFrame, max_width: int, quality: int) -> Picture:
    """JPEG of an image, at most `max_width` px wide.

    Raises:
        FrameError: its pixels cannot be had, or not as JPEG.

    """
    pixels = source.frame.bgr()
    height, width = pixels.shape[:2]
    try:
        if width > max_width:
            size = (max_width, max(round(height * max_width / width), 1))
            # Averaging takes five times as long where the factor is no whole number; under 2 it is not missed.
            method = cv2.INTER_AREA if width >= 2 * max_width else cv2.INTER_LINEAR
            pixels = cv2.resize(pixels, size, interpolation=method)
        done, jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    except cv2.error as error:
        raise FrameError(f"{width}x{height} image cannot be made a JPEG: {error.err or error}") from error
    if not done:
        raise FrameError(f"{width}x{height} image cannot be made a JPEG")
    return Picture(source.stamp_ns, width, height, jpeg.tobytes(), source.tag)


class Encoder:
    """Takes from a `FrameChooser`, hands on what it made."""

    def __init__(
        self,
        chooser: FrameChooser,
        max_width: int,
        quality: int,
        on_picture: Callable[[Picture], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        """Start the thread, on which both functions are called."""
        self._chooser = chooser
        self._max_width = max_width
        self._quality = quality
        self._on_picture = on_picture
        self._on_failure = on_failure
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish the image in work and end; returns when the thread has."""
        self._chooser.close()
        self._thread.join()

    def _run(self) -> None:
        while self._chooser.wait(_IDLE_WAIT_S):
            source = self._chooser.take(time.monotonic())
            if source is None:
                continue
            try:
                self._on_picture(encode(source, self._max_width, self._quality))
            except Exception as error:  # a picture that cannot be made must not end the page
                self._on_failure(error)
