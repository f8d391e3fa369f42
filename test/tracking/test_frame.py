import numpy as np
import pytest

from ros2_tracker.tracking.frame import ArrayFrame, ColorOrder, frame_from_array, to_bgr, to_rgb

RED = {
    ColorOrder.BGR: (0, 0, 255),
    ColorOrder.RGB: (255, 0, 0),
    ColorOrder.BGRA: (0, 0, 255, 7),
    ColorOrder.RGBA: (255, 0, 0, 7),
}


@pytest.mark.parametrize("order", RED)
def test_red_stays_red(order):
    pixels = np.full((3, 4, order.channels), RED[order], np.uint8)
    assert (to_rgb(pixels, order) == (255, 0, 0)).all()
    assert (to_bgr(pixels, order) == (0, 0, 255)).all()
    assert to_rgb(pixels, order).shape == to_bgr(pixels, order).shape == (3, 4, 3)


def test_grey_is_repeated():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for converted in (to_rgb(pixels, ColorOrder.GRAY), to_bgr(pixels, ColorOrder.GRAY)):
        np.testing.assert_array_equal(converted, np.dstack([pixels] * 3))


def test_conversion_leaves_the_source_alone():
    pixels = np.full((3, 4, 3), (1, 2, 3), np.uint8)
    to_rgb(pixels, ColorOrder.BGR)[:] = 0
    assert (pixels == (1, 2, 3)).all()


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (ColorOrder.RGB, (10.0, 20.0, 30.0)),
        (ColorOrder.BGR, (30.0, 20.0, 10.0)),
        (ColorOrder.RGBA, (10.0, 20.0, 30.0, 255.0)),
        (ColorOrder.BGRA, (30.0, 20.0, 10.0, 255.0)),
    ],
)
def test_fill_value_follows_the_order(order, expected):
    assert order.fill_value((10.0, 20.0, 30.0)) == expected


def test_fill_value_of_grey_is_luma():
    assert ColorOrder.GRAY.fill_value((100.0, 200.0, 50.0)) == pytest.approx((0.299 * 100 + 0.587 * 200 + 0.114 * 50,))


@pytest.mark.parametrize("order", ColorOrder)
def test_region_is_a_view_with_the_pixels_asked_for(order):
    shape = (5, 7) if order is ColorOrder.GRAY else (5, 7, order.channels)
    pixels = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    frame = ArrayFrame(pixels, order)
    assert (frame.height, frame.width) == (5, 7)
    region, region_order = frame.region(2, 1, 6, 5)
    assert region_order is order
    assert np.shares_memory(region, pixels)
    np.testing.assert_array_equal(region, pixels[1:5, 2:6])
    np.testing.assert_array_equal(frame.bgr(), to_bgr(pixels, order))


def test_bgr_array_is_not_copied():
    image = np.zeros((4, 6, 3), np.uint8)
    frame = frame_from_array(image)
    assert frame.bgr() is image
    assert (frame.height, frame.width, frame.order) == (4, 6, ColorOrder.BGR)


def test_frame_cannot_be_changed():
    frame = frame_from_array(np.zeros((4, 6, 3), np.uint8))
    with pytest.raises(AttributeError):
        frame.pixels = None


@pytest.mark.parametrize(
    ("image", "named"),
    [
        (np.zeros((4, 6), np.uint8), r"\(4, 6\)"),
        (np.zeros((4, 6, 4), np.uint8), r"\(4, 6, 4\)"),
        (np.zeros((1, 4, 6, 3), np.uint8), r"\(1, 4, 6, 3\)"),
        (np.zeros((4, 6, 3), np.float32), "float32"),
        (np.zeros((4, 6, 3), np.int8), "int8"),
        (np.zeros((0, 6, 3), np.uint8), r"\(0, 6, 3\)"),
        (np.zeros((4, 0, 3), np.uint8), r"\(4, 0, 3\)"),
        ([[[0, 0, 0]]], "list"),
        (None, "NoneType"),
    ],
)
def test_other_arrays_are_refused_by_name(image, named):
    with pytest.raises(ValueError, match=named):
        frame_from_array(image)
