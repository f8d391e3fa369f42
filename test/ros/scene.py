"""A rendered scene: a textured target that can be put anywhere on a textured background, and image messages of it."""

from __future__ import annotations

from array import array
from functools import cache

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

FRAME_ID = "camera_optical"
SIDE = 40
"""Side of the target, px."""

XYWH = tuple[float, float, float, float]


@cache
def _background(width: int, height: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(5)
    image = np.zeros((height, width, 3), np.float32)
    for cell, weight in ((64, 0.5), (24, 0.3), (8, 0.2)):
        noise = rng.uniform(0, 1, (height // cell + 2, width // cell + 2, 1)).astype(np.float32)
        image += weight * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    # Green and low in contrast, like a meadow.
    return np.clip(image * (60, 110, 70) + (20, 50, 30), 0, 255).astype(np.uint8)


@cache
def _target(seed: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    patch = np.full((SIDE, SIDE, 3), rng.integers(150, 240, 3), np.uint8)
    cv2.rectangle(patch, (1, 1), (SIDE - 2, SIDE - 2), (30, 30, 40), 2)
    for _ in range(7):
        center = tuple(int(v) for v in rng.integers(6, SIDE - 6, 2))
        color = tuple(int(v) for v in rng.integers(0, 255, 3))
        cv2.circle(patch, center, int(rng.integers(3, 9)), color, -1, cv2.LINE_AA)
    return patch


def render(*targets: tuple[float, float], width: int = 320, height: int = 240) -> NDArray[np.uint8]:
    """BGR image with one target at each top-left corner (x, y); each looks different."""
    image = _background(width, height).copy()
    for seed, (x, y) in enumerate(targets):
        x, y = round(x), round(y)
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + SIDE, width), min(y + SIDE, height)
        if x1 > x0 and y1 > y0:
            image[y0:y1, x0:x1] = _target(seed)[y0 - y : y1 - y, x0 - x : x1 - x]
    return cv2.GaussianBlur(image, (0, 0), 0.7)


def with_noise(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """As a camera would take it: never twice the same image, which would count as a stuck camera."""
    return cv2.add(image, rng.integers(0, 3, image.shape, np.uint8))


def box_at(x: float, y: float) -> XYWH:
    """Box of a target with this top-left corner."""
    return (float(round(x)), float(round(y)), float(SIDE), float(SIDE))


def time_of(nanoseconds: int) -> Time:
    """A message's time."""
    return Time(sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000)


def image_message(pixels: NDArray[np.uint8] | NDArray[np.uint16], encoding: str, stamp_ns: int) -> Image:
    """Image message of an array as `encode` gives it: rows, columns and channels as they lie in memory."""
    height, width = pixels.shape[:2]
    rows = height * 2 // 3 if encoding in ("nv12", "nv21") else height
    data = array("B")
    data.frombytes(np.ascontiguousarray(pixels).tobytes())
    return Image(
        header=Header(stamp=time_of(stamp_ns), frame_id=FRAME_ID),
        height=rows,
        width=width,
        encoding=encoding,
        step=pixels.strides[0] if pixels.flags.c_contiguous else width * pixels.itemsize * (pixels[0, 0].size),
        data=data,
    )


def compressed_message(bgr: NDArray[np.uint8], stamp_ns: int, suffix: str = "jpg") -> CompressedImage:
    """JPEG or PNG message."""
    return CompressedImage(
        header=Header(stamp=time_of(stamp_ns), frame_id=FRAME_ID),
        format=suffix,
        data=cv2.imencode(f".{suffix}", bgr)[1].tobytes(),
    )


def encode(bgr: NDArray[np.uint8], encoding: str) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """A BGR image, of even sides, as another encoding."""
    if encoding == "bgr8":
        return bgr
    codes = {
        "rgb8": cv2.COLOR_BGR2RGB,
        "bgra8": cv2.COLOR_BGR2BGRA,
        "rgba8": cv2.COLOR_BGR2RGBA,
        "mono8": cv2.COLOR_BGR2GRAY,
    }
    if encoding in codes:
        return cv2.cvtColor(bgr, codes[encoding])
    if encoding == "16UC1":
        # As a thermal camera's counts: a narrow part of the range, far from zero.
        return (7000 + 4 * cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY).astype(np.uint16)).astype("<u2")
    if encoding == "bayer_rggb8":
        mosaic = bgr[..., 1].copy()
        mosaic[0::2, 0::2] = bgr[0::2, 0::2, 2]
        mosaic[1::2, 1::2] = bgr[1::2, 1::2, 0]
        return mosaic
    height, width = bgr.shape[:2]
    planes = cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420)
    luma, chroma = planes[:height], planes[height:].reshape(2, height // 2, width // 2)
    if encoding == "nv12":
        return np.vstack([luma, np.stack(chroma, axis=-1).reshape(height // 2, width)])
    # One pair of chroma for two columns of each row.
    pairs = np.stack(chroma.repeat(2, axis=1), axis=-1).reshape(height, width)
    order = {"yuv422": (pairs, luma), "yuv422_yuy2": (luma, pairs)}[encoding]
    return np.stack(order, axis=-1)


def iou(a: XYWH, b: XYWH) -> float:
    """Intersection over union."""
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if not (w > 0 and h > 0):
        return 0.0
    return w * h / (a[2] * a[3] + b[2] * b[3] - w * h)
