"""The export of IBFP: a narrow network's graphs against torch, run as they are and rounded to fp16; TensorRT."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import parity
import pytest

torch = pytest.importorskip("torch", reason="the export needs torch")
pytest.importorskip("onnxscript", reason="the export needs onnxscript")
pytest.importorskip("onnxruntime", reason="graphs are run with ONNX Runtime")

import onnx_ir as ir  # noqa: E402
from graph_runs import Runtime, Torch  # noqa: E402
from rounded_onnx import RoundedOnnx  # noqa: E402

from ros2_tracker.engines.export import export_onnx, features_of  # noqa: E402
from ros2_tracker.engines.fp16 import to_fp16  # noqa: E402
from ros2_tracker.engines.onnxruntime import load_onnx_engines  # noqa: E402
from ros2_tracker.engines.self_test import features_test, self_test  # noqa: E402
from ros2_tracker.engines.torch import torch_engines  # noqa: E402
from ros2_tracker.evaluation import export_check as check  # noqa: E402
from ros2_tracker.models.build import build_network  # noqa: E402
from ros2_tracker.models.graphs import graphs_of  # noqa: E402
from ros2_tracker.models.variant import load_variant, template_graph  # noqa: E402
from ros2_tracker.tracking.network import TrackingNetwork  # noqa: E402

VARIANT = replace(load_variant("ibfp-r18"), network={"width": 8, "head_width": 16}, online={"kind": "off"})
OUTPUTS = ["box", "score", "score_map", "linear_map", "ltrb", "features"]
TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2}
TARGET = np.array([[90, 40]], np.int32)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def narrow():
    """With statistics of norms as after training, and scores that differ from cell to cell."""
    torch.manual_seed(6)
    network = build_network(VARIANT)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.normal_(module.running_mean, std=0.3)
    torch.nn.init.normal_(network.box_head.cls[-1].weight, std=0.02)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def files(narrow, tmp_path_factory):
    """By precision; the fp16 files are made of the fp32 ones as `export_onnx` does: tracing is what takes seconds."""
    single = export_onnx(narrow, VARIANT, tmp_path_factory.mktemp("ibfp") / "single.onnx")
    half = (single[0].with_name("half.onnx"), template_graph(single[0].with_name("half.onnx")))
    for graph, source, target in zip(graphs_of(narrow), single, half, strict=True):
        model = ir.load(source)
        to_fp16(model, features_of(graph))
        model.metadata_props["precision"] = "fp16"
        ir.save(model, target)
    return {"fp32": single, "fp16": half}


def crops(batch, seed):
    return np.stack([parity.fixgen.make_image(288, 288, seed + i) for i in range(batch)])


def answer(per_frame, per_template, batch):
    """Through both graphs: each template alone, then all targets at once."""
    made = [per_template.run({"template": z[None], "template_target": TARGET}) for z in crops(batch, 1)]
    kept = {f"template_{name}": np.concatenate([each[name] for each in made]) for name in made[0]}
    return per_frame.run({**kept, "search": crops(batch, 9)})


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_graphs_equal_torch(narrow, files, precision):
    expected = answer(*map(Torch, graphs_of(narrow)), 2)
    for run_time in (Runtime, RoundedOnnx):
        actual = answer(*map(run_time, files[precision]), 2)
        assert list(actual) == OUTPUTS
        shapes = [(2, 4), (2,), (2, 36, 36), (2, 36, 36), (2, 4, 36, 36), (2, 32, 18, 18)]
        assert [value.shape for value in actual.values()] == shapes
        assert all(value.dtype == np.float32 for value in actual.values())
        for name in ("linear_map", "ltrb", "features"):
            scale = max(1.0, float(np.abs(expected[name]).max()))
            assert parity.max_error(actual[name], expected[name]) < TOLERANCES[precision] * scale


def test_features_between_the_graphs_are_fp16(files):
    for precision, kind in (("fp32", ir.DataType.FLOAT), ("fp16", ir.DataType.FLOAT16)):
        per_frame, per_template = (ir.load(file).graph for file in files[precision])
        expected = dict.fromkeys(("deep", "middle", "size"), kind)
        assert {value.name: value.dtype for value in per_template.outputs} == expected
        assert [value.dtype for value in per_frame.inputs] == [kind, kind, kind, ir.DataType.UINT8]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_check_of_an_export_passes(narrow, files, precision):
    found = check.check_export(narrow, VARIANT, files[precision], check.rendered_questions(3), threads=1)
    print(found)
    assert found.problem == ""
    assert found.crops == 3


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_engines_of_the_files_pass_the_self_test_and_track(narrow, files, precision):
    engines = load_onnx_engines(VARIANT, files[precision][0], threads=1)
    reference = torch_engines(narrow, VARIANT, "the same weights")
    found = self_test(engines, reference, precision)
    assert found.passed, found.text
    features = features_test(engines.per_template, reference.per_template, precision)
    assert features.passed, features.text
    TrackingNetwork(VARIANT, engines).warm_up()


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="needs `pip install tensorrt-rtx`")
def test_tensorrt_builds_every_graph(files):
    names = [str(file) for precision in files.values() for file in precision]
    program = Path(__file__).parents[1] / "tensorrt_builds.py"
    child = subprocess.run([sys.executable, program, *names], capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr[-2000:]
    built = [json.loads(line) for line in child.stdout.splitlines()]
    assert [each["file"] for each in built] == names
    assert [each["errors"] for each in built] == [[]] * len(names)
    assert all(list(each["outputs"]) == OUTPUTS for each in built[::2])
