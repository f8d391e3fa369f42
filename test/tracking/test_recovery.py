"""Where a lost target is looked for, and what becomes of a find."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ros2_tracker.tracking.family import Proposal
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.recovery import Search, Window, sweep_centers
from ros2_tracker.tracking.settings import RecoverySettings

PLACE = Box.from_center(400.0, 100.0, 40.0, 30.0)
SETTINGS = RecoverySettings()
MAP = np.zeros((1, 16, 16), np.float32)


def found(score: float, box: Box = PLACE) -> Proposal:
    return Proposal(box, score, MAP, ((8, 8),))


boxes = st.builds(
    Box.from_center, st.floats(-100, 2100), st.floats(-100, 1200), st.floats(2.0, 800.0), st.floats(2.0, 800.0)
)


@given(boxes, st.integers(16, 2000), st.integers(16, 1100), st.floats(1.0, 3.0), st.floats(0, 1), st.floats(0, 1))
def test_sweep_covers_the_image_and_the_middle_of_some_window_shows_every_place(box, width, height, zoom, u, v):
    centers = sweep_centers(box, width, height, zoom)
    assert 1 <= len(centers) <= 16 * 16
    distances = [math.dist(c, (box.cx, box.cy)) for c in centers]
    assert distances == sorted(distances)
    side = 4.0 * zoom * max(box.size, 2.0)
    if max(width, height) > 16 * side / 2:
        return  # too small a target for the whole image: bounded
    x, y = u * width, v * height
    assert any(abs(x - cx) <= side / 4 + 1e-6 and abs(y - cy) <= side / 4 + 1e-6 for cx, cy in centers)


def test_tiny_target_in_a_large_image_is_searched_around_its_place_in_bounded_time():
    centers = sweep_centers(Box.from_center(1000.0, 500.0, 3.0, 3.0), 1920, 1080, 1.5)
    assert len(centers) == 256
    assert max(math.dist(c, (1000.0, 500.0)) for c in centers) < 150


def begin(settings: RecoverySettings = SETTINGS, width: int = 640, height: int = 480) -> Search:
    return Search.begin(PLACE, 10.0, 0.9, width, height, settings)


def test_search_grows_around_the_last_place_and_no_further_than_it_may():
    settings = replace(SETTINGS, growth=1.0, zoom=1.5, windows_per_image=0)
    search = begin(settings)
    zooms = [search.windows(10.0 + t, settings)[0].zoom for t in (0.0, 0.25, 0.5, 60.0)]
    assert zooms == [1.0, 1.25, 1.5, 1.5]
    for _ in range(100):
        assert search.windows(11.0, settings) == (Window(PLACE, 1.5),), "it is looked for there alone"
        search = search.after([found(0.01)], True, settings)


@pytest.mark.parametrize("windows_per_image", [1, 3, 7])
def test_every_window_of_the_sweep_is_looked_into_before_any_comes_again(windows_per_image):
    settings = replace(SETTINGS, windows_per_image=windows_per_image)
    search, seen = begin(settings), []
    while len(seen) < len(search.sweep):
        here, *elsewhere = search.windows(10.1, settings)
        assert here.around == PLACE
        assert len(elsewhere) == windows_per_image
        seen += elsewhere
        search = search.after([found(0.01)] * (1 + windows_per_image), True, settings)
    assert set(search.sweep) == set(seen[: len(search.sweep)])
    assert {w.zoom for w in seen} == {settings.zoom, math.sqrt(settings.zoom)}


def test_no_more_windows_than_the_image_has():
    settings = replace(SETTINGS, windows_per_image=64)
    assert len(begin(settings, 64, 48).windows(10.0, settings)) == 1 + len(begin(settings, 64, 48).sweep)


def test_find_becomes_a_candidate_which_is_looked_at_until_it_disappoints():
    there, moved = (Box.from_center(x, 300.0, 36.0, 30.0) for x in (100.0, 104.0))
    weak = begin().after([found(0.1), found(SETTINGS.candidate_above - 0.01)], True, SETTINGS)
    assert weak.candidate is None
    search = weak.after([found(0.1), found(0.5, there)], True, SETTINGS)
    assert search.candidate == there
    assert search.windows(10.2, SETTINGS)[0] == Window(there)
    search = search.after([found(0.5, moved), found(0.9)], False, SETTINGS)
    assert search.candidate == moved, "one at a time"
    search = search.after([found(0.6, moved), found(0.05)], True, SETTINGS)
    assert search.candidate is None
    assert search.place == PLACE, "the place where it was last trusted is kept"


def test_the_sweep_goes_on_beside_a_candidate_and_another_find_takes_its_place():
    other = Box.from_center(500.0, 400.0, 36.0, 30.0)
    search = begin().after([found(0.5), found(0.1)], True, SETTINGS)
    assert search.candidate == PLACE
    assert search.windows(10.2, SETTINGS)[1:] == search.sweep[search.swept : search.swept + 1]
    after = search.after([found(0.6), found(0.4, other)], True, SETTINGS)
    assert after.swept == search.swept + 1
    assert after.candidate == other


@pytest.mark.parametrize(("score", "times"), [(0.68, 1.0), (0.67, 10.0)])
def test_candidate_that_convinces_less_than_the_target_did_must_last_longer(score, times):
    search = begin().after([found(0.5)], True, SETTINGS)
    assert search.score == 0.9
    assert search.way_back(score, SETTINGS) == (SETTINGS.accept_above, pytest.approx(times * SETTINGS.accept_after))
    assert begin().way_back(1.0, SETTINGS).above > 1.0, "what a wide search finds is to be looked at first"


def test_place_outside_the_image_is_searched_inside_it():
    search = Search.begin(Box.from_center(900.0, 700.0, 40.0, 40.0), 0.0, 0.9, 320, 240, SETTINGS)
    windows = (*search.windows(0.1, SETTINGS), *search.sweep)
    assert all(0 <= w.around.cx <= 320 and 0 <= w.around.cy <= 240 for w in windows)
