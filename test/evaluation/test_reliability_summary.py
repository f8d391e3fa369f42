"""From runs to figures, tables and the report: a tracker that admits losses beside one that does not."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from scripted_tracking import NAN_ROW, numbered_sequence

from ros2_tracker.evaluation.comparison import Comparison, compare
from ros2_tracker.evaluation.datasets import AnnotatedSequence, Dataset
from ros2_tracker.evaluation.disappearance import Kind, make_disappearances
from ros2_tracker.evaluation.report import write_report
from ros2_tracker.evaluation.results import FrameEvent, FrameRecord
from ros2_tracker.evaluation.run import DISAPPEARANCE, ONE_PASS, Failure, Outcome, Run
from ros2_tracker.tracking.result import TrackState

TARGET, ELSEWHERE = (40.0, 30.0, 20.0, 20.0), (100.0, 80.0, 20.0, 20.0)
FPS = 30.0
LATE = 6
"""Frames that the honest tracker needs to see that the target is gone."""


def honest(sequence: AnnotatedSequence) -> list[FrameRecord]:
    """LOST a fifth of a second after the target is gone; back with it. Half of the frames in between are warnings."""
    records, away = [], 0
    for truth, absent in zip(sequence.truth, sequence.absent, strict=True):
        away = away + 1 if absent else 0
        state = TrackState.LOST if away > LATE else TrackState.UNCERTAIN if away > LATE / 2 else TrackState.TRACKING
        box = TARGET if np.isnan(truth).any() else tuple(truth)
        said = {TrackState.TRACKING: 0.95, TrackState.UNCERTAIN: 0.35, TrackState.LOST: 0.05}[state]
        records.append(FrameRecord(FrameEvent.TRACKED, box, state, said, 2.0 * said, 1.0))
    return [FrameRecord(FrameEvent.INIT, records[0].box, TrackState.TRACKING, 1.0), *records[1:]]


def blind(sequence: AnnotatedSequence) -> list[FrameRecord]:
    """Never LOST, without a reliability, and on something else once the target was away."""
    gone = np.cumsum(sequence.absent) > 0
    records = [
        FrameRecord(FrameEvent.TRACKED, ELSEWHERE if lost else tuple(truth), TrackState.TRACKING, None, 0.7, 1.0)
        for truth, lost in zip(np.nan_to_num(sequence.truth, nan=50.0), gone, strict=True)
    ]
    return [FrameRecord(FrameEvent.INIT, records[0].box, TrackState.TRACKING, 1.0), *records[1:]]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    truth = [TARGET] * 40
    sequences = [numbered_sequence(tmp_path / "data" / name, truth) for name in ("a<b>", "two")]
    sequences.append(numbered_sequence(tmp_path / "data" / "leaves", [TARGET] * 40 + [NAN_ROW] * 40 + [TARGET] * 60))
    return Dataset("data", "otb", sequences, [])


def outcome(dataset: Dataset) -> Outcome:
    made, missing = make_disappearances(dataset.sequences[:2], 0, fps=FPS)
    assert missing == []
    found = Outcome(played={ONE_PASS: dataset.sequences, DISAPPEARANCE: made})
    for mode, sequences in found.played.items():
        for name, script in (("ours", honest), ("peer", blind)):
            found.runs.extend(Run(name, mode, s, script(s), (160, 120), f"{name} 1.0") for s in sequences)
    return found


@pytest.fixture
def comparison(dataset: Dataset) -> Comparison:
    return compare(dataset, outcome(dataset), ["ours", "peer"], reliability_fps=FPS)


def test_figures(comparison: Comparison):
    figures = json.loads(json.dumps(comparison.as_dict(), allow_nan=False))["reliability"]
    assert list(figures) == [ONE_PASS, DISAPPEARANCE, "all"]
    plain = figures[ONE_PASS]["ours"]
    # 39 frames of two, and 139 of one in which the target is away for 40.
    assert (plain["frames"], plain["good"]) == (217, 177)
    assert plain["false_tracking"] == pytest.approx(3 / 217)
    assert plain["good_doubted"] == 0.0
    assert plain["events"]["events"] == 1
    assert plain["events_by_kind"]["natural"]["lost_s"] == pytest.approx(LATE / FPS)
    value = plain["of"]["reliability"]
    # Of the bad frames 3 have the value of the good ones: half a pair each.
    assert value["auroc"] == pytest.approx(1 - 0.5 * 3 / 40)
    expected = (180 * abs(177 / 180 - 0.95) + 3 * 0.35 + 34 * 0.05) / 217
    assert value["ece"] == pytest.approx(expected)
    assert value["brier"] == pytest.approx((177 * 0.05**2 + 3 * 0.95**2 + 3 * 0.35**2 + 34 * 0.05**2) / 217)
    assert value["false_at_5"] == pytest.approx(3 / 217)
    assert (value["recall"], value["threshold"]) == (1.0, 0.95)
    # Precision is a mean over sequences: 1, 1, and 3 boxes too many in the last.
    assert value["precision"] == pytest.approx((1 + 1 + 99 / 102) / 3)
    # The raw score has the same order, and is no probability.
    score = plain["of"]["score"]
    assert score["auroc"] == value["auroc"]
    assert (score["ece"], score["bins"]) == (None, None)

    events = figures[DISAPPEARANCE]["ours"]["events"]
    assert events["events"] == events["judged"] == 12
    assert (events["lost_in_time"], events["recovered_in_time"], events["wrong_recovery"]) == (1.0, 1.0, 0.0)
    assert set(figures[DISAPPEARANCE]["ours"]["events_by_kind"]) == {kind.value for kind in Kind}
    peer = figures[DISAPPEARANCE]["peer"]
    assert list(peer["of"]) == ["score"]
    assert (peer["events"]["never_lost"], peer["events"]["recovered_in_time"]) == (1.0, 0.0)
    assert peer["false_tracking"] > 0.5
    both = figures["all"]["ours"]
    assert both["frames"] == plain["frames"] + figures[DISAPPEARANCE]["ours"]["frames"]


def test_frames_that_nobody_can_judge_do_not_count(comparison: Comparison):
    (entry, _) = comparison.modes[DISAPPEARANCE]
    summary = next(s for s in comparison.reliability if (s.tracker, s.footage) == ("ours", DISAPPEARANCE))
    sequences = [run.sequence for run in entry.runs]
    judged = sum(int((s.absent | s.scorable)[1:].sum()) for s in sequences)
    assert summary.frames == judged < sum(len(s) - 1 for s in sequences)


def test_text_names_what_there_is(comparison: Comparison):
    text = comparison.as_text()
    assert "12 sequences of " in text
    for title in ("reliability, one-pass (217 frames, 177 good)", "reliability, disappearance (", "reliability, all ("):
        assert f"\n{title}" in text
    assert "\nours, raw score alone " in text
    assert "\npeer, states " in text, "a peer without reliability is judged by its states"
    assert "\nours, all kinds " in text
    plain = compare(comparison.dataset, outcome(comparison.dataset), ["ours", "peer"])
    assert "reliability" not in plain.as_text()
    assert plain.as_dict()["reliability"] == {}


def test_report_shows_plots_and_the_worst_events(comparison: Comparison, tmp_path: Path):
    pytest.importorskip("matplotlib", reason="reports need matplotlib (the extra `eval`)")
    source = write_report(comparison, tmp_path).read_text()
    assert "a<b>" not in source, "names are escaped"
    for shown in ("<h2>Reliability</h2>", "<h2>Disappearances</h2>", "peer</b>"):
        assert shown in source
    # 2 plots of reliability for each footage, and 2 of times where something disappears.
    assert source.count("image/svg+xml") == 2 * 5 + 3 * 2 + 2 * 2
    strips = source.split("<figure class=strip>")[1:]
    assert len(strips) == 8, "of the peer; ours made nothing wrong"
    data = base64.b64decode(strips[0].split("base64,", 1)[1].split("'", 1)[0])
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape[1] == 8 * 230
    assert "LOST never, not found again" in strips[0]


def test_a_failure_takes_what_is_made_of_its_sequence_along(dataset: Dataset):
    found = outcome(dataset)
    found.failures.append(Failure("peer", ONE_PASS, "two", "it crashed"))
    compared = compare(dataset, found, ["ours", "peer"], reliability_fps=FPS)
    names = {mode: {s.sequence for s in entries[0].scores} for mode, entries in compared.modes.items()}
    assert names[ONE_PASS] == {"a<b>", "leaves"}
    assert {name.split("+")[0] for name in names[DISAPPEARANCE]} == {"a<b>"}
    # The other way round only the made one is missing.
    found = outcome(dataset)
    found.failures.append(Failure("peer", DISAPPEARANCE, "two+black", "it crashed"))
    compared = compare(dataset, found, ["ours", "peer"], reliability_fps=FPS)
    assert len(compared.modes[ONE_PASS][0].scores) == 3
    assert len(compared.modes[DISAPPEARANCE][0].scores) == 11
