"""Where a lost target is looked for, and what becomes of a find."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ros2_tracker.tracking.colours import Colours
from ros2_tracker.tracking.family import Appearance, Proposal
from ros2_tracker.tracking.frame import ArrayFrame
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


FRAME = ArrayFrame(np.full((480, 640, 3), 120, np.uint8))


def begin(settings: RecoverySettings = SETTINGS, width: int = 640, height: int = 480) -> Search:
    return Search.begin(PLACE, 10.0, width, height, settings)


def windows_of(search: Search, stamp: float = 10.2, settings: RecoverySettings = SETTINGS) -> tuple[Window, ...]:
    return search.looked(FRAME, stamp, settings)[0]


def test_search_grows_around_the_last_place_and_no_further_than_it_may():
    settings = replace(SETTINGS, growth=1.0, zoom=1.5, windows_per_image=0)
    search = replace(begin(settings), images=2)
    zooms = [windows_of(search, 10.0 + t, settings)[0].zoom for t in (0.0, 0.25, 0.5, 60.0)]
    assert zooms == [1.0, 1.25, 1.5, 1.5]
    seen = []
    for _ in range(100):
        windows, search = search.looked(FRAME, 11.0, settings)
        seen += windows
        search = search.after([found(0.01)], True, None, settings)
    assert set(seen) == {Window(PLACE, 1.0), Window(PLACE, 1.5)}, "there alone, and every other time as closely as ever"


@pytest.mark.parametrize("windows_per_image", [1, 3, 7])
def test_every_window_of_the_sweep_is_looked_into_before_any_comes_again(windows_per_image):
    settings = replace(SETTINGS, windows_per_image=windows_per_image)
    search, seen = begin(settings), []
    while len(seen) < len(search.sweep):
        windows, search = search.looked(FRAME, 10.1, settings)
        assert len(windows) == 1 + windows_per_image
        assert (search.at_place == 0) == (search.images % 2 == 1), "nothing is there: in every other image"
        assert search.at_place is None or windows[0].around == PLACE
        seen += windows if search.at_place is None else windows[1:]
        search = search.after([found(0.01)] * (1 + windows_per_image), True, None, settings)
    assert set(search.sweep) == set(seen[: len(search.sweep)])
    assert {w.zoom for w in seen} == {settings.zoom, math.sqrt(settings.zoom)}


def test_no_more_windows_than_the_image_has():
    settings = replace(SETTINGS, windows_per_image=64)
    assert len(windows_of(begin(settings, 64, 48), 10.0, settings)) == 1 + len(begin(settings, 64, 48).sweep)


@pytest.mark.parametrize("windows_per_image", [1, 2, 5])
def test_half_of_the_windows_are_where_the_targets_colours_are(windows_per_image):
    pixels = np.full((480, 640, 3), 120, np.uint8)
    pixels[385:415, 480:520] = (30, 30, 230)  # BGR
    crop = np.full((64, 64, 3), (230, 30, 30), np.uint8)
    settings = replace(SETTINGS, windows_per_image=windows_per_image)
    search = replace(begin(settings), colours=Colours.of(crop, 0, 0, 64, 64))
    red = sweep = 0
    for _ in range(12):
        windows, search = search.looked(ArrayFrame(pixels), 10.1, settings)
        assert len(windows) <= 1 + windows_per_image
        elsewhere = windows if search.at_place is None else windows[1:]
        near = [w for w in elsewhere if math.dist((w.around.cx, w.around.cy), (500, 400)) < 20 and w.zoom == 1.0]
        red, sweep = red + len(near), sweep + len(elsewhere) - len(near)
        search = search.after([found(0.01)] * len(windows), True, None, settings)
    assert red >= 6
    assert sweep >= 6 * windows_per_image
    assert search.swept == sweep


def test_the_place_is_looked_at_in_every_image_while_something_is_there():
    search = begin()
    for _ in range(6):
        windows, search = search.looked(FRAME, 10.1, SETTINGS)
        assert windows[0].around == PLACE
        search = search.after([found(0.15), found(0.01)], True, None, SETTINGS)


def test_the_place_is_looked_at_beside_a_candidate_until_that_one_is_alike():
    other = Box.from_center(100.0, 300.0, 40.0, 30.0)
    search = replace(begin(), candidate=other)

    def places(likeness: float) -> int:
        looked, count = replace(search, likeness=likeness), 0
        for _ in range(8):
            windows, looked = looked.looked(FRAME, 10.1, SETTINGS)
            assert len(windows) == 2
            assert windows[0] == Window(other)
            assert looked.at_place is None or windows[looked.at_place].around == PLACE
            count += looked.at_place is not None
            looked = looked.after([found(0.5, other), found(0.01)], False, None, SETTINGS)
        return count

    assert places(0.1) == 4
    assert places(0.9) == 0


def test_find_becomes_a_candidate_which_is_looked_at_until_it_disappoints():
    there, moved = (Box.from_center(x, 300.0, 36.0, 30.0) for x in (100.0, 104.0))
    weak = begin().after([found(0.1), found(SETTINGS.candidate_above - 0.01)], True, None, SETTINGS)
    assert weak.candidate is None
    search = weak.after([found(0.1), found(0.5, there)], True, None, SETTINGS)
    assert search.candidate == there
    assert windows_of(search)[0] == Window(there)
    search = search.after([found(0.5, moved), found(0.9)], False, None, SETTINGS)
    assert search.candidate == moved, "one at a time, until more is known of it"
    search = search.after([found(0.6, moved), found(0.5)], True, None, SETTINGS)
    assert search.candidate is None, "what convinces even less is no better"
    assert search.place == PLACE, "the place where it was last trusted is kept"


@pytest.mark.parametrize(
    ("likeness", "score", "yields"), [(0.3, 0.35, True), (0.3, 0.25, False), (0.9, 0.8, False), (0.9, 0.9, True)]
)
def test_candidate_gives_way_to_a_better_find_the_less_alike_the_sooner(likeness, score, yields):
    candidate, other = (Box.from_center(x, 300.0, 40.0, 30.0) for x in (100.0, 300.0))
    settings = replace(SETTINGS, accept_likeness=0.6)
    search = replace(begin(), candidate=candidate, likeness=likeness)
    after = search.after([found(0.6, candidate), found(score, other)], False, None, settings)
    assert after.candidate == (other if yields else candidate)
    assert (after.likeness is None) == yields
    beside = Box.from_center(110.0, 300.0, 40.0, 30.0)
    same = search.after([found(0.6, candidate), found(0.9, beside)], False, None, settings)
    assert same.candidate == candidate, "the same find, seen through another window"


def test_the_box_given_up_in_doubt_is_followed_on_until_it_fades_or_something_better_is_found():
    here, there = Box.from_center(300.0, 120.0, 44.0, 30.0), Box.from_center(100.0, 300.0, 40.0, 30.0)

    def lost(score: float, usual: float = 0.8) -> Search:
        return Search.begin(PLACE, 10.0, 640, 480, SETTINGS, followed=found(score, here), usual=usual)

    assert lost(0.3).candidate is None, "what was found last is hardly there"
    assert Search.begin(PLACE, 10.0, 640, 480, SETTINGS, followed=found(0.9, here)).candidate is None, "unknown"
    moved = Box.from_center(305.0, 121.0, 44.0, 30.0)
    search = lost(0.5)
    for _ in range(5):
        assert search.candidate == here
        search = search.after([found(0.5, moved), found(0.6, there)], True, None, SETTINGS)
        assert search.candidate == moved, "though it is doubted"
        search = replace(search, candidate=here)
    assert search.after([found(0.5, moved), found(0.7, there)], True, None, SETTINGS).candidate == there
    gone = search.after([found(0.3, moved), found(0.01)], True, None, SETTINGS)
    assert gone.candidate is None
    other = gone.after([found(0.01), found(0.5, there)], True, None, SETTINGS)
    assert other.candidate == there
    assert other.after([found(0.5, there), found(0.01)], True, None, SETTINGS).candidate is None, "a find is not"


def test_the_sweep_goes_on_beside_a_candidate_and_another_find_takes_its_place():
    other = Box.from_center(500.0, 400.0, 36.0, 30.0)
    search = begin().after([found(0.5), found(0.1)], True, None, SETTINGS)
    assert search.candidate == PLACE
    (_, *elsewhere), looked = search.looked(FRAME, 10.2, SETTINGS)
    assert tuple(elsewhere) == search.sweep[search.swept : search.swept + 1]
    after = replace(looked, likeness=0.9).after([found(0.3), found(0.4, other)], True, None, SETTINGS)
    assert after.swept == search.swept + 1
    assert after.candidate == other
    assert after.likeness is None, "that was the other one's"


@pytest.mark.parametrize("windows_per_image", [1, 2, 4])
def test_looking_back_takes_the_place_of_a_window_where_there_are_several(windows_per_image):
    settings = replace(SETTINGS, windows_per_image=windows_per_image)
    search = replace(begin(settings), candidate=PLACE, view=Appearance({}))
    assert len(windows_of(search, 10.2, settings)) + 1 <= max(1 + windows_per_image, 3)


def test_only_a_find_that_is_like_what_was_lost_can_be_the_target():
    assert begin().way_back(SETTINGS).after == math.inf, "what a wide search finds is to be looked at first"
    search = begin().after([found(0.5)], True, None, SETTINGS)
    assert search.way_back(SETTINGS).after == math.inf, "its likeness is not known yet"
    assert search.way_back(SETTINGS).guess_after == math.inf
    liked = search.after([found(0.5)], False, SETTINGS.accept_likeness, SETTINGS)
    back = liked.way_back(SETTINGS)
    assert back.above == pytest.approx(0.7), "just alike enough: its box must be surer than accept_above, 0.6"
    assert back[1:] == (SETTINGS.accept_after, SETTINGS.guess_after)
    alike = search.after([found(0.5)], False, 1.0, SETTINGS).way_back(SETTINGS)
    assert alike.after == pytest.approx(SETTINGS.accept_after / 3.0), "the more alike, the sooner"
    assert alike.above == SETTINGS.accept_above
    for _ in range(20):
        liked = liked.after([found(0.5)], False, 0.4, SETTINGS)
    assert liked.likeness == pytest.approx(0.4, abs=0.01), "of its last looks, not of one"
    assert liked.way_back(SETTINGS) == (SETTINGS.accept_above, math.inf, SETTINGS.guess_after)
    for _ in range(20):
        liked = liked.after([found(0.5)], False, 0.1, SETTINGS)
    assert liked.way_back(SETTINGS) == (SETTINGS.accept_above, math.inf, math.inf), "something else: not told at all"


def test_place_outside_the_image_is_searched_inside_it():
    search = Search.begin(Box.from_center(900.0, 700.0, 40.0, 40.0), 0.0, 320, 240, SETTINGS)
    windows = (*search.looked(ArrayFrame(np.zeros((240, 320, 3), np.uint8)), 0.1, SETTINGS)[0], *search.sweep)
    assert all(0 <= w.around.cx <= 320 and 0 <= w.around.cy <= 240 for w in windows)
