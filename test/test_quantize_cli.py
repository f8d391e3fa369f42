"""`ros2-tracker quantize`: from sequences to a graph in its place, and what is said where that cannot be."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import cv2
import pytest

onnx = pytest.importorskip("onnx", reason="quantising needs onnx")

from ros2_tracker.cli import main  # noqa: E402
from ros2_tracker.engines import load  # noqa: E402
from ros2_tracker.engines.load import EngineSettings, load_engines  # noqa: E402
from ros2_tracker.evaluation import quantize  # noqa: E402
from ros2_tracker.evaluation.synthetic import SyntheticClip  # noqa: E402
from ros2_tracker.models.variant import WEIGHTS_DIR, load_variant  # noqa: E402

FP32 = WEIGHTS_DIR / "onestream-192.onnx"


@pytest.fixture
def data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own folder of weights, empty."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "ros2_tracker" / "weights"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A folder with one sequence: the first 12 frames of a rendered clip, in which nothing hides the target."""
    folder = tmp_path / "sequences" / "clip"
    (folder / "img").mkdir(parents=True)
    boxes = []
    for i, found in enumerate(islice(SyntheticClip(60, fps=6.0).frames(), 12)):
        cv2.imwrite(str(folder / "img" / f"{i:04d}.jpg"), found.image)
        boxes.append(",".join(f"{v:.2f}" for v in found.box.as_tuple()))
    (folder / "groundtruth_rect.txt").write_text("\n".join(boxes))
    return folder


def command(folder: Path, *options: str) -> list[str]:
    return ["quantize", str(folder), "--model", "onestream-192", "--frames", "6", "--method", "minmax", *options]


@pytest.mark.usefixtures("data_home")
def test_the_graph_lands_where_it_is_looked_for(data_home: Path, clip: Path, capsys, monkeypatch):
    assert main(command(clip.parent, "--json")) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    file = data_home / "onestream-192.int8-qdq.onnx"
    assert report["files"] == {str(file): file.stat().st_size}
    assert (report["sequences"], report["frames"], report["left_out"], report["products"]) == (1, 6, 0, 66)
    assert report["check"]["frames"] == 3
    assert 0.0 < report["check"]["box_median"] < 0.01
    assert [path.name for path in data_home.iterdir()] == [file.name]

    gpu = clip / "nvidia0"
    gpu.touch()
    monkeypatch.setattr(load, "_GPU_FILES", (str(gpu),))
    monkeypatch.setattr(load, "find_spec", lambda name: name)
    options = load.list_options(load_variant("onestream-192"), EngineSettings("tensorrt", "int8"))
    assert [(option.file, option.precision, option.missing) for option in options] == [(file, "int8", "")]


@pytest.mark.usefixtures("data_home")
def test_what_is_printed_and_an_unreadable_image(clip: Path, tmp_path: Path, capsys):
    """One of the images is broken: it is left out and counted."""
    for image in sorted((clip / "img").iterdir())[5:7]:
        image.write_bytes(b"no image")
    output = tmp_path / "out.onnx"
    assert main(command(clip, "-o", str(output))) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{output}: 3.")
    assert lines[1].startswith("66 products in int8, calibrated (minmax) with ")
    assert "2 frames left out (unreadable" in lines[1]
    assert "other frames compared with fp32: box difference median " in lines[2]
    metadata = {entry.key: entry.value for entry in onnx.load(output).metadata_props}
    assert metadata["precision"] == "int8"
    engines = load_engines(load_variant("onestream-192"), EngineSettings("onnxruntime", "int8", output))
    assert engines.precision == "int8"


@pytest.mark.usefixtures("data_home")
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("LARGEST_MEDIAN", 0.0, "search sides off, allowed are 0 in the median"),
        ("LARGEST_P90", 0.0, "a tenth of its boxes is"),
        ("LEAST_CORRELATION", 1.01, "its scores correlate by"),
    ],
)
def test_a_graph_that_is_too_far_off_is_not_written(clip: Path, tmp_path: Path, capsys, monkeypatch, name, value, said):
    monkeypatch.setattr(quantize, name, value)
    output = tmp_path / "out.onnx"
    output.write_text("old")
    assert main(command(clip, "-o", str(output))) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    last = captured.err.splitlines()[-1]
    assert said in last
    assert "is not written" in last
    assert output.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    if name == "LARGEST_MEDIAN":
        assert main(command(clip, "-o", str(output), "--no-check")) == 0
        assert capsys.readouterr().out.endswith("not checked\n")
        assert output.stat().st_size > 1_000_000


def test_broken_weights_are_no_agreement(clip: Path, tmp_path: Path):
    """The comparison itself: NaN is not close to anything."""
    found = quantize.Check(5, float("nan"), 0.0, 0.0, 1.0)
    assert "nan search sides off" in found.problem
    assert quantize.Check(5, 0.0, 0.0, 0.0, float("nan")).problem != ""
    assert quantize.Check(5, 0.005, 0.05, 0.5, 0.99).problem == ""


def empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def without_truth(folder: Path) -> Path:
    (folder / "untrue" / "one" / "img").mkdir(parents=True)
    cv2.imwrite(str(folder / "untrue" / "one" / "img" / "1.png"), SyntheticClip(1).render(0).image)
    return folder / "untrue"


@pytest.mark.usefixtures("data_home")
@pytest.mark.parametrize(
    ("sequences", "options", "status", "said"),
    [
        (None, ["--model", "swift"], 2, "unknown model 'swift'"),
        (None, ["--frames", "0"], 2, "'0'"),
        (None, ["--method", "guess"], 2, "guess"),
        (None, ["-o", "out.pt"], 2, "'out.pt' must end in .onnx"),
        (None, ["--graph", "none.onnx"], 1, "none.onnx does not exist"),
        (None, ["--graph", str(WEIGHTS_DIR / "onestream-192.int8.onnx")], 1, "is quantised already"),
        (None, ["--graph", str(FP32), "-o", str(FP32)], 1, "is the fp32 graph: name another file"),
        (None, ["-o", "file/out.onnx"], 1, "file"),
        (None, ["--model", "ostrack-b256"], 1, "ros2-tracker export --model ostrack-b256 -o"),
        (empty, [], 1, "there are no sequences in this folder"),
        (without_truth, [], 1, "one: there is no groundtruth_rect.txt"),
        (lambda folder: folder / "nowhere", [], 1, "nowhere: no such folder"),
    ],
)
def test_one_line_says_what_is_wrong(clip, tmp_path, capsys, monkeypatch, sequences, options, status, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(command(sequences(tmp_path) if sequences else clip, *options)) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert list(tmp_path.rglob("*.onnx")) == []


@pytest.mark.usefixtures("data_home")
def test_no_frame_can_be_used(clip: Path, capsys):
    for image in (clip / "img").iterdir():
        image.write_bytes(b"no image")
    assert main(command(clip)) == 1
    assert "none of the 6 frames could be used" in capsys.readouterr().err


def test_real_footage_stays_within_the_limits(sequences: Path, tmp_path: Path):
    """A frame or two of every sequence."""
    report = quantize.quantize_checked(
        load_variant("onestream-192"), FP32, sequences, tmp_path / "out.onnx", 26, "minmax", threads=1
    )
    print(report.as_text())
    assert report.sequences >= 3
    assert report.check.problem == ""
