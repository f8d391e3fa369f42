"""How a disappearance is judged, on runs written down by hand. 10 frames a second."""

from __future__ import annotations

import numpy as np
import pytest

from ros2_tracker.evaluation.disappearance import Disappearance
from ros2_tracker.evaluation.reliability_events import EventOutcome, RunFrames, event_figures, judge
from ros2_tracker.tracking.result import TrackState

FPS = 10.0
STATES = {"T": TrackState.TRACKING, "U": TrackState.UNCERTAIN, "L": TrackState.LOST}
# What the box is on: the target, half of it, something else; ? is not scored, - is without target.
IOU = {"o": 0.8, "h": 0.3, "x": 0.0, "?": np.nan, "-": np.nan}


def outcome(states: str, boxes: str, event: tuple[int, int] | None = None) -> EventOutcome:
    absent = np.array([each == "-" for each in boxes])
    first, last = event or (int(np.argmax(absent)), len(absent) - 1 - int(np.argmax(absent[::-1])))
    run = RunFrames(np.array([STATES[each] for each in states], int), np.array([IOU[each] for each in boxes]), absent)
    (found,) = judge(run, "clip", [Disappearance("black", first, last)], FPS)
    return found


def test_as_it_should_be():
    found = outcome("TTTTTTUULLLLLLLLLUTTTTTTTTTTTT", "ooooo??" + "-" * 11 + "o" * 12)
    assert found.followed
    assert found.warned_s == 0.0
    assert found.lost_s == pytest.approx(0.1)
    assert found.back == 18
    assert found.recovered_s == 0.0
    assert found.judged_recovery
    assert not found.wrong_recovery
    assert found.lost_in_time
    assert found.recovered_in_time


def test_a_loss_admitted_late_and_a_target_found_late():
    found = outcome("TTTTT" + "TTTTTTTULL" + "LLLLLLLLLLLLTTT", "ooooo" + "-" * 10 + "x" * 10 + "ooooo")
    assert found.warned_s == pytest.approx(0.7)
    assert found.lost_s == pytest.approx(0.8)
    assert not found.lost_in_time
    assert found.recovered_s == pytest.approx(1.2)
    assert not found.recovered_in_time
    assert not found.wrong_recovery


def test_a_loss_never_admitted():
    found = outcome("TTTTT" + "T" * 10 + "T" * 12, "ooooo" + "-" * 10 + "x" * 12)
    assert np.isnan(found.lost_s)
    assert np.isnan(found.recovered_s)
    assert found.judged_recovery
    # There was no LOST to recover from; it is false tracking.
    assert not found.wrong_recovery


@pytest.mark.parametrize(
    ("states", "boxes", "wrong"),
    [
        ("LLLTTLLLLL" + "LLTTTTTTTTTT", "-" * 10 + "o" * 12, True),  # while the target was away
        ("LLLLLLLLLL" + "LLTTTTTTTTTT", "-" * 10 + "x" * 12, True),  # on something else
        ("LLLLLLLLLL" + "LLTTTTTTTTTT", "-" * 10 + "h" * 12, False),  # neither right nor wrong
        ("LLLLLLLLLL" + "LLTTTTTTTTTT", "-" * 10 + "o" * 6 + "x" * 6, False),  # found, and lost later
        ("TTTTTTTTTT" + "TTTTTTTTTTTT", "-" * 10 + "x" * 12, False),  # never LOST
    ],
)
def test_wrong_recoveries(states: str, boxes: str, wrong: bool):
    assert outcome("TTTTT" + states, "ooooo" + boxes).wrong_recovery is wrong


def test_only_who_followed_is_judged():
    assert not outcome("TTTTT" + "L" * 10, "xxxxx" + "-" * 10).followed
    assert not outcome("LLLLL" + "L" * 10, "ooooo" + "-" * 10).followed
    # The last frames before may be half covered.
    assert outcome("TTTTTTTTUL" + "L" * 10, "oooooooohh" + "-" * 10).followed
    assert outcome("TTTTTTTTUL" + "L" * 10, "oooooooohh" + "-" * 10).lost_s == 0.0


def test_too_short_a_return_is_not_judged():
    assert not outcome("TTTTT" + "LLLLL" + "LLLLL", "ooooo" + "-----" + "xxxxx").judged_recovery
    assert outcome("TTTTT" + "LLLLL" + "LLLTT", "ooooo" + "-----" + "ooooo").judged_recovery
    assert outcome("TTTTT" + "LLLLL", "ooooo" + "-----").back is None


def test_several_in_one_run():
    boxes = "ooooo" + "-----" + "ooooo" + "-----" + "ooooo"
    states = "TTTTT" + "TLLLL" + "LLTTT" + "TTTTT" + "TTTTT"
    absent = np.array([each == "-" for each in boxes])
    run = RunFrames(np.array([STATES[s] for s in states], int), np.array([IOU[b] for b in boxes]), absent)
    events = [Disappearance("natural", 5, 9), Disappearance("natural", 15, 19)]
    first, second = judge(run, "clip", events, FPS)
    assert (first.lost_s, first.recovered_s) == (pytest.approx(0.1), pytest.approx(0.2))
    assert np.isnan(second.lost_s)
    assert judge(run, "clip", [], FPS) == []


def test_figures():
    good = outcome("TTTTT" + "TLLLLLLLLL" + "TTTTTTTTTTTT", "ooooo" + "-" * 10 + "o" * 12)
    late = outcome("TTTTT" + "TTTTTTTLLL" + "LLLLTTTTTTTT", "ooooo" + "-" * 10 + "o" * 12)
    never = outcome("TTTTT" + "TTTTTTTTTT" + "TTTTTTTTTTTT", "ooooo" + "-" * 10 + "x" * 12)
    unfollowed = outcome("TTTTT" + "L" * 10, "xxxxx" + "-" * 10)
    short = outcome("TTTTT" + "LTTTT" + "LLLLL", "ooooo" + "-----" + "xxxxx")
    figures = event_figures([good, late, never, unfollowed, short])
    assert (figures.events, figures.judged) == (5, 4)
    assert figures.lost_in_time == 0.5
    assert figures.never_lost == 0.25
    assert figures.lost_s == pytest.approx(0.1)
    assert figures.recovered_in_time == pytest.approx(2 / 3)
    assert figures.wrong_recovery == 0.25
    assert np.isnan(event_figures([]).lost_in_time)
