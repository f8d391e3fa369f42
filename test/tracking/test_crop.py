"""Crops against a slow reference that follows the definition pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ros2_tracker.engines.patch import Patch
from ros2_tracker.models.variant import load_variant
from ros2_tracker.tracking.crop import Region, crop, mean_rgb
from ros2_tracker.tracking.frame import ArrayFrame, ColorOrder
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.onestream import OneStream

HEIGHT, WIDTH = 40, 56
FILL = (200.0, 100.0, 50.0)


def reference(rgb: NDArray[np.uint8], region: Region, size: int, fill: tuple[float, ...]) -> NDArray[np.float64]:
    """Bilinear samples at the centres of size x size equal cells; pixels beyond the border have the fill colour."""
    height, width = rgb.shape[:2]

    def pixel(row: int, column: int) -> NDArray[np.float64]:
        inside = 0 <= row < height and 0 <= column < width
        return rgb[row, column].astype(np.float64) if inside else np.array(fill)

    result = np.empty((size, size, 3))
    for i in range(size):
        for j in range(size):
            # Pixel (r, c) is centred at (c + 0.5, r + 0.5).
            x = region.x + (j + 0.5) * region.side / size - 0.5
            y = region.y + (i + 0.5) * region.side / size - 0.5
            column, row = int(np.floor(x)), int(np.floor(y))
            u, v = x - column, y - row
            result[i, j] = (1 - v) * ((1 - u) * pixel(row, column) + u * pixel(row, column + 1)) + v * (
                (1 - u) * pixel(row + 1, column) + u * pixel(row + 1, column + 1)
            )
    return result


@pytest.fixture(scope="module")
def smooth() -> NDArray[np.uint8]:
    """RGB whose neighbouring pixels differ by a few levels: OpenCV's 1/32 px steps then cost less than one."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = [128 + 60 * np.sin(x / 9 + k) + 50 * np.cos(y / 7 - k) for k in range(3)]
    return np.rint(np.stack(waves, axis=-1)).astype(np.uint8)


regions = st.builds(Region, st.floats(-70, 70), st.floats(-60, 60), st.floats(2, 120))


@settings(max_examples=60, deadline=None)
@given(regions, st.sampled_from([4, 13, 24]))
def test_crop_is_bilinear_sampling_of_the_filled_image(smooth: NDArray[np.uint8], region: Region, size: int):
    result = crop(ArrayFrame(smooth, ColorOrder.RGB), region, size, FILL)
    assert result.shape == (size, size, 3)
    assert result.dtype == np.uint8
    expected = reference(smooth, region, size, FILL)
    # At the image's border the fill is a step of up to 200 levels, where 1/64 px of rounding in x and in y shows.
    centres = (np.arange(size) + 0.5) * region.side / size - 0.5
    x, y = np.meshgrid(region.x + centres, region.y + centres)
    border = ((x > -1.1) & (x < 0.1)) | ((x > WIDTH - 1.1) & (x < WIDTH + 0.1))
    border |= ((y > -1.1) & (y < 0.1)) | ((y > HEIGHT - 1.1) & (y < HEIGHT + 0.1))
    difference = np.abs(result - expected).max(axis=2)
    assert difference[~border].max(initial=0) <= 1.5
    assert difference[border].max(initial=0) <= 9.0


@given(st.floats(100, 1000), st.floats(-1000, 1000), st.floats(2, 40))
def test_region_outside_the_image_is_all_fill(x: float, y: float, side: float):
    frame = ArrayFrame(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    assert (crop(frame, Region(x, y, side), 8, FILL) == np.array(FILL)).all()


def test_whole_pixels_are_copied_exactly():
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    result = crop(ArrayFrame(rgb, ColorOrder.RGB), Region(7, 5, 16), 16, FILL)
    np.testing.assert_array_equal(result, rgb[5:21, 7:23])


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1))
def test_sub_pixel_shift_moves_a_ramp_by_as_much(dx: float, dy: float):
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    ramp = np.stack([x * 4, y * 6, x * 0], axis=-1).astype(np.uint8)
    result = crop(ArrayFrame(ramp, ColorOrder.RGB), Region(10 + dx, 8 + dy, 16), 16, FILL).astype(np.float64)
    np.testing.assert_allclose(result[..., 0], (x[8:24, 10:26] + dx) * 4, atol=0.6)
    np.testing.assert_allclose(result[..., 1], (y[8:24, 10:26] + dy) * 6, atol=0.6)


@pytest.mark.parametrize("order", list(ColorOrder))
def test_colour_orders_give_the_same_crop(order: ColorOrder):
    rng = np.random.default_rng(1)
    grey = np.repeat(rng.integers(0, 256, (HEIGHT, WIDTH, 1), np.uint8), 3, axis=2)
    fill = (90.0, 90.0, 90.0)
    pixels = {
        ColorOrder.GRAY: grey[..., 0],
        ColorOrder.BGR: grey,
        ColorOrder.RGB: grey,
        ColorOrder.BGRA: np.dstack([grey, np.zeros((HEIGHT, WIDTH), np.uint8)]),
        ColorOrder.RGBA: np.dstack([grey, np.zeros((HEIGHT, WIDTH), np.uint8)]),
    }[order]
    region = Region(-6.3, 20.7, 30.0)
    expected = crop(ArrayFrame(grey, ColorOrder.RGB), region, 12, fill)
    np.testing.assert_allclose(crop(ArrayFrame(pixels, order), region, 12, fill), expected, atol=1)


