"""`ros2-tracker export`, and the comparison with torch that it makes."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace

import parity
import pytest

torch = pytest.importorskip("torch", reason="the export needs torch")
pytest.importorskip("onnxscript", reason="the export needs onnxscript")
safetensors_torch = pytest.importorskip("safetensors.torch", reason="weights are safetensors files")

import onnx  # noqa: E402

from ros2_tracker.cli import main  # noqa: E402
from ros2_tracker.engines.export import export_onnx  # noqa: E402
from ros2_tracker.engines.onnxruntime import load_onnx_engines  # noqa: E402
from ros2_tracker.evaluation import export  # noqa: E402
from ros2_tracker.evaluation import export_check as check  # noqa: E402
from ros2_tracker.models.ostrack import Elimination, OSTrack, OSTrackSettings  # noqa: E402
from ros2_tracker.models.stark import StarkLightning  # noqa: E402
from ros2_tracker.models.variant import load_variant  # noqa: E402

AGREEMENT = check.Agreement(
    precision="fp16",
    crops=6,
    other_candidates=1,
    candidate_gap=1e-3,
    other_cell=0,
    other_chosen=0,
    box=1e-4,
    steady_box=1e-4,
    score=2e-4,
    score_map=3e-4,
    largest_value=12.0,
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    network = parity.load_synthetic(StarkLightning(), "stark_lightning", 51)
    file = tmp_path_factory.mktemp("weights") / "stark-lightning.safetensors"
    safetensors_torch.save_file(network.state_dict(), file)
    return file


@pytest.fixture
def quick(monkeypatch):
    """No tracing: two small files."""

    def write(network, variant, output, *arguments):
        files = output, output.with_name(f"{output.stem}.template.onnx")
        for file in files:
            file.write_bytes(b"graph")
        return files

    monkeypatch.setattr(export, "export_onnx", write)
    monkeypatch.setattr(export, "check_export", lambda *arguments: AGREEMENT)


def command(weights, output, *options):
    return ["export", "--model", "stark-lightning", "--weights", str(weights), "-o", str(output), *options]


def test_export_and_check(weights, tmp_path, capsys):
    output = tmp_path / "new" / "s.fp16.onnx"
    assert main(command(weights, output, "--precision", "fp16", "--batch", "2", "--json")) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    template = output.with_name("s.fp16.template.onnx")
    assert report["files"] == {str(file): file.stat().st_size for file in (output, template)}
    assert (report["model"], report["precision"], report["batch"]) == ("stark-lightning", "fp16", 2)
    assert report["check"]["crops"] == 6
    assert 0.0 < report["check"]["box"] < 5e-3
    assert sorted(output.parent.iterdir()) == [output, template]
    assert all(line.startswith("ros2-tracker export: ") for line in captured.err.splitlines())
    engines = load_onnx_engines(load_variant("stark-lightning"), output)
    assert engines.per_frame.batch == 2
    assert engines.per_template.batch == 1
    metadata = {entry.key: entry.value for entry in onnx.load(output).metadata_props}
    assert metadata["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_what_is_printed(weights, tmp_path, capsys, quick):
    assert main(command(weights, tmp_path / "s.onnx")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines[:2]] == [f"{tmp_path}/s.onnx", f"{tmp_path}/s.template.onnx"]
    assert lines[2] == (
        "6 crops compared with torch: box within 1.0e-04, score 2.0e-04, score map 3.0e-04, largest value 12"
    )


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"box": 0.01, "steady_box": 0.01}, "a box is 1.0e-02 search sides off torch's, allowed are 2e-03"),
        ({"box": float("nan"), "steady_box": float("nan")}, "a box is nan search sides off"),
        ({"other_chosen": 2}, "the cell that it names is not that of its best score, in 2 crops"),
        ({"candidate_gap": 0.3}, "drops candidates that are 30% better than some that it keeps"),
        ({"features": 0.02}, "features of a cell are 2.0e-02 off torch's"),
        ({"features": float("nan")}, "features of a cell are nan off"),
        ({"largest_value": 7e4}, "values up to 7e+04, and fp16 ends at 65504"),
    ],
)
def test_a_graph_that_fails_is_not_written(weights, tmp_path, capsys, quick, monkeypatch, found, said):
    monkeypatch.setattr(export, "check_export", lambda *arguments: replace(AGREEMENT, **found))
    output = tmp_path / "s.onnx"
    output.write_text("old")
    assert main(command(weights, output, "--precision", "fp16")) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err.splitlines()[-1]
    assert "is not written" in captured.err
    assert [file.name for file in tmp_path.iterdir()] == ["s.onnx"]
    assert output.read_text() == "old"

    assert main(command(weights, output, "--no-check")) == 0
    assert capsys.readouterr().out.endswith("not checked\n")
    assert output.read_bytes() == b"graph"


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["export"], 2, "--model"),
        (["export", "--model", "swift", "-o", "s.onnx"], 2, "unknown model 'swift'"),
        (["export", "--model", "stark-s50", "-o", "s.pt"], 2, "'s.pt' must end in .onnx"),
        (["export", "--model", "stark-s50", "-o", "s.onnx", "--batch", "0"], 2, "'0'"),
        (["export", "--model", "stark-s50", "-o", "s.onnx", "--precision", "int8"], 2, "int8"),
        (["export", "--model", "stark-s50", "-o", "s.onnx", "--weights", "none.safetensors"], 1, "none.safetensors"),
        (["export", "--model", "onestream-192", "-o", "s.onnx"], 1, "run from its graph"),
    ],
)
def test_usage(arguments, status, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_missing_packages(weights, tmp_path, capsys, monkeypatch):
    for name in ("ros2_tracker.evaluation.export", "ros2_tracker.engines.export", "ros2_tracker.engines.onnx_graph"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(command(weights, tmp_path / "s.onnx")) == 1
    assert "the export needs `pip install torch safetensors onnx onnxscript`" in capsys.readouterr().err


def narrow():
    torch.manual_seed(3)
    network = OSTrack(OSTrackSettings(width=24, depth=2, heads=2, elimination=Elimination(blocks=(0,)))).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.requires_grad_(False)


def test_the_check_tells_networks_apart(tmp_path):
    variant, network = load_variant("ostrack-b256"), narrow()
    files = export_onnx(network, variant, tmp_path / "o.onnx", batch=4)
    questions = check.rendered_questions()
    same = check.check_export(network, variant, files, questions)
    assert (same.problem, same.crops, same.other_candidates, same.other_cell) == ("", 6, 0, 0)
    assert same.largest_value is None

    network.box_head.conv5_size.bias += 0.01
    other = check.check_export(network, variant, files, questions)
    assert "search sides off torch's" in other.problem
    network.backbone.blocks[0].attn.qkv.bias += 0.3 * torch.randn(72)
    assert "drops candidates that are" in check.check_export(network, variant, files, questions).problem


def test_the_check_sees_values_beyond_fp16(tmp_path):
    variant, network = load_variant("ostrack-b256"), narrow()
    network.box_head.conv1_ctr[0].weight.mul_(5e4)
    files = export_onnx(network, variant, tmp_path / "o.onnx", precision="fp16")
    found = check.check_export(network, variant, files, check.rendered_questions(2))
    assert found.largest_value > 65504.0
    assert "fp16 ends at 65504" in replace(found, candidate_gap=0.0, steady_box=0.0).problem


def test_rendered_questions_reach_beyond_the_image():
    variant = load_variant("stark-s50")
    padded = [check._crops(variant, question)["search_padded"].mean() for question in check.rendered_questions()]
    assert sum(share > 0.05 for share in padded) >= 3
