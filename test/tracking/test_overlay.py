"""What is drawn for people."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ros2_tracker.tracking.overlay import STATE_COLORS, draw_footer, draw_target
from ros2_tracker.tracking.result import TrackState

NAN = math.nan


def near(image: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Which pixels have about this colour."""
    return np.abs(image.astype(int) - color).max(axis=2) < 30


@pytest.mark.parametrize("background", [0, 128, 255])
@pytest.mark.parametrize("state", [TrackState.TRACKING, TrackState.UNCERTAIN])
def test_box_is_drawn_where_it_is_in_the_colour_of_its_state(state: TrackState, background: int):
    image = np.full((480, 640, 3), background, np.uint8)
    draw_target(image, "a", (200, 150, 120, 90), 0.8, state)
    drawn = near(image, STATE_COLORS[state])
    for row, column in ((150, 260), (240, 260), (195, 200), (195, 320)):
        assert drawn[row - 2 : row + 3, column - 2 : column + 3].any()
    assert (image[170:220, 220:300] == background).all(), "the target itself stays visible"


def test_lost_target_is_hinted_at_with_dashes():
    image = np.full((480, 640, 3), 128, np.uint8)
    draw_target(image, "a", None, 0.05, TrackState.LOST, candidate=(200, 150, 120, 90))
    top = near(image, STATE_COLORS[TrackState.LOST])[147:154, 200:320].any(axis=0)
    assert 0.2 < top.mean() < 0.9
    assert np.abs(np.diff(top.astype(int))).sum() >= 4


def test_bar_shows_the_reliability():
    lengths = []
    for reliability in (0.0, 0.3, 0.9, 1.0):
        image = np.full((480, 640, 3), 128, np.uint8)
        draw_target(image, "", (200, 150, 200, 90), reliability, TrackState.TRACKING)
        lengths.append(near(image, STATE_COLORS[TrackState.TRACKING])[246:250].any(axis=0).sum())
    assert lengths == sorted(lengths)
    assert lengths[1] == pytest.approx(60, abs=4)
    assert lengths[3] == pytest.approx(200, abs=4)


def test_truth_is_drawn_and_left_out_when_unknown():
    plain, with_truth, unknown = (np.full((240, 320, 3), 128, np.uint8) for _ in range(3))
    box = (100, 80, 60, 40)
    draw_target(plain, "a", box, 0.9, TrackState.TRACKING)
    draw_target(with_truth, "a", box, 0.9, TrackState.TRACKING, truth=(120, 90, 60, 70))
    draw_target(unknown, "a", box, 0.9, TrackState.TRACKING, truth=(NAN,) * 4)
    assert (plain != with_truth).any()
    np.testing.assert_array_equal(plain, unknown)


def test_latency_and_id_are_in_the_label():
    images = []
    for target_id, latency_s in (("a", None), ("b", None), ("a", 0.012)):
        image = np.full((240, 320, 3), 128, np.uint8)
        draw_target(image, target_id, (100, 80, 60, 40), 0.9, TrackState.TRACKING, latency_s=latency_s)
        images.append(image)
    assert (images[0] != images[1]).any()
    assert (images[0] != images[2]).any()


@pytest.mark.parametrize("shape", [(1, 1), (30, 30), (7, 300), (300, 7), (96, 96), (2160, 3840)])
@pytest.mark.parametrize("state", list(TrackState))
@pytest.mark.parametrize(
    "box",
    [
        (3, 3, 10, 10),
        (-20, -20, 40, 40),
        (-1e9, -1e9, 2e9, 2e9),
        (1e7, 1e7, 5, 5),
        (5, 5, 1e-6, 1e-6),
        (NAN, 1, 1, 1),
        (0, 0, 0, 0),
        None,
    ],
    ids=str,
)
def test_nothing_fails(shape: tuple[int, int], state: TrackState, box: tuple | None):
    image = np.zeros((*shape, 3), np.uint8)
    draw_target(image, "täg\n", box, NAN, state, candidate=box, truth=box, latency_s=1e9)
    draw_footer(image, ["x" * 500, "", "ü"] * 10)


def test_text_is_left_out_of_tiny_images():
    image = np.zeros((60, 60, 3), np.uint8)
    draw_footer(image, ["frame 12"])
    assert not image.any()


def test_footer_keeps_to_the_lower_half():
    image = np.zeros((240, 320, 3), np.uint8)
    draw_footer(image, [f"line {i}" for i in range(50)])
    assert image[200:].any()
    assert not image[:115].any()


def test_the_rim_of_a_text_ends_where_the_text_ends():
    plain, written = (np.full((240, 640, 3), 128, np.uint8) for _ in range(2))
    draw_footer(plain, [" "])
    draw_footer(written, ["frame 12, target TRACKING 97%, 12.3 ms"])
    lighter = np.flatnonzero((written.astype(int) - plain).max(axis=(0, 2)) > 60)
    darker = np.flatnonzero((plain.astype(int) - written).max(axis=(0, 2)) > 10)
    assert lighter[0] - 4 <= darker[0]
    assert darker[-1] <= lighter[-1] + 4
