"""The export of every variant in its full size, with the fixtures' synthetic weights: real crops, and TensorRT."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import parity
import pytest

torch = pytest.importorskip("torch", reason="the export needs torch")
pytest.importorskip("onnxscript", reason="the export needs onnxscript")

import cv2  # noqa: E402
import onnx  # noqa: E402
import onnx_ir as ir  # noqa: E402
from rounded_onnx import RoundedOnnx  # noqa: E402

from ros2_tracker.engines.export import export_onnx  # noqa: E402
from ros2_tracker.engines.fp16 import to_fp16  # noqa: E402
from ros2_tracker.evaluation import export_check as check  # noqa: E402
from ros2_tracker.evaluation.sequences import ImageFolder  # noqa: E402
from ros2_tracker.models.build import build_network  # noqa: E402
from ros2_tracker.models.variant import Variant, load_variant, template_graph  # noqa: E402
from ros2_tracker.tracking.frame import frame_from_array  # noqa: E402
from ros2_tracker.tracking.geometry import Box  # noqa: E402

pytestmark = pytest.mark.timeout(600)  # the first test of a variant waits for its export

WEIGHTS = {
    # variant: entries and seed of the fixtures' weights
    "stark-lightning": ("stark_lightning", 51),
    "stark-s50": ("stark_s50", 7),
    "stark-st50": ("stark_st50", 45),
    "stark-st101": ("stark_st101", 7),
    "ostrack-b256": ("ostrack_256_ce", 1),
    "ostrack-b384": ("ostrack_384_ce", 1),
}
ATTENTIONS = {"ostrack-b256": 12, "ostrack-b384": 12, "stark-lightning": 1}
"""Softmaxes that TensorRT can fuse with the products around them. STARK: 6 layers of encoder, 6 of decoder with 2."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Two threads of torch wait for each other by spinning: ten times slower where another program has a core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Exported(NamedTuple):
    variant: Variant
    network: torch.nn.Module
    files: dict[str, tuple[Path, ...]]
    """By precision."""


@pytest.fixture(scope="session", params=WEIGHTS)
def exported(request, tmp_path_factory):
    """Both precisions of a variant. Tracing takes longest, so that the fp16 files are made of the fp32 ones."""
    variant = load_variant(request.param)
    network = build_network(variant, empty=True).to_empty(device="cpu")
    network = parity.load_synthetic(network, *WEIGHTS[variant.name])
    folder = tmp_path_factory.mktemp(variant.name)
    single = export_onnx(network, variant, folder / "single.onnx")
    half = (folder / "half.onnx", template_graph(folder / "half.onnx"))[: len(single)]
    for source, target in zip(single, half, strict=True):
        model = ir.load(source)
        to_fp16(model, ("tokens", "position") if target != half[0] else ())
        model.metadata_props["precision"] = "fp16"
        ir.save(model, target)
    yield Exported(variant, network, {"fp32": single, "fp16": half})
    for file in (*single, *half):  # 600 MB for the largest
        file.unlink()


@pytest.fixture(scope="session")
def questions(sequences):
    """Crops of three sequences, the last one at the image's border."""
    asked = []
    for folder in sorted(path for path in sequences.iterdir() if (path / "img").is_dir())[::10]:
        source = ImageFolder(folder / "img", folder / "groundtruth_rect.txt")
        first, last, frame = 0, 9, 10
        images = [frame_from_array(cv2.imread(str(source.files[i]))) for i in (first, frame)]
        boxes = [Box(*source.ground_truth[i]) for i in (first, last)]
        asked.append(check.Question(images[0], boxes[0], images[1], boxes[1]))
    assert len(asked) >= 3
    image, box = asked[-1].frame, asked[-1].last
    asked[-1] = asked[-1]._replace(last=Box(image.width - 0.7 * box.w, 0.2 * box.h, box.w, box.h))
    return asked


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_real_crops(exported, questions, precision):
    """The check of `ros2-tracker export`, on real crops.

    With synthetic weights many cells of OSTrack's score map are about as good as the best, and many candidates as good
    as those at the cut, so that rounding errors swap some: `Agreement` says how they are compared all the same.
    """
    found = check.check_export(exported.network, exported.variant, exported.files[precision], questions, threads=1)
    print(exported.variant.name, found)
    assert found.precision == precision
    assert found.crops == len(questions)
    assert found.other_cell <= (0 if precision == "fp32" else 1)
    assert found.problem == ""
    assert found.steady_box <= {"fp32": 1e-4, "fp16": 2e-3}[precision]
    assert found.box <= {"fp32": 1e-4, "fp16": 2e-3}[precision]
    if precision == "fp16":
        assert 1.0 < found.largest_value < 65504.0 / 16.0