def test_bgr_becomes_rgb():
    frame = ArrayFrame(np.full((HEIGHT, WIDTH, 3), (10, 20, 30), np.uint8), ColorOrder.BGR)
    assert (crop(frame, Region(5, 5, 10), 4, FILL) == (30, 20, 10)).all()
    assert mean_rgb(frame) == pytest.approx((30, 20, 10))


def test_frame_is_not_written_to(smooth: NDArray[np.uint8]):
    pixels = smooth.copy()
    pixels.setflags(write=False)
    crop(ArrayFrame(pixels), Region(-5, -5, 30), 16, FILL)
    np.testing.assert_array_equal(pixels, smooth)


@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(1, 200), st.floats(1, 200), st.floats(1, 6))
def test_box_comes_back_through_region_coordinates(x: float, y: float, w: float, h: float, factor: float):
    box = Box(x, y, w, h)
    region = Region.around(box, factor)
    back = region.to_image(
        (box.cx - region.x) / region.side, (box.cy - region.y) / region.side, w / region.side, h / region.side
    )
    assert back.as_tuple() == pytest.approx(box.as_tuple(), abs=1e-6)


inside = st.builds(Region, st.floats(-1, WIDTH - 20), st.floats(-1, HEIGHT - 10), st.floats(8, 40))


@settings(max_examples=100, deadline=None)
@given(inside, st.sampled_from([8, 13, 24]))
def test_snapped_region_maps_back_without_bias(region: Region, size: int):
    snapped = region.snapped(size, WIDTH, HEIGHT)
    assume(snapped is not region)
    row = snapped.y + 0.5 * (snapped.every - 1)
    assert all(value == round(value) for value in (snapped.x, row, snapped.side / snapped.every))
    assert snapped.x >= 0 <= row
    assert snapped.x + snapped.side <= WIDTH
    assert row + snapped.side <= HEIGHT
    assert size * snapped.every <= snapped.side
    assert abs(snapped.side - region.side) <= 0.5 * snapped.every
    for before, after in ((region.x, snapped.x), (region.y, snapped.y)):
        assert abs(before + region.side / 2 - after - snapped.side / 2) <= 0.5
    # Each pixel says where its centre lies, in quarters of a pixel: so must those of the crop.
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    ramp = np.stack([x * 4, y * 4, x * 0], axis=-1).astype(np.uint8)
    result = crop(ArrayFrame(ramp, ColorOrder.RGB), snapped, size, FILL) / 4.0 + 0.5
    places = [snapped.to_image(f, f, 0.0, 0.0) for f in (np.arange(size) + 0.5) / size]
    for found, expected in (
        (result[0, :, 0], [place.x for place in places]),
        (result[:, 0, 1], [place.y for place in places]),
    ):
        errors = found - np.array(expected)
        assert np.abs(errors).max() <= 0.3
        assert abs(errors.mean()) <= 0.15


def test_only_regions_that_gain_by_it_are_snapped():
    region = Region(10.3, 8.6, 20.2)
    assert region.snapped(20, WIDTH, HEIGHT) == Region(10.0, 9.0, 20.0)
    assert region.snapped(21, WIDTH, HEIGHT) is region
    beyond = Region(WIDTH - 20.1, 8.6, 20.8)
    assert beyond.snapped(20, WIDTH, HEIGHT) is beyond


def test_every_second_row_is_read_where_a_region_is_shrunk_to_half():
    region = Region(10.2, 4.4, 29.3)
    assert region.snapped(15, WIDTH, HEIGHT).every == 1
    snapped = region.snapped(14, WIDTH, HEIGHT)
    assert snapped == Region(10.0, 4.5, 30.0, every=2)
    pixels = np.repeat(np.random.default_rng(3).integers(0, 256, (HEIGHT, 1, 1), np.uint8), 3 * WIDTH, axis=1)
    pixels = pixels.reshape(HEIGHT, WIDTH, 3)
    others = pixels.copy()
    others[::2] = 0  # the first that is read is row 5
    frames = [ArrayFrame(each, ColorOrder.RGB) for each in (pixels, others)]
    np.testing.assert_array_equal(*(crop(frame, snapped, 14, FILL) for frame in frames))


@pytest.mark.parametrize(("x", "size"), [(300.0, 90.4), (20.0, 90.4), (300.0, 160.0)])
def test_a_look_may_leave_the_cutting_to_the_engine(x: float, size: float):
    pixels = np.random.default_rng(2).integers(0, 256, (800, 1000, 3), np.uint8)
    frame, box = ArrayFrame(pixels), Box(x, 350.3, size, size - 20.3)
    eager, lazy = (OneStream(load_variant("onestream-192"), lazy=lazy) for lazy in (False, True))
    appearance = eager.appearance(frame, box)
    now, later = (family.look(appearance, frame, box) for family in (eager, lazy))
    assert isinstance(now.inputs["search"], np.ndarray)
    assert isinstance(later.inputs["search"], Patch)
    np.testing.assert_array_equal(later.inputs["search"], now.inputs["search"])
    assert now.region == later.region
    assert now.cut() is now
    kept = later.cut()
    pixels[:] = 0  # the camera's next image
    np.testing.assert_array_equal(kept.inputs["search"], now.inputs["search"])
    assert isinstance(kept.inputs["search"], np.ndarray)


def test_region_is_centred_and_scales_with_the_area():
    region = Region.around(Box(10, 20, 30, 120), 4.0)
    assert region.side == pytest.approx(4 * 60)
    assert (region.x + region.side / 2, region.y + region.side / 2) == pytest.approx((25, 80))
    assert Region.around(Box(0, 0, 0.1, 0.1), 2.0).side == 2.0
