"""Images as the browsers get them."""

from __future__ import annotations

import threading

import cv2
import numpy as np
import pytest

from ros2_tracker.operator.chooser import FrameChooser
from ros2_tracker.operator.encoder import Encoder, encode
from ros2_tracker.tracking.frame import ArrayFrame, ColorOrder, FrameError
from ros2_tracker.tracking.frame_buffer import StampedFrame

WAIT_S = 30.0


def stamped(pixels: np.ndarray, order: ColorOrder = ColorOrder.BGR, stamp_ns: int = 5) -> StampedFrame:
    return StampedFrame(stamp_ns, ArrayFrame(pixels, order), pixels.nbytes, "tag")


def colour(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), (20, 120, 220), np.uint8)


@pytest.mark.parametrize(
    ("size", "sent"), [((1920, 1080), (960, 540)), ((640, 480), (640, 480)), ((2000, 3), (960, 1))]
)
def test_wide_images_are_made_smaller_and_boxes_refer_to_the_cameras(size: tuple[int, int], sent: tuple[int, int]):
    picture = encode(stamped(colour(size[1], size[0])), 960, 75)
    assert (picture.width, picture.height, picture.stamp_ns, picture.tag) == (*size, 5, "tag")
    decoded = cv2.imdecode(np.frombuffer(picture.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (sent[1], sent[0], 3)
    np.testing.assert_allclose(decoded.mean((0, 1)), (20, 120, 220), atol=3)


def test_colours_of_other_orders():
    picture = encode(stamped(colour(48, 64)[..., ::-1].copy(), ColorOrder.RGB), 960, 90)
    decoded = cv2.imdecode(np.frombuffer(picture.jpeg, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_allclose(decoded.mean((0, 1)), (20, 120, 220), atol=3)


def test_what_jpeg_cannot_hold_is_refused():
    with pytest.raises(FrameError, match="32x70000 image cannot be made a JPEG"):
        encode(stamped(colour(70000, 32)), 960, 75)


def test_one_bad_image_does_not_end_the_thread():
    chooser = FrameChooser(100.0)
    pictures, failures, done = [], [], threading.Event()
    encoder = Encoder(chooser, 960, 75, lambda picture: (pictures.append(picture), done.set()), failures.append)
    try:
        chooser.push(stamped(colour(70000, 32), stamp_ns=1), 0.0)
        deadline = threading.Event()
        for _ in range(600):
            if failures:
                break
            deadline.wait(WAIT_S / 600)
        chooser.push(stamped(colour(24, 32), stamp_ns=2), 0.0)
        assert done.wait(WAIT_S)
    finally:
        encoder.stop()
    assert [picture.stamp_ns for picture in pictures] == [2]
    assert len(failures) == 1