def test_real_crops_with_every_result_rounded(exported, questions, monkeypatch):
    """What an accelerator's fp16 costs, which ONNX Runtime on a CPU does not show.

    The boxes of torch.autocast are as far off as STARK's here: random weights amplify any error.
    """
    monkeypatch.setattr(check, "_OnnxGraph", RoundedGraph)
    found = check.check_export(exported.network, exported.variant, exported.files["fp16"], questions[-1:], threads=1)
    print(exported.variant.name, found)
    assert found.steady_box <= 2e-3
    assert found.candidate_gap <= 0.01


class RoundedGraph:
    """In place of ONNX Runtime."""

    def __init__(self, file, threads):
        model = onnx.load(file)
        self.metadata = {entry.key: entry.value for entry in model.metadata_props}
        self.orders = [node.output[1] for node in model.graph.node if node.op_type == "TopK"]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self.orders)
        self.run = RoundedOnnx(model).run


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="needs `pip install tensorrt-rtx`")
def test_tensorrt_builds_every_graph(exported):
    files = [str(file) for precision in exported.files.values() for file in precision]
    program = Path(__file__).parents[1] / "tensorrt_builds.py"
    child = subprocess.run([sys.executable, program, *files], capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr[-2000:]
    built = [json.loads(line) for line in child.stdout.splitlines()]
    assert [each["file"] for each in built] == files
    for precision, own in exported.files.items():
        for each in built[: len(own)]:
            assert each["errors"] == []
            inputs, outputs = expected_tensors(exported.variant, precision, each["file"].endswith(".template.onnx"))
            assert each["inputs"] == inputs
            assert each["outputs"] == outputs
            assert each["bytes"] > 0.9 * Path(each["file"]).stat().st_size
            if each["version"].startswith("1.7") and not each["file"].endswith(".template.onnx"):  # what its log says
                assert each["attention"] == ATTENTIONS.get(exported.variant.name, 18)
        built = built[len(own) :]


def expected_tensors(variant, precision, is_template_graph):
    """Names, types and shapes as `models.graphs` lists them."""
    z, x = variant.template.size, variant.search.size
    cells_z, cells_x = (z // 16) ** 2, x // 16
    if variant.family == "ostrack":
        inputs = {"template": ["UINT8", [1, z, z, 3]], "search": ["UINT8", [1, x, x, 3]]}
        maps = [1, cells_x, cells_x]
    else:
        width = 128 if variant.name == "stark-lightning" else 256
        kind = {"fp32": "FLOAT", "fp16": "HALF"}[precision]
        count = cells_z if is_template_graph else cells_z * variant.templates
        features = {
            "tokens": [kind, [1, count, width]],
            "position": [kind, [1, count, width]],
            "cells": ["BOOL", [1, count]],
        }
        if is_template_graph:
            return {"template": ["UINT8", [1, z, z, 3]], "template_padded": ["BOOL", [1, z, z]]}, features
        inputs = {f"template_{name}": value for name, value in features.items()}
        inputs |= {"search": ["UINT8", [1, x, x, 3]], "search_padded": ["BOOL", [1, x, x]]}
        maps = [1, 2, cells_x, cells_x]
    return inputs, {"box": ["FLOAT", [1, 4]], "score": ["FLOAT", [1]], "score_map": ["FLOAT", maps]}
