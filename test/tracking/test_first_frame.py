"""How the user's box differs from the network's, and that later boxes are drawn like it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ros2_tracker.tracking.family import Drawn
from ros2_tracker.tracking.first_frame import drawn_like, first_places, is_inside
from ros2_tracker.tracking.geometry import Box

BOX = Box.from_center(100.0, 80.0, 40.0, 60.0)
PART = 0.4


def answers(w: float, h: float, count: int = 3) -> list[Box]:
    """The network's box is `w` x `h` times the drawn one, of which its answers hold a part."""
    own_w, own_h = BOX.w * w, BOX.h * h
    mixed = (BOX.w + PART * (own_w - BOX.w), BOX.h + PART * (own_h - BOX.h))
    return [Box.from_center(BOX.cx + 2.0 * i, BOX.cy, *mixed) for i in range(count)]


@given(st.floats(0.7, 1.4), st.floats(0.7, 1.4))
def test_the_networks_own_box_becomes_the_drawn_one(w: float, h: float):
    drawn = drawn_like(BOX, answers(w, h), PART, 1.0)
    assert (drawn.w * w, drawn.h * h) == pytest.approx((1.0, 1.0))


@given(st.floats(0.7, 1.4), st.floats(0.0, 1.0))
def test_half_a_weight_is_half_of_the_logarithm(w: float, weight: float):
    assert drawn_like(BOX, answers(w, 1.0), PART, weight).w == pytest.approx(w**-weight)


def test_answers_of_something_else_do_not_count():
    elsewhere = [Box(400.0, 300.0, 20.0, 20.0)] * 2
    assert drawn_like(BOX, elsewhere, PART, 1.0) == Drawn()
    assert drawn_like(BOX, [*elsewhere, *answers(0.8, 1.0, 1)], PART, 1.0).w == pytest.approx(1.25)


@pytest.mark.parametrize(("w", "expected"), [(0.1, 1.5), (3.0, 1 / 1.5)])
def test_no_ratio_is_beyond_what_a_habit_can_be(w: float, expected: float):
    assert drawn_like(BOX, answers(w, 1.0, 1), 1.0, 1.0).w == pytest.approx(expected)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (Box(0, 0, 320, 240), True),
        (Box(-1, 10, 50, 50), False),
        (Box(10, 200, 50, 50), False),
        (Box(290, 0, 31, 9), False),
    ],
)
def test_a_box_is_inside_where_all_of_it_can_be_seen(box: Box, expected: bool):
    assert is_inside(box, 320, 240) is expected


def test_the_frame_is_looked_at_from_the_target_and_from_all_sides():
    first, *others = first_places(BOX)
    assert first == BOX
    assert all((each.w, each.h) == (BOX.w, BOX.h) for each in others)
    sides = {(each.x > BOX.x, each.y > BOX.y) for each in others}
    assert sides == {(True, True), (True, False), (False, True), (False, False)}
