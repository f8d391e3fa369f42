"""The camera's own motion: found in rendered and real images, and not made up where it cannot be seen."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from ros2_tracker.tracking.ego_motion import MAX_WIDTH, Ego, EgoMotion, small_gray, warp_box
from ros2_tracker.tracking.frame import ArrayFrame, ColorOrder
from ros2_tracker.tracking.geometry import Box

WIDTH, HEIGHT = 640, 480


def scenery(seed: int = 3) -> np.ndarray:
    """A textured BGR image, larger than the camera's view of it."""
    rng = np.random.default_rng(seed)
    image = np.zeros((HEIGHT + 400, WIDTH + 400, 3), np.float32)
    for cell, weight in ((90, 0.4), (30, 0.3), (10, 0.3)):
        noise = rng.uniform(0, 255, (image.shape[0] // cell + 2, image.shape[1] // cell + 2, 3)).astype(np.float32)
        image += weight * cv2.resize(noise, image.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(image, 0, 255).astype(np.uint8)


SCENERY = scenery()


def similarity(dx: float, dy: float, degrees: float = 0.0, scale: float = 1.0) -> np.ndarray:
    """(3, 3): what the camera's motion makes of px, about the image's centre."""
    c, s = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    centre = np.array([WIDTH / 2, HEIGHT / 2])
    linear = np.array([[c, -s], [s, c]])
    shift = centre - linear @ centre + (dx, dy)
    return np.array([[c, -s, shift[0]], [s, c, shift[1]], [0, 0, 1.0]])


def view(motion: np.ndarray, target: tuple[float, float, float] | None = None) -> np.ndarray:
    """(HEIGHT, WIDTH, 3) of the scenery after the camera's motion; a target (x, y, side) on top, in px."""
    # OpenCV counts from the centre of the first pixel.
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
    into_view = np.array([[1, 0, -200.0], [0, 1, -200.0], [0, 0, 1.0]])
    image = cv2.warpPerspective(SCENERY, np.linalg.inv(half) @ motion @ into_view @ half, (WIDTH, HEIGHT))
    if target is not None:
        x, y, side = (round(v) for v in target)
        pattern = np.random.default_rng(9).integers(0, 255, (side // 8 + 1, side // 8 + 1, 3)).astype(np.uint8)
        image[y : y + side, x : x + side] = cv2.resize(pattern, (side, side), interpolation=cv2.INTER_NEAREST)
    return image


def between(first: np.ndarray, second: np.ndarray, *targets: Box) -> Ego:
    ego = EgoMotion()
    assert ego.stamp_ns is None
    assert ego.to(ArrayFrame(first), 1, ()).homography is None
    assert ego.stamp_ns == 1
    found = ego.to(ArrayFrame(second), 2, targets)
    assert ego.stamp_ns == 2
    return found


def largest_error(found: np.ndarray, true: np.ndarray) -> float:
    """px, over a grid in the image."""
    points = np.array([[[x, y]] for x in (0, 320, 640) for y in (0, 240, 480)], np.float64)
    difference = cv2.perspectiveTransform(points, found) - cv2.perspectiveTransform(points, true)
    return float(np.linalg.norm(difference, axis=2).max())


@pytest.mark.parametrize(
    ("motion", "limit"),
    [
        ((0, 0), 0.2),
        ((3.3, -1.7), 1.0),
        ((60, 25), 1.5),
        ((8, 4, 6.0), 1.5),
        ((0, 0, 0.0, 1.08), 1.5),
        ((-25, 10, -4.0, 0.95), 1.5),
    ],
)
def test_motion_of_the_camera_is_found(motion: tuple[float, ...], limit: float):
    true = similarity(*motion)
    found = between(view(np.eye(3)), view(true))
    assert found.homography is not None, found.reason
    assert largest_error(found.homography, true) < limit


def test_a_large_target_does_not_pull_the_background_along():
    true = similarity(4, 0)
    target = Box(200, 120, 260, 260)
    first, second = view(np.eye(3), (200, 120, 260)), view(true, (230, 140, 260))
    found = between(first, second, target)
    assert found.homography is not None, found.reason
    assert largest_error(found.homography, true) < 2.0


def test_what_stands_still_is_found_where_it_has_gone():
    true = similarity(20, -10, 3.0, 1.05)
    box = warp_box(Box(400, 300, 40, 30), true)
    assert (box.cx, box.cy) == pytest.approx(tuple((true @ (420, 315, 1.0))[:2]))
    assert (box.w, box.h) == pytest.approx((42, 31.5), rel=0.01)


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (np.full((480, 640, 3), 90, np.uint8), np.full((480, 640, 3), 90, np.uint8), "0 corners in the background"),
        (view(np.eye(3)), np.zeros((480, 640, 3), np.uint8), "could be followed"),
        (view(np.eye(3)), view(np.eye(3))[:240], "the image before had 640x480 px"),
    ],
)
def test_what_cannot_be_told_is_not_made_up(first: np.ndarray, second: np.ndarray, reason: str):
    found = between(first, second)
    assert found.homography is None
    assert reason in found.reason


def test_a_cut_to_another_scene_is_noticed():
    other = np.ascontiguousarray(scenery(seed=77)[:HEIGHT, :WIDTH])
    assert between(view(np.eye(3)), other).homography is None


def test_corners_in_one_place_say_nothing_of_the_rest():
    first = np.full((480, 640, 3), 90, np.uint8)
    second = first.copy()
    first[40:140, 40:140] = view(np.eye(3))[40:140, 40:140]
    second[45:145, 45:145] = view(np.eye(3))[40:140, 40:140]
    found = between(first, second)
    assert found.homography is None
    assert "corners" in found.reason


def test_after_forgetting_the_next_image_is_the_first():
    ego = EgoMotion()
    ego.to(ArrayFrame(view(np.eye(3))), 1, ())
    ego.forget()
    assert ego.stamp_ns is None
    assert ego.to(ArrayFrame(view(np.eye(3))), 2, ()).homography is None


@pytest.mark.parametrize("order", [ColorOrder.BGR, ColorOrder.RGB, ColorOrder.BGRA, ColorOrder.GRAY])
@pytest.mark.parametrize("size", [(1920, 1080), (640, 480), (200, 320), (96, 64)])
def test_the_grey_image_is_small_and_shows_the_same(order: ColorOrder, size: tuple[int, int]):
    width, height = size
    gray = np.tile(np.linspace(0, 250, width).astype(np.uint8), (height, 1))
    pixels = gray if order is ColorOrder.GRAY else np.dstack([gray] * order.channels)
    small = small_gray(ArrayFrame(pixels, order))
    assert small.dtype == np.uint8
    assert max(small.shape) == min(max(size), MAX_WIDTH)
    expected = np.tile(np.linspace(0, 250, small.shape[1]), (small.shape[0], 1))
    assert np.abs(small - expected).max() <= 4
    # The camera's buffer will hold another image soon.
    assert not np.shares_memory(small, pixels)


def test_real_footage_of_a_drone_is_told_apart_from_a_still_camera(sequences: Path):
    """In a clip from the air the background moves, and warping by the homography undoes most of it."""
    files = sorted((sequences / "uav123_person9" / "img").glob("*"))[:40]
    before, after = [], []
    ego, last = EgoMotion(), None
    for index, file in enumerate(files):
        image = cv2.imread(str(file))
        found = ego.to(ArrayFrame(image), index, ())
        if found.homography is not None:
            gray, past = (cv2.cvtColor(i, cv2.COLOR_BGR2GRAY).astype(np.float32) for i in (image, last))
            moved = cv2.warpPerspective(past, found.homography, past.shape[::-1], borderValue=-1)
            inside = moved >= 0
            before.append(np.abs(gray - past)[inside].mean())
            after.append(np.abs(gray - moved)[inside].mean())
        last = image
    assert len(after) >= 35
    assert np.mean(after) < 0.7 * np.mean(before)
