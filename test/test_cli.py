"""The command line: what it prints, and with which exit status it ends."""

from __future__ import annotations

import csv
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
COMMAND = [sys.executable, "-m", "ros2_tracker"]


@pytest.fixture(scope="module")
def otb_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames of the demo clip, small."""
    folder = tmp_path_factory.mktemp("data") / "clip"
    (folder / "img").mkdir(parents=True)
    clip = SyntheticClip(300, 160, 120)
    lines = []
    for i in range(12):
        frame = clip.render(i)
        cv2.imwrite(str(folder / "img" / f"{i + 1:04d}.png"), frame.image)
        lines.append(",".join(f"{v:.2f}" for v in frame.box.as_tuple()))
    (folder / "groundtruth_rect.txt").write_text("\n".join(lines) + "\n")
    return folder


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("ros2-tracker")
    return captured.err


def test_track_with_the_folders_own_truth(otb_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    results, output = tmp_path / "boxes.csv", tmp_path / "overlay.mp4"
    arguments = ["track", str(otb_folder), "--results", str(results), "--output", str(output), "--json", "--fps", "10"]
    assert main(arguments) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["frames"] == 12
    assert summary["model"] == "multistage-tiny"
    assert summary["agreement"]["mean_iou"] > 0.5
    with results.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert list(rows[0]) == ["frame", "stamp", "x", "y", "w", "h", "reliability", "state"]
    assert [float(row["stamp"]) for row in rows] == pytest.approx([i / 10 for i in range(12)])
    assert output.stat().st_size > 1000


def test_track_a_video_with_init(otb_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    video = tmp_path / "clip.mp4"
    assert main(["track", str(otb_folder), "--output", str(video), "--fps", "25"]) == 0
    capsys.readouterr()
    box = (otb_folder / "groundtruth_rect.txt").read_text().split()[0]
    assert main(["track", str(video), "--init", box]) == 0
    captured = capsys.readouterr()
    assert "12 frames at 25 Hz" in captured.out
    assert captured.err == ""


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "VERB"),
        (["fly"], "'fly'"),
        (["track"], "VIDEO_OR_FOLDER"),
        (["track", "{clip}", "--init", "1,2,3"], "'1,2,3'"),
        (["track", "{clip}", "--init", "1,2,nan,4"], "'1,2,nan,4'"),
        (["track", "{clip}", "--init", "1,2,0,4"], "'1,2,0,4'"),
        (["track", "{clip}", "--init", "1000,2,30,40"], "(1000, 2, 30, 40)"),
        (["track", "{clip}", "--model", "nonsense"], "'nonsense'"),
        (["track", "{clip}", "--engine", "abacus"], "'abacus'"),
        (["track", "{clip}", "--fps", "0"], "'0'"),
        (["track", "{clip}", "--output", "overlay.avi"], "'overlay.avi'"),
        (["track", "{clip}/img"], "--init"),
        (["bench", "--size", "640"], "'640'"),
        (["bench", "--size", "10x10"], "'10x10'"),
        (["bench", "--frames", "0"], "'0'"),
        (["bench", "--targets", "1,many"], "'many'"),
        (["bench", "--model", "nonsense"], "'nonsense'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage_errors_are_one_line_and_status_2(
    otb_folder: Path, arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
):
    assert main([argument.format(clip=otb_folder) for argument in arguments]) == 2
    assert named in error_line(capsys)


def test_failures_are_one_line_and_status_1(otb_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["track", str(tmp_path / "absent.mp4"), "--init", "1,2,30,40"]) == 1
    assert "absent.mp4" in error_line(capsys)
    (tmp_path / "empty").mkdir()
    assert main(["track", str(tmp_path / "empty"), "--init", "1,2,30,40"]) == 1
    assert "no images" in error_line(capsys)
    (tmp_path / "results.csv").mkdir()
    assert main(["track", str(otb_folder), "--results", str(tmp_path / "results.csv")]) == 1
    assert "results.csv" in error_line(capsys)


def test_broken_image_ends_the_run_and_keeps_what_was_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((64, 64, 3), 90, np.uint8))
    (tmp_path / "2.png").write_bytes(b"broken")
    results = tmp_path / "boxes.csv"
    assert main(["track", str(tmp_path), "--init", "20,20,20,20", "--results", str(results)]) == 1
    assert "2.png: cannot be read" in error_line(capsys)
    assert len(results.read_text().splitlines()) == 3


def test_models(capsys: pytest.CaptureFixture[str]):
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert "multistage-tiny (default)" in text
    assert main(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    (default,) = [row for row in rows if row["default"]]
    assert default["weights"] is True
    assert default["parameters"] > 1e6


def test_bench_prints_a_table_or_json(capsys: pytest.CaptureFixture[str]):
    assert main(["bench", "--frames", "3", "--size", "160x120"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("crop", "network", "decode", "update", "p50", "p99", "start-up", "resident"))
    assert main(["bench", "--frames", "3", "--size", "160x120", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["stages"]) == {"crop", "network", "decode", "update", "learn"}
    assert main(["bench", "--frames", "2", "--size", "160x120", "--engine", "all", "--targets", "1,3", "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    engines = {run["engine"] for run in runs}
    assert any("onnxruntime" in name for name in engines)
    assert [run["targets"] for run in runs] == [1, 3] * len(engines)


def test_self_test_of_an_engine(capsys: pytest.CaptureFixture[str]):
    assert main(["bench", "--self-test"]) == 0
    text = capsys.readouterr().out
    assert "multistage-tiny.int8.onnx, against onnxruntime" in text
    assert "self-test passed" in text


def test_bench_of_the_node_without_ros_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "rclpy", None)
    for name in [n for n in sys.modules if n.startswith("ros2_tracker.ros.")]:
        monkeypatch.delitem(sys.modules, name)
    import ros2_tracker.ros

    monkeypatch.delattr(ros2_tracker.ros, "node_bench", raising=False)
    assert main(["bench", "--node"]) == 1
    assert "--node needs ROS 2" in error_line(capsys)


VERBS = ("track", "models", "import-checkpoint", "export", "build-engine", "doctor", "bench")


@pytest.mark.parametrize("verb", [[], *([verb] for verb in VERBS)], ids=str)
def test_help_has_an_example(verb: list[str], capsys: pytest.CaptureFixture[str]):
    assert main([*verb, "--help"]) == 0
    assert "example: ros2-tracker" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]):
    import ros2_tracker

    assert main(["--version"]) == 0
    assert ros2_tracker.__version__ in capsys.readouterr().out


def test_as_a_module_in_a_process_of_its_own(tmp_path: Path):
    file = tmp_path / "clip.mp4"
    file.write_bytes(b"no video" * 100)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.run(
        [*COMMAND, "track", str(file), "--init", "1,2,30,40"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert child.returncode == 1
    assert child.stdout == ""
    assert child.stderr == f"ros2-tracker track: {file}: cannot be opened as a video\n"


def test_reader_that_goes_away_is_no_traceback(tmp_path: Path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb") as output:
        child = subprocess.run(
            [*COMMAND, "models"], stdout=output, stderr=subprocess.PIPE, text=True, env=environment, check=False
        )
    assert child.returncode == 1
    assert child.stderr == ""


def test_ctrl_c_ends_with_130_and_keeps_what_was_written(otb_folder: Path, tmp_path: Path):
    folder = tmp_path / "long"
    folder.mkdir()
    image = (otb_folder / "img" / "0001.png").read_bytes()
    for i in range(2000):
        (folder / f"{i:04d}.png").write_bytes(image)
    results = tmp_path / "boxes.csv"
    child = subprocess.Popen(
        [*COMMAND, "track", str(folder), "--init", "10,60,30,20", "--results", str(results)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        # Background processes of a shell ignore the signal unless told otherwise.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 30.0
    while not results.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=30.0)
    assert child.returncode == 130
    assert errors.strip().splitlines()[-1] == "interrupted"
    rows = results.read_text().splitlines()
    assert 1 < len(rows) < 2001
    assert rows[-1].count(",") == 7
