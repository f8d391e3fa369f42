"""Boxes: their arithmetic and what is refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ros2_tracker.tracking.geometry import (
    Box,
    BoxError,
    BoxOutsideImageError,
    checked_box,
    iou,
    kept_in_image,
)

coordinates = st.floats(-500, 500)
sides = st.floats(0.5, 500)
boxes = st.builds(Box, coordinates, coordinates, sides, sides)


def test_centre_and_size():
    box = Box(10, 20, 30, 40)
    assert (box.cx, box.cy) == (25, 40)
    assert box.size == pytest.approx(math.sqrt(1200))
    assert Box.from_center(25, 40, 30, 40) == box
    assert box.as_tuple() == (10, 20, 30, 40)


@given(boxes, boxes)
def test_iou_is_symmetric_and_bounded(a: Box, b: Box):
    assert iou(a, b) == pytest.approx(iou(b, a))
    assert 0.0 <= iou(a, b) <= 1.0 + 1e-9


@given(boxes)
def test_iou_with_itself_is_one(box: Box):
    assert iou(box, box) == pytest.approx(1.0)


def test_iou_by_hand():
    assert iou(Box(0, 0, 10, 10), Box(5, 0, 10, 10)) == pytest.approx(50 / 150)
    assert iou(Box(0, 0, 10, 10), Box(10, 0, 10, 10)) == 0.0


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ((1, 2, 3), "(1, 2, 3)"),
        ((1, 2, 3, 4, 5), "(1, 2, 3, 4, 5)"),
        (("a", 2, 3, 4), "'a'"),
        ((math.nan, 2, 3, 4), "nan"),
        ((1, 2, math.inf, 4), "inf"),
        ((1, 2, 0, 4), "(1, 2, 0, 4)"),
        ((1, 2, 3, -4), "-4"),
        ((-1e7, 2, 2e7, 4), "2e+07"),
    ],
)
def test_invalid_box_is_named(values: tuple, named: str):
    with pytest.raises(BoxError) as refused:
        checked_box(values, 640, 480)
    assert named in str(refused.value)
    assert not isinstance(refused.value, BoxOutsideImageError)


@pytest.mark.parametrize("values", [(-100, 0, 50, 50), (638.5, 10, 50, 50), (0, 480, 50, 50), (10, 10, 1.9, 50)])
def test_box_without_2x2_px_in_the_image_is_refused(values: tuple):
    with pytest.raises(BoxOutsideImageError, match="2x2 px inside the 640x480 image"):
        checked_box(values, 640, 480)


@pytest.mark.parametrize("values", [(0, 0, 640, 480), (-48, -48, 50, 50), (638, 478, 50, 50), (-1e5, -1e5, 2e5, 2e5)])
def test_box_reaching_beyond_the_border_is_accepted_unchanged(values: tuple):
    assert checked_box(values, 640, 480).as_tuple() == values


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(-10, 1e6), st.floats(-10, 1e6))
def test_kept_box_has_its_centre_in_the_image(x: float, y: float, w: float, h: float):
    kept = kept_in_image(Box(x, y, w, h), 320, 240)
    assert -1e-6 <= kept.cx <= 320 + 1e-6
    assert -1e-6 <= kept.cy <= 240 + 1e-6
    assert 2.0 <= kept.w <= 640
    assert 2.0 <= kept.h <= 480


def test_box_in_the_image_is_kept_as_it_is():
    kept = kept_in_image(Box(-5, 230, 30, 20), 320, 240)
    assert kept.as_tuple() == pytest.approx((-5, 230, 30, 20))
