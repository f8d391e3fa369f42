"""Runs over a dataset: the tables that they leave, going on after an interruption, several processes, broken images."""

from __future__ import annotations

import csv
import json
from dataclasses import fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from ros2_tracker.engines.load import EngineSettings
from ros2_tracker.evaluation.datasets import Dataset, load_dataset
from ros2_tracker.evaluation.peers import TrackerSpec
from ros2_tracker.evaluation.results import (
    RECORD_COLUMNS,
    TRUTH_COLUMNS,
    FrameEvent,
    FrameRecord,
    read_records,
    write_records,
)
from ros2_tracker.evaluation.run import (
    DISAPPEARANCE,
    ONE_PASS,
    RESTARTS,
    STREAMING,
    Mode,
    Outcome,
    evaluate,
    record_file,
)
from ros2_tracker.evaluation.synthetic import SyntheticClip
from ros2_tracker.tracking.result import ReliabilitySignals, TrackState

FRAMES = 8


def write_sequence(folder: Path, seed: int) -> None:
    clip = SyntheticClip(300, 160, 120, seed=seed)
    (folder / "img").mkdir(parents=True)
    for i in range(FRAMES):
        cv2.imwrite(str(folder / "img" / f"{i + 1:04d}.png"), clip.render(i).image)
    np.savetxt(folder / "groundtruth_rect.txt", clip.ground_truth[:FRAMES], delimiter=",", fmt="%.3f")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    for number, name in enumerate(("first", "second")):
        write_sequence(tmp_path / "data" / name, number)
    return load_dataset(tmp_path / "data")


def spec(name: str = "ours", **settings) -> TrackerSpec:
    return TrackerSpec(name, "model", "default", EngineSettings(threads=1, **settings))


def boxes(outcome: Outcome) -> dict:
    return {(run.mode, run.tracker, run.sequence.name): [record.box for record in run.records] for run in outcome.runs}


def test_a_table_for_each_run(dataset: Dataset, tmp_path: Path):
    store = tmp_path / "store"
    outcome = evaluate(dataset, [spec()], [Mode(ONE_PASS), Mode(RESTARTS), Mode(STREAMING, 30.0, 0.05)], store)
    assert outcome.failures == []
    assert [run.sequence.name for run in outcome.runs] == ["first"] * 3 + ["second"] * 3
    folders = sorted(folder.name for folder in store.iterdir())
    assert folders == ["one-pass", "restarts", "streaming-30hz-50ms"]
    with record_file(store, ONE_PASS, "ours", "first").open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert tuple(rows[0]) == (*RECORD_COLUMNS, *TRUTH_COLUMNS)
    assert [row["event"] for row in rows] == ["init"] + ["tracked"] * (FRAMES - 1)
    for row in rows[1:]:
        assert 0.0 <= float(row["reliability"]) <= 1.0
        assert float(row["iou"]) > 0.3
        assert float(row["update_ms"]) > 0.0
        assert float(row["peak"]) > 0.0, "what a calibration is fitted on"
    assert all(run.size == (160, 120) for run in outcome.runs)


def test_what_is_done_is_not_done_again(dataset: Dataset, tmp_path: Path):
    store, modes = tmp_path / "store", [Mode(ONE_PASS)]
    first = evaluate(dataset, [spec()], modes, store)
    # The run of the second sequence was interrupted before it was finished.
    record_file(store, ONE_PASS, "ours", "second").with_suffix(".json").unlink()
    again = evaluate(dataset, [spec()], modes, store)
    assert (first.reused, again.reused) == (0, 1)
    assert boxes(again) == boxes(first), "to the last digit"
    assert evaluate(dataset, [spec()], modes, store).reused == 2


@pytest.mark.parametrize("change", ["seed", "rate", "settings", "truth", "table"])
def test_results_of_something_else_are_not_taken(dataset: Dataset, tmp_path: Path, change: str):
    store = tmp_path / "store"
    evaluate(dataset, [spec()], [Mode(ONE_PASS)], store)
    tracker, mode, seed = spec(), Mode(ONE_PASS), 0
    if change == "seed":
        seed = 1
    elif change == "rate":
        mode = Mode(ONE_PASS, 10.0)
    elif change == "settings":
        tracker = spec(precision="fp32")
    elif change == "truth":
        dataset.sequences[0].truth[3] += 1.0
        dataset.sequences[1].truth[3] += 1.0
    else:
        for name in ("first", "second"):
            file = record_file(store, ONE_PASS, "ours", name)
            file.write_text("".join(file.read_text().splitlines(keepends=True)[:4]))
    assert evaluate(dataset, [tracker], [mode], store, seed=seed).reused == 0


