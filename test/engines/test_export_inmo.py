"""The export of InMo: narrow networks of every kind against torch, and in TensorRT."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
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

from ros2_tracker.engines.export import export_onnx, features_of  # noqa: E402
from ros2_tracker.engines.fp16 import to_fp16  # noqa: E402
from ros2_tracker.engines.onnxruntime import load_onnx_engines  # noqa: E402
from ros2_tracker.engines.self_test import features_test, self_test  # noqa: E402
from ros2_tracker.engines.torch import torch_engines  # noqa: E402
from ros2_tracker.models.build import build_network  # noqa: E402
from ros2_tracker.models.graphs import graphs_of  # noqa: E402
from ros2_tracker.models.variant import load_variant, template_graph  # noqa: E402

pytestmark = pytest.mark.timeout(600)  # the first test of a kind waits for its export

NARROW = {"depths": [1, 1, 1, 1], "width": 12, "neck_width": 64}
KINDS = {
    # name: variant, settings beside the narrow ones
    "star": ("transinmo-star", {"layers": 1, "depths": [1, 2, 1, 1]}),
    "paper": ("transinmo", {"attention": "paper"}),
    "cnn": ("cnninmo", {"attention": "released"}),
}
LIMITS = {"fp32": 1e-4, "fp16": 5e-3}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def fill(network):
    """Weights under which every part has a say and nothing overflows."""
    network.requires_grad_(False)
    for entry, parameter in network.named_parameters():
        if parameter.ndim > 1:
            generator = torch.Generator().manual_seed(zlib.crc32(entry.encode()))
            gain = 0.4 if "_map_" in entry or "_proj" in entry or "conv3" in entry else 1.0
            parameter.normal_(std=gain * parameter[0].numel() ** -0.5, generator=generator)
    if hasattr(network.backbone, "conv1"):
        network.backbone.conv1.weight.mul_(0.01)  # its images are in 0..255


@pytest.fixture(scope="module", params=KINDS)
def exported(request, tmp_path_factory):
    """Variant, network, and files by precision; the fp16 files are made of the fp32 ones: tracing takes longest."""
    name, settings = KINDS[request.param]
    variant = load_variant(name)
    variant = replace(variant, network={**variant.network, **NARROW, **settings})
    network = build_network(variant)
    fill(network)
    single = export_onnx(network, variant, tmp_path_factory.mktemp(request.param) / "single.onnx")
    half = (single[0].with_name("half.onnx"), template_graph(single[0].with_name("half.onnx")))
    for graph, source, target in zip(graphs_of(network), single, half, strict=True):
        model = ir.load(source)
        to_fp16(model, features_of(graph))
        model.metadata_props["precision"] = "fp16"
        ir.save(model, target)
    return variant, network, {"fp32": single, "fp16": half}


def answer(variant, per_frame, per_template, batch):
    """Through both graphs: each template alone, then all targets at once."""
    crops = {
        size: [parity.fixgen.make_image(size, size, size + i)[None] for i in range(batch)]
        for size in (variant.template.size, variant.search.size)
    }
    made = [per_template.run({"template": z}) for z in crops[variant.template.size]]
    inputs = {f"template_{name}": np.concatenate([each[name] for each in made]) for name in made[0]}
    return per_frame.run({**inputs, "search": np.concatenate(crops[variant.search.size])})


def test_graphs_equal_torch(exported):
    variant, network, files = exported
    expected = answer(variant, *map(Torch, graphs_of(network)), 2)
    cells = network.settings.cells
    for precision, own in files.items():
        actual = answer(variant, *map(Runtime, own), 2)
        assert list(actual) == list(expected)
        assert all(value.dtype == np.float32 for value in actual.values())
        assert actual["score_map"].shape == (2, cells, cells)
        for name in expected.keys() - {"box", "score"}:  # another cell may be as good
            scale = max(1.0, np.abs(expected[name]).max())
            assert parity.max_error(actual[name], expected[name]) < LIMITS[precision] * scale, (precision, name)
        if precision == "fp32":
            assert parity.max_error(actual["box"], expected["box"]) < LIMITS[precision]


def test_box_is_that_of_the_best_windowed_cell(exported):
    variant, network, _ = exported
    per_frame, per_template = graphs_of(network)
    found = answer(variant, Torch(per_frame), Torch(per_template), 1)
    row, column = divmod(int((found["score_map"][0] * per_frame.window.numpy()).argmax()), network.settings.cells)
    if "box_map" in found:
        expected = found["box_map"][0, :, row, column]
    else:
        left, top, right, bottom = found["ltrb"][0, :, row, column]
        x, y = ((8 * place + 31.5) / 255 for place in (column, row))
        expected = (x + (right - left) / 2, y + (bottom - top) / 2, left + right, top + bottom)
    np.testing.assert_allclose(found["box"][0], expected, atol=1e-5)
    assert found["score"][0] == found["score_map"][0, row, column]


def test_engines_of_the_files_pass_the_self_test(exported):
    variant, network, files = exported
    reference = torch_engines(network, variant, "the same weights")
    engines = load_onnx_engines(variant, files["fp32"][0], threads=1)
    found = self_test(engines, reference, "fp32")
    assert found.passed, found.text
    features = features_test(engines.per_template, reference.per_template, "fp32")
    assert features.passed, features.text


def test_features_between_the_graphs_are_fp16(exported):
    per_frame, per_template = map(Runtime, exported[2]["fp16"])
    made = {f"template_{node.name}": node.type for node in per_template.session.get_outputs()}
    taken = {node.name: node.type for node in per_frame.session.get_inputs()}
    assert taken == {**made, "search": "tensor(uint8)"}
    assert set(made.values()) == {"tensor(float16)"}


@pytest.mark.parametrize("name", ["transinmo", "cnninmo"])
def test_without_target_aware_attention_only_the_neck_reads_the_template(name):
    variant = load_variant(name)
    variant = replace(variant, network={**variant.network, **NARROW, "target_aware": False})
    network = build_network(variant)
    fill(network)
    engines = torch_engines(network, variant, "random weights")
    assert set(engines.per_template.outputs) == {"tokens"}
    assert set(engines.per_frame.inputs) == {"template_tokens", "search"}
    found = answer(variant, *map(Torch, graphs_of(network)), 1)
    assert all(np.isfinite(value).all() for value in found.values())


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="needs `pip install tensorrt-rtx`")
def test_tensorrt_builds_every_graph(exported):
    files = [str(file) for file in exported[2]["fp16"]]
    program = Path(__file__).parents[1] / "tensorrt_builds.py"
    child = subprocess.run([sys.executable, program, *files], capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr[-2000:]
    built = [json.loads(line) for line in child.stdout.splitlines()]
    assert [each["file"] for each in built] == files
    for each in built:
        assert each["errors"] == []
        assert each["bytes"] > 0
