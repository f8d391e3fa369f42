"""A camera for measurements: publishes a moving scene with true stamps, in a process of its own.

Run as `python -m ros2_tracker.ros.camera --size 1920x1080 --rate 30`; ends with SIGINT.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence

import cv2
import numpy as np
import rclpy
from numpy.typing import NDArray
from rclpy.executors import ExternalShutdownException
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from ros2_tracker.ros.image_view import image_message
from ros2_tracker.ros.memory import tune_malloc
from ros2_tracker.ros.qos import image_qos

FRAMES = 24
"""Rendered once and played over and over, so that rendering takes no time from the measurement."""
_TARGET_SIDE = 0.12
_SWING = 0.15
ENCODINGS = {"bgr8": None, "rgb8": cv2.COLOR_BGR2RGB, "mono8": cv2.COLOR_BGR2GRAY}


def scene_box(index: int, width: int, height: int) -> tuple[float, float, float, float]:
    """Where the target is in frame `index`: (x, y, w, h) px."""
    side = round(_TARGET_SIDE * height)
    angle = 2.0 * math.pi * (index % FRAMES) / FRAMES
    x = round(width / 2 + _SWING * height * math.cos(angle) - side / 2)
    y = round(height / 2 + _SWING * height * math.sin(angle) - side / 2)
    return (float(x), float(y), float(side), float(side))


def _texture(rng: np.random.Generator, height: int, width: int, grain: int) -> NDArray[np.uint8]:
    coarse = rng.integers(30, 226, (max(height // grain, 2), max(width // grain, 2), 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)  # type: ignore[return-value]


def render_scene(width: int, height: int, target_there: bool = True) -> list[NDArray[np.uint8]]:
    """FRAMES images, (height, width, 3) uint8 BGR: a checkered target going round on a soft background, or not there.

    Without it the background moves, as a camera that repeats one image would be taken to be stuck.
    """
    rng = np.random.default_rng(7)
    background = _texture(rng, height, width, max(height // 12, 2))
    if not target_there:
        return [np.roll(background, index, axis=1) for index in range(FRAMES)]
    side = int(scene_box(0, width, height)[2])
    target = _texture(rng, side, side, max(side // 5, 2))
    cv2.circle(target, (side // 2, side // 2), max(side // 4, 1), (20, 40, 230), -1)
    frames = []
    for index in range(FRAMES):
        x, y, w, h = (int(v) for v in scene_box(index, width, height))
        frame = background.copy()
        frame[y : y + h, x : x + w] = target
        frames.append(frame)
    return frames


def parse_size(text: str) -> tuple[int, int]:
    """(width, height) from "1920x1080"; argparse.ArgumentTypeError otherwise."""
    width, separator, height = text.partition("x")
    if not (separator and width.isdigit() and height.isdigit() and int(width) >= 64 and int(height) >= 64):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 1920x1080 (at least 64x64)")
    return int(width), int(height)


def _encoded_scene(width: int, height: int, encoding: str, target_there: bool) -> list[NDArray[np.uint8]]:
    code = ENCODINGS[encoding]
    frames = render_scene(width, height, target_there)
    return frames if code is None else [cv2.cvtColor(frame, code) for frame in frames]  # type: ignore[misc]


def main(argv: Sequence[str] | None = None) -> None:
    """Publish until interrupted; `frame_id` counts the images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=parse_size, default=(1920, 1080))
    parser.add_argument("--rate", type=float, default=30.0)
    parser.add_argument("--encoding", choices=tuple(ENCODINGS), default="bgr8")
    parser.add_argument("--reliability", choices=("best_effort", "reliable"), default="best_effort")
    parser.add_argument("--absent", type=float, default=0.0, help="s, again and again, without the target")
    parser.add_argument("--topic", default="image")
    arguments = parser.parse_args(argv)
    tune_malloc()
    frames = _encoded_scene(*arguments.size, arguments.encoding, target_there=True)
    without = _encoded_scene(*arguments.size, arguments.encoding, target_there=False) if arguments.absent else frames
    stretch = max(round(arguments.absent * arguments.rate), 1)
    message = image_message(np.zeros((*frames[0].shape[:2], 3), np.uint8), Header())
    message.encoding, message.step = arguments.encoding, frames[0].strides[0]
    message.data = type(message.data)("B", bytes(frames[0].nbytes))
    pixels = np.frombuffer(message.data, np.uint8).reshape(frames[0].shape)
    rclpy.init()
    node = rclpy.create_node("camera")
    publisher = node.create_publisher(Image, arguments.topic, image_qos(arguments.reliability))
    index, period = 0, 1.0 / arguments.rate
    due = time.monotonic()
    try:
        while rclpy.ok():
            # A driver publishes what it has just written, so the pixels are in the processor's cache.
            # It begins with two stretches of the target, so that there is time to draw the box.
            absent = index // stretch % 3 == 2
            pixels[:] = (without if absent else frames)[index % FRAMES]
            message.header = Header(stamp=node.get_clock().now().to_msg(), frame_id=str(index))
            publisher.publish(message)
            index += 1
            due = max(due + period, time.monotonic() - period)
            time.sleep(max(due - time.monotonic(), 0.0))
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