def test_made_disappearances_are_kept_like_other_runs(dataset: Dataset, tmp_path: Path):
    store, mode = tmp_path / "store", Mode(DISAPPEARANCE, 4.0, per_sequence=1)
    outcome = evaluate(dataset, [spec()], [Mode(ONE_PASS, 4.0), mode], store, seed=5)
    assert (outcome.failures, outcome.not_made) == ([], [])
    made = outcome.played[DISAPPEARANCE]
    assert [sequence.source.name for sequence in made] == ["first", "second"]
    with record_file(store, DISAPPEARANCE, "ours", made[0].name).open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert [row["absent"] == "1" for row in rows] == made[0].absent.tolist()
    assert [row["iou"] != "" for row in rows] == made[0].scorable.tolist()
    again = evaluate(dataset, [spec()], [Mode(ONE_PASS, 4.0), mode], store, seed=5)
    assert again.reused == 4
    assert boxes(again) == boxes(outcome)
    # More of them begin with the same ones; another seed makes others.
    more = evaluate(dataset, [spec()], [replace(mode, per_sequence=2)], store, seed=5)
    assert (more.reused, len(more.runs)) == (2, 4)
    assert evaluate(dataset, [spec()], [mode], store, seed=6).reused == 0


def test_two_processes_find_the_same_boxes(dataset: Dataset):
    modes = [Mode(ONE_PASS)]
    assert boxes(evaluate(dataset, [spec()], modes, processes=2)) == boxes(evaluate(dataset, [spec()], modes))


@pytest.mark.parametrize("processes", [1, 2])
def test_an_image_that_cannot_be_read_ends_its_sequence_only(dataset: Dataset, processes: int):
    dataset.sequences[0].files[4].write_bytes(b"no image")
    outcome = evaluate(dataset, [spec()], [Mode(ONE_PASS)], processes=processes)
    assert [run.sequence.name for run in outcome.runs] == ["second"]
    (failure,) = outcome.failures
    assert (failure.tracker, failure.sequence) == ("ours", "first")
    assert "0005.png: cannot be read as an image" in failure.reason


def test_a_first_box_outside_the_image_is_said(dataset: Dataset):
    dataset.sequences[0].truth[0] = (500.0, 0.0, 10.0, 10.0)
    outcome = evaluate(dataset, [spec()], [Mode(ONE_PASS)])
    assert "less than 2x2 px inside the 160x120 image" in outcome.failures[0].reason


def test_trackers_need_different_names(dataset: Dataset):
    with pytest.raises(ValueError, match="different names, got a, a"):
        evaluate(dataset, [spec("a"), spec("a")], [Mode(ONE_PASS)])


def test_records_are_read_back_exactly(tmp_path: Path):
    signals = ReliabilitySignals(*(1 / (number + 3) for number in range(len(fields(ReliabilitySignals)))))
    records = [
        FrameRecord(FrameEvent.INIT, (1.0, 2.0, 3.0, 4.0), TrackState.TRACKING, 1.0, None, 1 / 7),
        FrameRecord(FrameEvent.TRACKED, (1 / 3, -2.0, 3.0, 4.0), TrackState.LOST, 0.1, 0.5, 2.5, signals),
        FrameRecord(FrameEvent.SKIPPED, None, TrackState.UNCERTAIN),
    ]
    write_records(tmp_path / "a.csv", records, np.array([1.0, 0.25, np.nan]), np.array([False, False, True]))
    assert read_records(tmp_path / "a.csv") == records
    assert [f.name for f in tmp_path.iterdir()] == ["a.csv"], "nothing unfinished is left"
    empty = "," * len(fields(ReliabilitySignals))
    last = (tmp_path / "a.csv").read_text().splitlines()[-1]
    assert last == f"2,skipped,,,,,,,UNCERTAIN,{empty},,1"


@pytest.mark.parametrize("text", ["a,b\n1,2\n", json.dumps({"frames": []}) + "\n{}\n"])
def test_other_tables_are_refused_by_name(tmp_path: Path, text: str):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=r"a\.csv: not a table"):
        read_records(tmp_path / "a.csv")
