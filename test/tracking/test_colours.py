"""Where a target's colours are in an image."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ros2_tracker.tracking.colours import Colours
from ros2_tracker.tracking.frame import ArrayFrame, ColorOrder
from ros2_tracker.tracking.geometry import Box

RED, GREY = (220, 40, 40), (120, 120, 120)


def crop(color: tuple[int, int, int] = RED) -> np.ndarray:
    """A 64 px crop with a patch of 20 px in its middle."""
    pixels = np.full((64, 64, 3), GREY, np.uint8)
    pixels[22:42, 22:42] = color
    return pixels


def scene(x: int, y: int, w: int, h: int, order: ColorOrder = ColorOrder.RGB) -> ArrayFrame:
    """A grey 640x360 image with a red patch, and a blue one that is as large."""
    rgb = np.full((360, 640, 3), GREY, np.uint8)
    rgb[300:340, 20:60] = (40, 40, 220)
    rgb[y : y + h, x : x + w] = RED
    pixels = np.empty((360, 640, order.channels), np.uint8)
    for channel, value in zip(order.rgb, range(3), strict=True):
        pixels[..., channel] = rgb[..., value]
    return ArrayFrame(pixels, order)


@given(st.integers(60, 580), st.integers(40, 260), st.integers(12, 60), st.integers(12, 60), st.sampled_from([
    ColorOrder.RGB, ColorOrder.BGR, ColorOrder.BGRA, ColorOrder.RGBA]))  # fmt: skip
def test_a_patch_of_the_targets_colours_is_the_best_place(x, y, w, h, order):
    w, h = min(w, 640 - x), min(h, 360 - y)
    colours = Colours.of(crop(), 22, 22, 42, 42)
    best = colours.places(scene(x, y, w, h, order), Box(0, 0, w, h), 8)[0]
    size = math.sqrt(w * h)
    assert abs(best[0] - (x + w / 2)) <= 0.5 * size
    assert abs(best[1] - (y + h / 2)) <= 0.5 * size


def test_places_are_apart_and_inside_the_image_and_no_more_than_asked():
    rng = np.random.default_rng(0)
    frame = ArrayFrame(rng.integers(0, 256, (240, 320, 3)).astype(np.uint8))
    colours = Colours.of(crop(), 10, 10, 50, 50)
    box = Box(0, 0, 20, 20)
    places = colours.places(frame, box, 6)
    assert 1 <= len(places) <= 6
    assert all(0 <= x <= 320 and 0 <= y <= 240 for x, y in places)
    assert all(math.dist(a, b) >= box.size for i, a in enumerate(places) for b in places[:i])
    assert colours.places(frame, box, 0) == []


def test_an_image_of_one_colour_has_no_place():
    colours = Colours.of(crop(), 22, 22, 42, 42)
    assert colours.places(ArrayFrame(np.full((100, 100, 3), GREY, np.uint8)), Box(0, 0, 9, 9), 4) == []


def test_grey_cameras_have_colours_too():
    colours = Colours.of(crop((250, 250, 250)), 22, 22, 42, 42)
    pixels = np.full((200, 300), 120, np.uint8)
    pixels[50:70, 200:220] = 250
    (x, y), *_ = colours.places(ArrayFrame(pixels, ColorOrder.GRAY), Box(0, 0, 20, 20), 3)
    assert (x, y) == pytest.approx((210, 60), abs=6)


def test_a_target_of_few_pixels_in_a_large_image_does_not_make_it_slow():
    """At most 40,000 of its pixels are looked at, whatever the target's size."""
    colours = Colours.of(crop(), 22, 22, 42, 42)
    frame = ArrayFrame(np.full((2160, 3840, 3), GREY, np.uint8), ColorOrder.RGB)
    frame.pixels[1000:1060, 2000:2060] = RED
    (x, y), *_ = colours.places(frame, Box(0, 0, 2, 2), 1)
    assert (x, y) == pytest.approx((2030, 1030), abs=40)


def test_a_box_outside_the_crop_has_no_colours():
    assert Colours.of(crop(), 70, 70, 90, 90) is None
    assert Colours.of(crop(), -30, -30, -5, -5) is None
    assert Colours.of(crop(), 30, 30, 30, 30) is None
    assert Colours.of(crop(), -10, 30, 40, 50).shares.sum() == pytest.approx(1.0)


@given(st.integers(1, 40), st.integers(1, 40), st.floats(1.0, 500.0), st.floats(1.0, 500.0))
def test_images_smaller_than_the_target_are_looked_at_all_the_same(width, height, w, h):
    colours = Colours.of(crop(), 22, 22, 42, 42)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    places = colours.places(ArrayFrame(pixels), Box(0.0, 0.0, w, h), 4)
    assert len(places) <= 4
