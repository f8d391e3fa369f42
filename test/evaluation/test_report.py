"""The comparison of trackers, and the report that shows it."""

from __future__ import annotations

import base64
import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from scripted_tracking import NAN_ROW, ScriptedTracker, numbered_sequence

from ros2_tracker.evaluation.comparison import Comparison, compare
from ros2_tracker.evaluation.datasets import Dataset, LeftOut
from ros2_tracker.evaluation.report import write_report
from ros2_tracker.evaluation.run import ONE_PASS, RESTARTS, STREAMING, Failure, Mode, Outcome, Run

pytest.importorskip("matplotlib", reason="reports need matplotlib (the extra `eval`)")

TARGET, NEAR, AWAY = (40.0, 30.0, 20.0, 20.0), (45.0, 30.0, 20.0, 20.0), (100.0, 80.0, 20.0, 20.0)
MODES = [Mode(ONE_PASS), Mode(RESTARTS), Mode(STREAMING, 30.0, 0.04)]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    sequences = [
        numbered_sequence(tmp_path / "data" / "easy", [TARGET] * 12),
        numbered_sequence(tmp_path / "data" / "a<b>&c", [TARGET] * 10 + [NAN_ROW] * 2),
    ]
    return Dataset("data", "otb", sequences, [LeftOut("broken", "4 boxes for 3 images")])


def outcome(dataset: Dataset) -> Outcome:
    good = {i: NEAR if i == 7 else TARGET for i in range(12)}
    bad = {i: TARGET if i < 4 else None if i == 11 else AWAY for i in range(12)}
    runs = []
    for name, script in (("ours", good), ("peer", bad)):
        for mode in MODES:
            for sequence in dataset.sequences:
                records = mode.play(ScriptedTracker(script), sequence, lambda frames: None)
                runs.append(Run(name, mode.name, sequence, records, (160, 120), f"{name} 1.0"))
    return Outcome(runs)


@pytest.fixture
def comparison(dataset: Dataset) -> Comparison:
    return compare(dataset, outcome(dataset), ["ours", "peer"], "Seen in <training>.")


def test_figures_are_those_of_the_runs(comparison: Comparison):
    figures = json.loads(json.dumps(comparison.as_dict(), allow_nan=False))
    ours, peer = (figures["modes"]["one-pass"][name] for name in ("ours", "peer"))
    assert ours["ao"] == pytest.approx(((11 + 0.6) / 12 + (9 + 0.6) / 10) / 2)
    assert peer["ao"] == pytest.approx((4 / 12 + 4 / 10) / 2)
    assert peer["nt2f50"] == pytest.approx(peer["ao"])
    # Of `peer`: 8 wrong boxes in the first sequence, 6 and 2 without a target in the second, LOST in the last of each.
    assert (peer["lost"], peer["lost_right"], peer["wrong"]) == (2, 2, 16)
    assert set(peer["sequences"]) == {"easy", "a<b>&c"}
    restarts = figures["modes"]["restarts"]
    assert (restarts["ours"]["failures"], restarts["peer"]["failures"]) == (0, 3)
    assert restarts["peer"]["sequences"]["easy"] == {"failures": 2}
    streaming = figures["modes"]["streaming-30hz-40ms"]["ours"]
    assert streaming["answered"] < ours["answered"] == 22
    assert figures["left_out"] == [{"name": "broken", "reason": "4 boxes for 3 images"}]
    assert figures["remarks"][0] == "Seen in <training>."


def test_text_has_a_line_for_each_tracker_in_each_mode(comparison: Comparison):
    lines = comparison.as_text().splitlines()
    assert sum(line.startswith("ours  ") for line in lines) == len(MODES)
    assert any("2 sequences in the layout of otb, 24 frames, 2 of them without the target" in line for line in lines)
    assert "1 sequences are left out of every figure." in lines


def test_a_sequence_that_one_tracker_fails_on_is_left_out_for_all(dataset: Dataset):
    failing = outcome(dataset)
    failing.runs[:] = [r for r in failing.runs if (r.tracker, r.mode, r.sequence.name) != ("peer", ONE_PASS, "easy")]
    failing.failures.append(Failure("peer", ONE_PASS, "easy", "it crashed"))
    compared = compare(dataset, failing, ["ours", "peer"])
    assert {e.summary.sequences for entries in compared.modes.values() for e in entries} == {1}
    assert ("easy", "peer, one-pass: it crashed") in compared.left_out
    failing.failures.append(Failure("peer", ONE_PASS, "a<b>&c", "this too"))
    with pytest.raises(ValueError, match=r"no sequence could be evaluated .*it crashed"):
        compare(dataset, failing, ["ours", "peer"])


class Page(HTMLParser):
    """Collects what a browser would show, and complains about tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.images: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        values = dict(attrs)
        if tag == "img":
            self.images.append(values["src"])
        self.links += [v for k, v in attrs if k in ("href", "src") and not v.startswith("data:")]
        if tag not in ("img", "meta", "html"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "html":
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_report_is_one_file_that_needs_nothing_else(comparison: Comparison, tmp_path: Path):
    file = write_report(comparison, tmp_path / "out")
    source = file.read_text()
    page = Page()
    page.feed(source)
    assert page.open == []
    assert page.links == []
    assert not re.search(r"https?://(?!www\.w3\.org)", re.sub(r"base64,[\w+/=]+", "", source))
    text = " ".join(page.text)
    for shown in ("a<b>&c", "Seen in <training>.", "broken: 4 boxes for 3 images", "Worst frames", "peer 1.0", "EAO"):
        assert shown in text
    assert "a<b>" not in source, "names are escaped"

    svgs = [base64.b64decode(i.split(",", 1)[1]) for i in page.images if i.startswith("data:image/svg+xml")]
    assert len(svgs) == 5 + 1 + 5
    for svg in svgs:
        assert ElementTree.fromstring(svg).tag.endswith("svg")
    jpegs = [base64.b64decode(i.split(",", 1)[1]) for i in page.images if i.startswith("data:image/jpeg")]
    assert len(jpegs) == 4, "two trackers, two sequences"
    pictures = [cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) for jpeg in jpegs]
    assert all(picture.shape == (300, 400, 3) for picture in pictures)
    # The worst frame of ours is number 7 everywhere; its picture shows the white outline of the truth.
    assert text.count("frame 7 of 12: IoU 0.60, TRACKING") == 2
    assert text.count("frame 4 of 12: IoU 0.00, TRACKING") == 2
    assert all((picture > 200).all(axis=2).sum() > 50 for picture in pictures)


def test_tables_beside_the_report(comparison: Comparison, tmp_path: Path):
    write_report(comparison, tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text()) == json.loads(json.dumps(comparison.as_dict()))
    with (tmp_path / "sequences.csv").open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert len(rows) == len(MODES) * 2 * 2
    (easy,) = (r for r in rows if (r["mode"], r["tracker"], r["sequence"]) == ("one-pass", "peer", "easy"))
    assert float(easy["ao"]) == pytest.approx(4 / 12, abs=1e-6)
    assert easy["failures"] == ""
    assert [r["failures"] for r in rows if r["mode"] == "restarts"] == ["0", "0", "2", "1"]
