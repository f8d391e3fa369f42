"""A box around a click: the object under it where one can be told, else a square of the default size."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not there")

from scene import SIDE, box_at, iou, render

from ros2_tracker.ros.click_proposal import propose
from ros2_tracker.tracking.frame import ArrayFrame, ColorOrder, frame_from_array

AT = (150, 90)
BUDGET_S = 60.0
"""The test machine's patience: what is found must not depend on its speed."""


@pytest.mark.parametrize("dx", [-4, 0, 4])
@pytest.mark.parametrize("dy", [-4, 0, 4])
def test_box_is_that_of_the_object_under_the_click(dx: int, dy: int):
    frame = frame_from_array(render(AT))
    proposal = propose(frame, AT[0] + SIDE / 2 + dx, AT[1] + SIDE / 2 + dy, 0.3, BUDGET_S)
    assert proposal.found
    assert iou(proposal.box, box_at(*AT)) > 0.7


def test_object_of_a_large_image_is_found_as_well():
    image = np.kron(render(AT), np.ones((6, 6, 1), np.uint8))
    proposal = propose(frame_from_array(image), 6 * (AT[0] + 20.0), 6 * (AT[1] + 20.0), 0.15, BUDGET_S)
    assert proposal.found
    assert iou(proposal.box, tuple(6 * value for value in box_at(*AT))) > 0.7


def test_two_clicks_on_one_place_give_one_box():
    frame = frame_from_array(render(AT))
    assert propose(frame, 170, 110, 0.15, BUDGET_S) == propose(frame, 170, 110, 0.15, BUDGET_S)


@pytest.mark.parametrize("image", ["flat", "noise"])
def test_default_size_where_nothing_is_found(image: str):
    pixels = np.full((240, 320, 3), 90, np.uint8)
    if image == "noise":
        pixels = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    proposal = propose(frame_from_array(pixels), 100.0, 60.0, 0.2, BUDGET_S)
    assert not proposal.found
    assert proposal.box == pytest.approx((76.0, 36.0, 48.0, 48.0))


def test_no_time_means_the_default_size():
    assert not propose(frame_from_array(render(AT)), 170, 110, 0.15, 0.0).found


@pytest.mark.parametrize(("x", "y"), [(0, 0), (320, 240), (319.9, 0.2), (0, 240)])
def test_corners_of_the_image_can_be_clicked(x: float, y: float):
    assert all(math.isfinite(value) for value in propose(frame_from_array(render(AT)), x, y, 0.15, BUDGET_S).box)


@pytest.mark.parametrize("shape", [(1, 1), (2, 300), (300, 2), (20, 20)])
def test_small_images_can_be_clicked(shape: tuple[int, int]):
    frame = ArrayFrame(np.zeros(shape, np.uint8), ColorOrder.GRAY)
    box = propose(frame, shape[1] / 2, shape[0] / 2, 0.15, BUDGET_S).box
    assert box[2] >= 2.0
    assert box[3] >= 2.0


def test_grey_images_and_views_on_the_cameras_buffer_are_read_and_not_written():
    pixels = np.ascontiguousarray(render(AT)[..., 1])
    pixels.flags.writeable = False
    proposal = propose(ArrayFrame(pixels, ColorOrder.GRAY), AT[0] + 20.0, AT[1] + 20.0, 0.15, BUDGET_S)
    assert proposal.found
