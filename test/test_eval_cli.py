"""`ros2-tracker eval`: what it prints and writes, and with which exit status it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from ros2_tracker.cli import main
from ros2_tracker.evaluation.synthetic import SyntheticClip

ROOT = Path(__file__).resolve().parents[1]


def write_sequence(folder: Path, frames: int, size: tuple[int, int] = (160, 120)) -> None:
    clip = SyntheticClip(300, *size)
    (folder / "img").mkdir(parents=True)
    for i in range(frames):
        cv2.imwrite(str(folder / "img" / f"{i + 1:04d}.jpg"), clip.render(i).image)
    np.savetxt(folder / "groundtruth_rect.txt", clip.ground_truth[:frames], delimiter=",", fmt="%.2f")


@pytest.fixture(autouse=True)
def no_imported_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "no weights here"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        write_sequence(tmp_path / "data" / name, 10)
    return tmp_path / "data"


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("ros2-tracker eval: ")
    return captured.err


def test_table_report_and_json(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("matplotlib", reason="reports need matplotlib (the extra `eval`)")
    report, summary = tmp_path / "report", tmp_path / "new" / "summary.json"
    arguments = ["eval", str(data), "--report", str(report), "--json", str(summary), "--restarts"]
    arguments += ["--camera-fps", "30", "--latency-ms", "50", "--peer", "model:default", "--engine", "onnxruntime"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    for title in ("one-pass", "restarts", "streaming-30hz-50ms", "ours", "default"):
        assert f"\n{title} " in captured.out
    figures = json.loads(summary.read_text())
    ours, same = figures["modes"]["one-pass"]["ours"], figures["modes"]["one-pass"]["default"]
    assert ours["ao"] == same["ao"] > 0.5
    assert figures["modes"]["streaming-30hz-50ms"]["ours"]["answered"] < ours["answered"] == 18
    assert (report / "report.html").stat().st_size > 10_000
    # Everything is there already: the second call only reads it.
    assert main(arguments) == 0
    assert "12 runs taken from" in capsys.readouterr().err
    assert json.loads(summary.read_text())["modes"]["one-pass"]["ours"] == ours


def test_changed_settings_are_a_run_of_their_own(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("matplotlib", reason="reports need matplotlib (the extra `eval`)")
    arguments = ["eval", str(data), "--report", str(tmp_path / "report"), "--json", "-", "--peer", "model:default"]
    thresholds = ("tracking_above=1", "uncertain_below=1", "lost_below=1", "lost_after=0")
    strict = [part for change in thresholds for part in ("--set", f"reliability.{change}")]
    for changes in ([], strict):
        assert main([*arguments, *changes]) == 0
        captured = capsys.readouterr()
        ours, peer = (json.loads(captured.out)["modes"]["one-pass"][name] for name in ("ours", "default"))
        assert peer["lost"] == 0
        assert ours["lost"] == (18 if changes else 0)
    assert "2 runs taken from" in captured.err  # the peer's


def test_json_to_the_terminal(data: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["eval", str(data), "--sequences", "two", "--json", "-"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert list(figures["modes"]["one-pass"]["ours"]["sequences"]) == ["two"]


def test_reliability(data: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["eval", str(data), "--reliability", "--disappearances", "1", "--fps", "5", "--json", "-"]
    assert main(arguments) == 0
    figures = json.loads(capsys.readouterr().out)
    assert len(figures["modes"]["disappearance"]["ours"]["sequences"]) == 2
    made = figures["reliability"]["disappearance"]["ours"]
    assert made["events"]["events"] == 2
    assert 0.0 < made["false_tracking"] < 1.0
    assert set(made["of"]) == {"reliability", "score"}
    assert figures["reliability"]["all"]["ours"]["frames"] == made["frames"] + 18


def test_broken_sequences_are_named_and_counted(data: Path, capsys: pytest.CaptureFixture[str]):
    write_sequence(data / "gap", 5)
    (data / "gap" / "img" / "0003.jpg").unlink()
    write_sequence(data / "outside", 5)
    (data / "outside" / "groundtruth_rect.txt").write_text("900,0,9,9\n" * 5)
    write_sequence(data / "corrupt", 5)
    (data / "corrupt" / "img" / "0004.jpg").write_bytes(b"no image")
    assert main(["eval", str(data)]) == 1
    captured = capsys.readouterr()
    assert "2 sequences in the layout of otb" in captured.out
    assert "3 sequences are left out" in captured.out
    for line in (
        "gap is left out: ",
        "number 3, after 0002.jpg, is missing",
        "outside is left out: ours, one-pass: box (900, 0, 9, 9) has less than 2x2 px inside the 160x120 image",
        "corrupt is left out: ours, one-pass: ",
        "0004.jpg: cannot be read as an image",
    ):
        assert line in captured.err


def test_nothing_left_is_an_error(data: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("one", "two"):
        (data / name / "img" / "0003.jpg").unlink()
    assert main(["eval", str(data)]) == 1
    assert "no sequence could be evaluated" in error_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "status", "what"),
    [
        (["--peer", "siamrpn"], 2, "must be one of csrt, kcf"),
        (["--peer", "nano:absent"], 2, "expected one file *backbone*.onnx in it"),
        (["--latency-ms", "5"], 2, "give --camera-fps"),
        (["--disappearances", "3"], 2, "belongs to --reliability"),
        (["--reliability", "--disappearances", "0"], 2, "'0' is not a whole number of at least 1"),
        (["--model", "absent"], 2, "'absent'"),
        (["--set", "zoom"], 2, "'zoom' is not NAME=VALUE"),
        (["--set", "motion.sped=3"], 2, "--set: there is no setting motion.sped"),
        (["--set", "motion.size_rate=fast"], 2, "--set: motion.size_rate is 'fast', must be a number"),
        (["--format", "uav123"], 1, "no sequence in the layout of uav123"),
        (["--sequences", "three"], 1, "there is no sequence 'three'"),
        (["--peer", "model:stark-s50"], 1, "stark-s50"),
    ],
)
def test_errors_are_one_line(data: Path, capsys: pytest.CaptureFixture[str], arguments: list, status: int, what: str):
    assert main(["eval", str(data), *arguments]) == status
    assert what in error_line(capsys)


def test_missing_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["eval", str(tmp_path / "absent")]) == 1
    assert "absent: no such folder" in error_line(capsys)


def test_an_interrupted_call_is_taken_up_again(tmp_path: Path):
    pytest.importorskip("matplotlib", reason="reports need matplotlib (the extra `eval`)")
    for name in ("a", "b", "c"):
        write_sequence(tmp_path / "data" / name, 5)
    write_sequence(tmp_path / "data" / "z", 200)
    report = tmp_path / "report"
    command = [sys.executable, "-m", "ros2_tracker", "eval", str(tmp_path / "data"), "--report", str(report)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as first:
        deadline = time.monotonic() + 60.0
        while not (report / "frames" / "one-pass" / "ours" / "c.json").exists():
            assert time.monotonic() < deadline
            assert first.poll() is None
            time.sleep(0.02)
        os.kill(first.pid, signal.SIGINT)
        assert first.wait(20.0) == 130
    assert not (report / "report.html").exists()
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=True)
    assert "3 runs taken from" in second.stderr
    assert "4 sequences" in second.stdout
    assert (report / "report.html").exists()
