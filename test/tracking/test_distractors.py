"""Look-alikes are followed by their motion, and do not take the target's place when paths cross."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ros2_tracker.tracking.crop import Region
from ros2_tracker.tracking.distractors import LookAlikes, Second, second_answer
from ros2_tracker.tracking.family import Look, Proposal
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.score_map import MapShape
from ros2_tracker.tracking.settings import DistractorSettings

SETTINGS = DistractorSettings(above=0.3, memory=0.5)
CELLS = 16
REGION = Region(100.0, 50.0, 160.0)
LOOK = Look({}, REGION, Box.from_center(180.0, 130.0, 40.0, 40.0), 640, 480)
DT = 1 / 30
EMPTY = np.zeros((1, CELLS, CELLS), np.float32)


def place_of(row: int, column: int) -> tuple[float, float]:
    return (REGION.x + (column + 0.5) * 10.0, REGION.y + (row + 0.5) * 10.0)


def answer(peaks: dict[tuple[int, int], float]) -> Proposal:
    """A map of single cells; the highest is the network's answer, 40x40 px."""
    score_map = np.zeros((CELLS, CELLS), np.float32)
    for cell, score in peaks.items():
        score_map[cell] = score
    best = max(peaks, key=peaks.__getitem__)
    return Proposal(Box.from_center(*place_of(*best), 40.0, 40.0), peaks[best], score_map[None], (best,))


def second_of(found: Proposal) -> Second | None:
    return second_answer(found, MapShape(found.score_maps[0], found.cells[0]), LOOK, SETTINGS)


def test_second_answer_is_the_best_outside_the_box():
    second = second_of(answer({(8, 8): 0.9, (9, 9): 0.8, (3, 12): 0.5, (14, 1): 0.4}))
    assert second is not None
    assert second.cell == (3, 12)
    assert (second.x, second.y) == place_of(3, 12)
    assert second.score == pytest.approx(0.5)


@pytest.mark.parametrize("peaks", [{(8, 8): 0.9}, {(8, 8): 0.9, (2, 2): 0.26}, {(8, 8): 0.2, (2, 2): 0.09}])
def test_weak_second_answers_are_noise(peaks):
    assert second_of(answer(peaks)) is None


@given(
    npst.arrays(np.float32, (CELLS, CELLS), elements=st.floats(0.0, 0.015625, width=32)),
    st.tuples(st.integers(0, CELLS - 1), st.integers(0, CELLS - 1)),
    st.floats(0.05, 0.3),
    st.sampled_from([12.0, 40.0, 90.0]),
)
def test_second_answer_is_never_missed(score_map: np.ndarray, other: tuple[int, int], score: float, side: float):
    # It is not looked for where the map's sums rule it out.
    row, column = 8, 7
    score_map[other] = score
    score_map[row, column] = 0.5
    found = Proposal(Box.from_center(*place_of(row, column), side, side), 0.5, score_map[None], ((row, column),))
    reach = math.ceil(0.05 * side)
    outside = [
        float(score_map[r, c])
        for r in range(CELLS)
        for c in range(CELLS)
        if abs(r - row) > reach or abs(c - column) > reach
    ]
    second, highest = second_of(found), max(outside)
    assert (second is not None) == (highest >= 0.15)
    assert second is None or second.score == pytest.approx(highest)


def seen(x: float, y: float) -> Second:
    return Second((0, 0), x, y, 0.5)


def followed(path: list[tuple[float, float]]) -> LookAlikes:
    known = LookAlikes()
    for i, (x, y) in enumerate(path):
        known = known.after(seen(x, y), 40.0, i * DT, SETTINGS)
    return known


def test_look_alike_that_crosses_is_expected_where_it_goes_and_not_taken_for_the_target():
    known = followed([(300.0 - 8 * i, 130.0) for i in range(10)])
    now, expected = 10 * DT, (200.0, 130.0)
    on_it = Proposal(Box.from_center(221.0, 130.0, 40.0, 40.0), 0.9, EMPTY, ((8, 8),))
    assert known.usurped(on_it, seen(197.0, 130.0), expected, 40.0, now)
    assert not known.usurped(on_it, None, expected, 40.0, now), "nothing else to choose"
    assert not known.usurped(on_it, seen(260.0, 130.0), expected, 40.0, now), "the other one is further off"
    target = Proposal(Box.from_center(202.0, 130.0, 40.0, 40.0), 0.9, EMPTY, ((8, 8),))
    assert not known.usurped(target, seen(221.0, 130.0), expected, 40.0, now), "the target is the nearer one"


def test_one_that_was_seen_twice_is_not_known_yet():
    known = followed([(300.0, 130.0), (292.0, 130.0)])
    proposal = Proposal(Box.from_center(284.0, 130.0, 40, 40), 0.9, EMPTY, ((8, 8),))
    assert not known.usurped(proposal, seen(200.0, 130.0), (200.0, 130.0), 40.0, 2 * DT)


def test_unseen_ones_are_forgotten_and_many_are_bounded():
    known = followed([(300.0, 130.0)] * 5)
    assert known.after(None, 40.0, 4 * DT + 0.4, SETTINGS).known
    assert not known.after(None, 40.0, 4 * DT + 0.6, SETTINGS).known
    for i in range(50):
        known = known.after(seen(1000.0 * i, 0.0), 40.0, 4 * DT, SETTINGS)
    assert len(known.known) <= 4
