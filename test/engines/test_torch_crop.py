"""Crops that an engine cuts itself, beside those of the CPU: all of it on CPU tensors."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="this engine needs torch")

from ros2_tracker.engines.patch import Patch  # noqa: E402
from ros2_tracker.engines.torch_crop import MAX_SOURCE, cut, pack, row_bytes  # noqa: E402
from ros2_tracker.tracking.crop import Region, crop, lazy_crop  # noqa: E402
from ros2_tracker.tracking.frame import ArrayFrame, ColorOrder  # noqa: E402
from ros2_tracker.tracking.geometry import BoxError  # noqa: E402
from ros2_tracker.tracking.sample_target import SampleRegion, lazy_sample_crop, sample_crop  # noqa: E402

SIZE, HEIGHT, WIDTH = 32, 90, 120
FILL = (200.4, 100.2, 50.7)
# Before release 5, `warpAffine` rounds places to 1/32 px, which is 8 of 255 levels from one pixel to the next.
LEVELS = 1 if int(cv2.__version__.split(".")[0]) >= 5 else 9


def noise(order: ColorOrder) -> ArrayFrame:
    """Neighbouring pixels have nothing in common, so that a hundredth of a pixel shows."""
    shape = (HEIGHT, WIDTH) if order is ColorOrder.GRAY else (HEIGHT, WIDTH, order.channels)
    return ArrayFrame(np.random.default_rng(3).integers(0, 256, shape, np.uint8), order)


FRAMES = {order: noise(order) for order in ColorOrder}


def cut_by_torch(*crops: Patch | NDArray[np.uint8]) -> NDArray[np.uint8]:
    rows = torch.full((len(crops), row_bytes(SIZE)), 255, dtype=torch.uint8)
    for row, each in zip(rows.numpy(), crops, strict=True):
        used = pack(row, each, SIZE)
        row[used:] = 77  # whatever was there before
    return cut(rows, SIZE).numpy()


def difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b).max())


corners = st.tuples(st.floats(-150, 150), st.floats(-120, 120))
orders = st.sampled_from(list(ColorOrder))


@settings(max_examples=80, deadline=None)
@given(orders, corners, st.floats(2, 70) | st.floats(2, 600), st.booleans())
def test_region_of_an_image(order: ColorOrder, corner: tuple[float, float], side: float, snap: bool):
    region = Region(*corner, side)
    region = region.snapped(SIZE, WIDTH, HEIGHT) if snap else region
    found = lazy_crop(FRAMES[order], region, SIZE, FILL)
    expected = crop(FRAMES[order], region, SIZE, FILL)
    np.testing.assert_array_equal(found, expected)
    assert difference(cut_by_torch(found)[0], expected) <= LEVELS


@settings(max_examples=80, deadline=None)
@given(orders, corners, st.integers(1, 70) | st.integers(1, 600))
def test_region_of_ostrack_and_stark(order: ColorOrder, corner: tuple[float, float], side: int):
    region = SampleRegion(round(corner[0]), round(corner[1]), side, SIZE)
    try:
        found = lazy_sample_crop(FRAMES[order], region)
    except BoxError:
        with pytest.raises(BoxError):
            sample_crop(FRAMES[order], region)
        return
    expected = sample_crop(FRAMES[order], region)
    np.testing.assert_array_equal(found, expected)
    assert difference(cut_by_torch(found)[0], expected) <= 1


@settings(max_examples=40, deadline=None)
@given(orders, st.floats(0, 40), st.floats(0, 20), st.floats(2 * SIZE + 1, 80))
def test_every_second_row_of_a_region_that_is_shrunk_to_half(order: ColorOrder, x: float, y: float, side: float):
    frame = FRAMES[order]
    region = Region(x, y, side).snapped(SIZE, frame.width, frame.height)
    assume(region.every == 2)
    found = lazy_crop(frame, region, SIZE, FILL)
    assert isinstance(found, Patch)
    assert found.pixels.shape[0] * 2 == found.pixels.shape[1]
    assert difference(cut_by_torch(found)[0], crop(frame, region, SIZE, FILL)) <= 1


def test_several_at_once_and_finished_ones_among_them():
    frame = FRAMES[ColorOrder.BGR]
    finished = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    patches = [lazy_crop(frame, Region(x, 7.3, side), SIZE, FILL) for x, side in ((-9.7, 40.0), (30.2, 21.5))]
    made = cut_by_torch(patches[0], finished, patches[1])
    np.testing.assert_array_equal(made[1], finished)
    for one, patch in zip(made[[0, 2]], patches, strict=True):
        np.testing.assert_array_equal(one, cut_by_torch(patch)[0])


def test_only_what_was_packed_is_read():
    assert (cut_by_torch(np.zeros((SIZE, SIZE, 3), np.uint8)) == 0).all()
    # A row that was never written to is black, not an access outside of it.
    assert (cut(torch.zeros(2, row_bytes(SIZE), dtype=torch.uint8), SIZE) == 0).all()


@pytest.mark.parametrize("side", [2 * SIZE, 2 * SIZE + 1])
def test_large_sources_are_cut_on_the_cpu(side: int):
    assert MAX_SOURCE == 4
    found = lazy_crop(FRAMES[ColorOrder.RGB], Region(5.0, 6.0, float(side)), SIZE, FILL)
    assert isinstance(found, Patch)
    used = pack(np.zeros(row_bytes(SIZE), np.uint8), found, SIZE)
    uploaded = side if side == 2 * SIZE else SIZE
    assert 0 < used - 3 * uploaded**2 <= 128


def test_other_arrays_are_refused():
    for crop_of in (np.zeros((SIZE, SIZE + 1, 3), np.uint8), np.zeros((SIZE, SIZE, 3), np.float32)):
        with pytest.raises(ValueError, match="a search crop is uint8"):
            pack(np.zeros(row_bytes(SIZE), np.uint8), crop_of, SIZE)


def test_a_patch_is_its_array_to_numpy():
    found = lazy_crop(FRAMES[ColorOrder.BGR], Region(3.5, 4.5, 40.0), SIZE, FILL)
    assert isinstance(found, Patch)
    assert (found.shape, found.dtype) == ((SIZE, SIZE, 3), np.uint8)
    stacked, into = np.stack([found, found]), np.zeros((1, SIZE, SIZE, 3), np.uint8)
    into[0] = found
    for made in (stacked[1], into[0], np.asarray(found)):
        np.testing.assert_array_equal(made, found.array())


def test_nothing_of_the_image_is_a_finished_crop():
    found = lazy_crop(FRAMES[ColorOrder.BGR], Region(500.0, 4.5, 40.0), SIZE, FILL)
    assert isinstance(found, np.ndarray)
    assert (found == np.rint(FILL)).all()
