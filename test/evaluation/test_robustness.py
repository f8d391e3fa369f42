"""Runs with restarts and their figures, against values worked out by hand and against plain loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_tracking import NAN_ROW, ScriptedTracker, numbered_sequence

from ros2_tracker.evaluation.results import FrameEvent
from ros2_tracker.evaluation.robustness import (
    BURN_IN,
    FRAMES_TO_RESTART,
    RestartRun,
    expected_overlap,
    fragments,
    polygon_overlap,
    robustness,
    run_with_restarts,
    typical_lengths,
)
from ros2_tracker.tracking.geometry import BoxError

INIT, TRACKED, SKIPPED, FAILED = FrameEvent.INIT, FrameEvent.TRACKED, FrameEvent.SKIPPED, FrameEvent.FAILED
TARGET = (40.0, 30.0, 20.0, 20.0)
AWAY = (100.0, 80.0, 20.0, 20.0)


def square(x: float, y: float, w: float, h: float) -> np.ndarray:
    return np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]], np.float64)


# -- the protocol -----------------------------------------------------------------------------------------------------


def test_a_failure_is_followed_by_a_start_five_frames_later(tmp_path: Path):
    sequence = numbered_sequence(tmp_path, [TARGET] * 12)
    tracker = ScriptedTracker({i: AWAY if i == 3 else TARGET for i in range(12)})
    records = run_with_restarts(tracker, sequence, 30.0)
    assert [r.event for r in records] == [INIT, TRACKED, TRACKED, FAILED, *[SKIPPED] * 4, INIT, *[TRACKED] * 3]
    assert tracker.started == [0, 3 + FRAMES_TO_RESTART]
    assert tracker.updated == [1, 2, 3, 9, 10, 11]
    assert [stamp for _, frame, stamp in tracker.seen] == pytest.approx([f / 30 for _, f, _ in tracker.seen])


def test_touching_the_target_is_no_failure(tmp_path: Path):
    sequence = numbered_sequence(tmp_path, [TARGET] * 3)
    tracker = ScriptedTracker({1: (59.0, 49.0, 9.0, 9.0), 2: (60.0, 50.0, 9.0, 9.0)})
    assert [r.event for r in run_with_restarts(tracker, sequence, 30.0)] == [INIT, TRACKED, FAILED]


def test_a_start_waits_for_a_true_box_inside_the_image(tmp_path: Path):
    # The failure is in frame 1, so the start is due in frame 6: not there; 7: outside the image; 8.
    truth = [TARGET] * 6 + [NAN_ROW, (500.0, 0.0, 9.0, 9.0), TARGET, TARGET]
    tracker = ScriptedTracker({1: AWAY, 9: TARGET})
    records = run_with_restarts(tracker, numbered_sequence(tmp_path, truth), 30.0)
    assert [r.event for r in records] == [INIT, FAILED, *[SKIPPED] * 6, INIT, TRACKED]


def test_frames_without_truth_end_nothing(tmp_path: Path):
    tracker = ScriptedTracker({1: AWAY, 2: TARGET})
    records = run_with_restarts(tracker, numbered_sequence(tmp_path, [TARGET, NAN_ROW, TARGET]), 30.0)
    assert [r.event for r in records] == [INIT, TRACKED, TRACKED]


def test_a_tracker_without_a_box_is_judged_by_its_last_one(tmp_path: Path):
    truth = [TARGET, TARGET, AWAY]
    records = run_with_restarts(ScriptedTracker({1: None, 2: None}), numbered_sequence(tmp_path, truth), 30.0)
    assert [r.event for r in records] == [INIT, TRACKED, FAILED]
    assert records[2].box == TARGET


def test_a_first_box_outside_its_image_is_refused(tmp_path: Path):
    with pytest.raises(BoxError, match="160x120"):
        run_with_restarts(ScriptedTracker({}), numbered_sequence(tmp_path, [(500.0, 0, 9, 9)] * 2), 30.0)


def test_polygons_decide_where_there_are_some(tmp_path: Path):
    # The lower left half of the target's bounding box: what lies in the upper right corner does not touch it.
    triangle = [40, 30, 60, 50, 60, 50, 40, 50]
    sequence = numbered_sequence(tmp_path, [TARGET] * 2, [triangle] * 2)
    tracker = ScriptedTracker({1: (55.0, 31.0, 4.0, 4.0)})
    assert [r.event for r in run_with_restarts(tracker, sequence, 30.0)] == [INIT, FAILED]


# -- overlap of regions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (square(0, 0, 10, 10), square(0, 0, 10, 10), 1.0),
        (square(0, 0, 10, 10), square(5, 0, 10, 10), 1 / 3),
        (square(0, 0, 10, 10), square(10, 0, 10, 10), 0.0),
        (square(0, 0, 10, 10), np.array([[0, 0], [10, 0], [10, 10], [10, 10]]), 0.5),
        # A diamond of area 50 in a square of 100; either sense of rotation.
        (square(0, 0, 10, 10), np.array([[5, 0], [10, 5], [5, 10], [0, 5]]), 0.5),
        (square(0, 0, 10, 10), np.array([[5, 0], [0, 5], [5, 10], [10, 5]]), 0.5),
        # What is outside the 100 x 100 image does not count.
        (square(90, 0, 10, 10), square(90, 0, 50, 10), 1.0),
        (square(200, 0, 10, 10), square(200, 0, 10, 10), 0.0),
        (square(-5, -5, 10, 10), square(0, 0, 10, 10), 0.25),
    ],
)
def test_polygon_overlap(a: np.ndarray, b: np.ndarray, expected: float):
    assert polygon_overlap(a, b, 100, 100) == pytest.approx(expected, abs=1e-6)
    assert polygon_overlap(b, a, 100, 100) == pytest.approx(expected, abs=1e-6)


# -- figures ----------------------------------------------------------------------------------------------------------


def run(text: str, overlap: float = 0.5) -> RestartRun:
    """`i` a start, `t` a tracked frame with that overlap, `f` a failure, `-` a frame in between."""
    events = [{"i": INIT, "t": TRACKED, "f": FAILED, "-": SKIPPED}[c] for c in text]
    return RestartRun(events, np.array([{"i": 1.0, "t": overlap, "f": 0.0, "-": 0.0}[c] for c in text]))


def test_accuracy_leaves_out_the_burn_in():
    assert np.isnan(robustness([run("i" + "t" * (BURN_IN - 1))], (1, 2)).accuracy)
    changed = run("i" + "t" * (BURN_IN + 1))
    changed.overlaps[: BURN_IN] = 0.9
    changed.overlaps[BURN_IN:] = [0.2, 0.4]
    assert robustness([changed], (1, 2)).accuracy == pytest.approx(0.3)


def test_robustness_is_failures_in_100_frames():
    figures = robustness([run("itf----itt"), run("i" + "t" * 39)], (1, 2))
    assert (figures.failures, figures.robustness) == (1, pytest.approx(2.0))


def test_fragments():
    first, second = fragments(run("itf----itt"))
    assert (first.ended, first.overlaps.tolist()) == (True, [0, 0.5, 0, 0, 0, 0, 0])
    assert (second.ended, second.overlaps.tolist()) == (False, [0, 0.5, 0.5])
    (only,) = fragments(run("ittf"))
    assert not only.ended, "too late for another start"


def test_expected_overlap_by_hand():
    curve = robustness([run("itf----itt")], (2, 4)).curve
    # After the start: 0.5, then zeros for ever; and 0.5, 0.5, then unknown.
    expected = [1.0, 0.5, (0.25 + 0.5) / 2, 0.5 / 3, 0.5 / 4, 0.5 / 5, 0.5 / 6, 0.5 / 7, 0.5 / 8, 0.5 / 9]
    np.testing.assert_allclose(curve, expected)
    assert robustness([run("itf----itt")], (2, 4)).eao == pytest.approx(np.mean(expected[1:4]))


def test_a_tracker_that_never_fails_has_its_mean_overlap():
    figures = robustness([run("i" + "t" * 60, 0.7)], (20, 40))
    assert (figures.accuracy, figures.failures, figures.eao) == (pytest.approx(0.7), 0, pytest.approx(0.7))


def test_lengths_that_no_sequence_has_give_no_figure():
    assert np.isnan(robustness([run("ittt")], (50, 60)).eao)


runs = st.lists(
    st.lists(st.tuples(st.floats(0.01, 1), st.booleans()), min_size=1, max_size=25).map(
        lambda frames: _played([overlap for overlap, _ in frames], [fails for _, fails in frames])
    ),
    min_size=1,
    max_size=5,
)


def _played(overlaps: list[float], fails: list[bool]) -> RestartRun:
    events, start = [], 0
    for i, fail in enumerate(fails):
        if i < start:
            events.append(SKIPPED)
        elif i == start:
            events.append(INIT)
        elif fail:
            events.append(FAILED)
            start = i + FRAMES_TO_RESTART
        else:
            events.append(TRACKED)
    return RestartRun(events, np.array(overlaps))


@settings(deadline=None)
@given(runs)
def test_expected_overlap_against_loops(played: list[RestartRun]):
    longest = max(len(r.events) for r in played)
    curve = expected_overlap([f for r in played for f in fragments(r)], longest)
    for length in range(2, longest + 1):
        means = []
        for each in played:
            starts = [i for i, event in enumerate(each.events) if event is INIT]
            for number, start in enumerate(starts):
                values = []
                for i in range(start + 1, start + length):
                    if number + 1 < len(starts) and i >= starts[number + 1]:
                        values.append(0.0)  # it had failed
                    elif i < len(each.events):
                        values.append(each.overlaps[i] if each.events[i] is TRACKED else 0.0)
                if len(values) == length - 1:
                    means.append(sum(values) / len(values))
        if means:
            assert curve[length - 1] == pytest.approx(sum(means) / len(means))
        else:
            assert np.isnan(curve[length - 1])


@given(runs)
def test_figures_are_shares(played: list[RestartRun]):
    figures = robustness(played, (1, 10))
    assert np.isnan(figures.accuracy) or 0.0 <= figures.accuracy <= 1.0
    assert np.isnan(figures.eao) or 0.0 <= figures.eao <= 1.0
    assert figures.robustness == pytest.approx(100 * figures.failures / sum(len(r.events) for r in played))


def test_typical_lengths_hold_half_of_them():
    assert all(abs(length - 100) <= 1 for length in typical_lengths([100] * 5))
    rng = np.random.default_rng(1)
    lengths = rng.normal(300, 50, 400).round().astype(int).tolist()
    first, last = typical_lengths(lengths)
    # Half of a normal distribution lies within 0.674 standard deviations.
    assert first == pytest.approx(300 - 0.674 * 50, abs=15)
    assert last == pytest.approx(300 + 0.674 * 50, abs=15)
