"""Whether the target as it was is found with a find as template."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ros2_tracker.tracking.crop import Region
from ros2_tracker.tracking.family import Appearance, Look, Proposal
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.likeness import Memories, Remembered

BOX = Box.from_center(100.0, 80.0, 20.0, 20.0)
SEARCH = np.zeros((64, 64, 3), np.uint8)
LOOK = Look({"template": np.zeros(3), "search": SEARCH}, Region.around(BOX, 4.0), BOX, 320, 240)
PAST = Remembered(1.0, LOOK, BOX, 0.8, 0.8)
MIDDLE = PAST.middle()
MAP = np.zeros((1, 16, 16), np.float32)


def answer(score: float, box: Box = BOX) -> Proposal:
    return Proposal(box, score, MAP, ((8, 8),))


def test_the_past_is_asked_with_the_finds_look_as_template():
    find = np.ones(3)
    asked = PAST.asked_with(Appearance({"template": find}))
    assert asked.inputs["template"] is find
    assert asked.inputs["search"] is SEARCH
    assert (asked.region, asked.last) == (LOOK.region, LOOK.last)
    assert LOOK.inputs["template"] is not find


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_likeness_is_a_share_and_grows_with_both_scores(forward, backward, own):
    past = PAST._replace(score=own, own=own)
    likeness = past.likeness(LOOK, answer(forward), answer(backward), MIDDLE)
    assert 0.0 <= likeness <= 1.0
    assert past.likeness(LOOK, answer(min(forward + 0.1, 1.0)), answer(backward), MIDDLE) >= likeness
    assert past.likeness(LOOK, answer(forward), answer(min(backward + 0.1, 1.0)), MIDDLE) >= likeness


def test_what_scores_as_the_target_did_is_like_it():
    assert PAST.likeness(LOOK, answer(0.8), answer(0.8), MIDDLE) == pytest.approx(1.0)
    assert PAST.likeness(LOOK, answer(0.95), answer(0.2), MIDDLE) == pytest.approx(0.5)
    beside = answer(0.9, Box.from_center(140.0, 80.0, 20.0, 20.0))
    assert PAST.likeness(LOOK, answer(0.8), beside, MIDDLE) == 0.0, "something beside it"


def test_what_was_learnt_is_in_the_finds_score_alone():
    """The past is asked without it."""
    past = PAST._replace(score=0.8, own=0.5)
    assert past.likeness(LOOK, answer(0.8), answer(0.5), MIDDLE) == pytest.approx(1.0)


def test_likeness_is_multiplied_by_what_the_colours_in_the_middle_have_in_common():
    # The box is a quarter of the region's side: 16 of 64 px; its middle is 10 of them.
    seen = SEARCH.copy()
    seen[24:40, 24:40] = 240
    seen[27:37, 27:32] = 0
    look = Look({"search": seen}, LOOK.region, BOX, 320, 240)
    same = answer(0.8)
    assert PAST.likeness(look, same, same, MIDDLE) == pytest.approx(np.sqrt(0.5), abs=0.02), "half of it is black"
    seen[24:40, 24:40] = 240
    assert PAST.likeness(look, same, same, MIDDLE) == 0.0
    seen[27:37, 27:37] = 0
    assert PAST.likeness(look, same, same, MIDDLE) == pytest.approx(1.0), "what is at the edges does not count"
    features = Look({"search": np.zeros((1, 8), np.float32)}, LOOK.region, BOX, 320, 240)
    assert PAST.likeness(features, same, same, MIDDLE) == pytest.approx(1.0), "no pixels, no colours"


def test_colours_are_those_of_the_box_in_the_remembered_crop():
    search = np.full((64, 64, 3), 20, np.uint8)
    search[24:40, 24:40] = 240  # the box is a quarter of the region's side
    past = PAST._replace(look=Look({"search": search}, LOOK.region, BOX, 320, 240))
    assert past.colours().shares[63] == pytest.approx(1.0)
    features = PAST._replace(look=Look({"search": np.zeros((1, 8), np.float32)}, LOOK.region, BOX, 320, 240))
    assert features.colours() is None
    assert features.middle() is None
    assert features.likeness(LOOK, answer(0.8), answer(0.8), None) == pytest.approx(1.0)


def after(memories: Memories, *stamps: float) -> Memories:
    """After frames of high reliability."""
    for stamp in stamps:
        if memories.wants(stamp):
            memories = memories.with_view(PAST._replace(stamp=stamp))
    return memories


def test_a_view_counts_once_reliability_has_stayed_up_after_it():
    memories = Memories()
    assert memories.best is None
    for i in range(31):
        memories = after(memories, i / 30)
        if i / 30 > 0.3:
            assert 0.2 < i / 30 - memories.best.stamp < 0.6, "a while ago, and not long"
    proven = memories.best.stamp
    memories = memories.doubted()
    assert memories.best.stamp == proven
    memories = after(after(memories, 2.0).doubted(), 2.2)
    assert memories.best.stamp == proven, "nothing since was"
    assert after(memories, 2.5).best.stamp == pytest.approx(2.2)


def test_a_view_that_is_not_proven_is_better_than_none():
    assert after(Memories(), 0.1).doubted().best.stamp == 0.1


def test_a_jump_back_in_time_does_not_keep_an_old_view_for_ever():
    memories = after(Memories(), 100.0, 5.0, 5.6)
    assert memories.best.stamp == 5.0
