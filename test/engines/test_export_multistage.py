"""The export of Multi-Stage: narrow networks of every kind, and the small variant with the stand-in's weights."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import parity
import pytest

torch = pytest.importorskip("torch", reason="the export needs torch")
pytest.importorskip("onnxscript", reason="the export needs onnxscript")
onnxruntime = pytest.importorskip("onnxruntime", reason="graphs are run with ONNX Runtime")

import onnx  # noqa: E402
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
from ros2_tracker.models.graphs import graphs_of, mixed_score  # noqa: E402
from ros2_tracker.models.multistage import MultiStage, MultiStageSettings  # noqa: E402
from ros2_tracker.models.stand_in import stand_in_weights  # noqa: E402
from ros2_tracker.models.variant import WEIGHTS_DIR, load_variant, template_graph  # noqa: E402
from ros2_tracker.models.window import hann_window  # noqa: E402

KINDS = {
    "mlp": MultiStageSettings(widths=(16, 24, 48), depths=(1, 1, 2), levels=(1,), heads=3),
    "mixing": MultiStageSettings(widths=(16, 24, 48), depths=(1, 1, 2), levels=(1,), heads=3, local_mixing=True),
    "conv": MultiStageSettings(
        widths=(8, 16, 48), depths=(1, 1, 2), levels=(1,), heads=3, local="conv", normed_levels=False, head="distances"
    ),
}
BOX = {"fp32": 1e-4, "fp16": 2e-3}  # of the search side
MAPS = {"fp32": 1e-4, "fp16": 5e-3}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def narrow(kind):
    torch.manual_seed(6)
    network = MultiStage(KINDS[kind])
    for module in network.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.15)
        elif isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.normal_(module.running_mean, std=0.3)
    return network.eval().requires_grad_(False)


def crops(size, batch, seed):
    return np.stack([parity.fixgen.make_image(size, size, seed + i) for i in range(batch)])


def answer(per_frame, per_template, batch):
    """Through both graphs: each template alone, then all targets at once, with different classifiers."""
    made = [per_template.run({"template": z[None]}) for z in crops(128, batch, 1)]
    tokens = np.concatenate([each["tokens"] for each in made])
    learnt = np.random.default_rng(3).normal(0.0, 0.3, (batch, tokens.shape[-1] + 2)).astype(np.float32)
    learnt[:, -2], learnt[:, -1] = 0.5, np.linspace(0.0, 0.6, batch)
    return per_frame.run({"template_tokens": tokens, "search": crops(256, batch, 9), "learnt": learnt})


@pytest.mark.parametrize("kind", KINDS)
def test_graphs_equal_torch(kind, tmp_path):
    network, batch = narrow(kind), 3
    single = export_onnx(network, load_variant("multistage-b"), tmp_path / "m.onnx", batch)
    assert [file.name for file in single] == ["m.onnx", "m.template.onnx"]
    expected = answer(*map(Torch, graphs_of(network)), batch)
    for precision, files in {"fp32": single, "fp16": halved(network, single)}.items():
        for run_time in (Runtime, RoundedOnnx):
            actual = answer(*map(run_time, files), batch)
            assert list(actual) == ["box", "score", "score_map", "cell", "features"]
            channels = expected["features"].shape[-1]
            chosen = np.argmax((actual["score_map"] * hann_window(16)).reshape(batch, -1), axis=1)
            np.testing.assert_array_equal(actual["cell"], np.stack(np.divmod(chosen, 16), axis=1))
            shapes = [(batch, 4), (batch,), (batch, 16, 16), (batch, 2), (batch, 256, channels)]
            assert [value.shape for value in actual.values()] == shapes
            assert actual.pop("cell").dtype == np.int32
            assert all(value.dtype == np.float32 for value in actual.values())
            assert parity.max_error(actual["score_map"], expected["score_map"]) < MAPS[precision]
            assert parity.max_error(actual["box"], expected["box"]) < BOX[precision]
            assert parity.max_error(actual["features"], expected["features"]) < MAPS[precision]


def test_a_classifier_is_mixed_into_the_score_as_its_equation_says():
    rng = np.random.default_rng(1)
    score = rng.uniform(1e-4, 1.0, (3, 1, 4, 4)).astype(np.float32)
    features = rng.normal(size=(3, 16, 5)).astype(np.float32)
    learnt = rng.normal(0.0, 0.5, (3, 7)).astype(np.float32)
    learnt[:, -1] = 0.0, 0.5, 1.0
    found = mixed_score(*map(torch.from_numpy, (score, features, learnt))).numpy()
    response = np.clip((features * learnt[:, None, :5]).sum(-1) + learnt[:, 5:6], 0.05, 1.0).reshape(score.shape)
    assert found[0] == pytest.approx(score[0], rel=1e-4)
    assert found[1] == pytest.approx(np.sqrt(score[1] * response[1]), rel=1e-4)
    assert found[2] == pytest.approx(response[2], rel=1e-4)


def halved(network, single):
    """The fp16 files, made of the fp32 ones as `export_onnx` does: tracing is what takes seconds."""
    files = []
    for graph, source in zip(graphs_of(network), single, strict=True):
        model = ir.load(source)
        to_fp16(model, features_of(graph), ("learnt",))
        model.metadata_props["precision"] = "fp16"
        target = source.with_name("half.onnx")
        files.append(target if source == single[0] else template_graph(target))
        ir.save(model, files[-1])
    return files


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """`multistage-tiny` with the stand-in's weights: variant, network, files by precision."""
    variant = load_variant("multistage-tiny")
    network = build_network(variant)
    network.load_state_dict(stand_in_weights(WEIGHTS_DIR / "onestream-192.onnx"))
    network.requires_grad_(False)
    single = export_onnx(network, variant, tmp_path_factory.mktemp("tiny") / "single.onnx")
    return variant, network, {"fp32": single, "fp16": halved(network, single)}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_check_of_an_export_passes(tiny, precision):
    variant, network, files = tiny
    found = check.check_export(network, variant, files[precision], check.rendered_questions(4), threads=1)
    print(found)
    assert found.problem == ""
    assert found.crops == 4
    assert found.other_cell <= (precision == "fp16")  # rounding chooses between two that are as good
    assert found.box <= BOX[precision]
    assert found.score_map <= MAPS[precision]
    assert found.features is not None
    assert found.features <= check.FEATURE_TOLERANCES[precision]


def test_the_check_of_an_export_finds_other_features(tiny):
    variant, network, files = tiny
    other = build_network(variant)
    other.load_state_dict(network.state_dict())
    # Box and scores agree.
    with_tokens = other.with_tokens
    other.with_tokens = lambda template, image: (with_tokens(template, image)[0], 0.5 + with_tokens(template, image)[1])
    found = check.check_export(other.requires_grad_(False), variant, files["fp32"], check.rendered_questions(1), 1)
    assert found.box <= BOX["fp32"]
    assert "features of a cell" in found.problem


def test_the_check_of_an_export_finds_a_cell_that_is_not_the_best(tiny, monkeypatch):
    variant, network, files = tiny
    run = check._OnnxGraph.run

    def moved(graph, given):
        answer = dict(run(graph, given))
        return {**answer, "cell": 15 - answer["cell"]} if "cell" in answer else answer

    monkeypatch.setattr(check._OnnxGraph, "run", moved)
    found = check.check_export(network, variant, files["fp32"], check.rendered_questions(2), 1)
    assert "in 2 crops" in found.problem


def test_the_check_of_an_export_finds_another_network(tiny):
    variant, network, files = tiny
    other = build_network(variant)
    other.load_state_dict(network.state_dict())
    other.requires_grad_(False).box_head.reg[-1].bias += 0.1
    found = check.check_export(other, variant, files["fp32"], check.rendered_questions(1), 1)
    assert "search sides off torch's" in found.problem


def test_engines_of_the_files_pass_the_self_test(tiny):
    variant, network, files = tiny
    reference = torch_engines(network, variant, "the same weights")
    for precision, (file, _) in files.items():
        engines = load_onnx_engines(variant, file, threads=1)
        found = self_test(engines, reference, precision)
        assert found.passed, found.text
        features = features_test(engines.per_template, reference.per_template, precision)
        assert features.passed, features.text


def test_tokens_between_the_graphs_are_fp16(tiny):
    per_frame, per_template = map(Runtime, tiny[2]["fp16"])
    made = {node.name: node.type for node in per_template.session.get_outputs()}
    taken = {node.name: node.type for node in per_frame.session.get_inputs()}
    assert made == {"tokens": "tensor(float16)"}
    assert taken == {
        "template_tokens": "tensor(float16)", "search": "tensor(uint8)", "learnt": "tensor(float)",
    }  # fmt: skip


def test_graphs_are_lean(tiny):
    for precision, files in tiny[2].items():
        for file in files:
            onnx.checker.check_model(onnx.load(file), full_check=True)
            graph = ir.load(file).graph
            kinds = {node.op_type for node in graph}
            assert not kinds & {"BatchNormalization", "Identity", "Constant", "IsNaN", "SpaceToDepth"}
            readers = [node.op_type for v in graph.inputs if v.dtype == ir.DataType.UINT8 for node, _ in v.uses()]
            assert readers == ["Cast"]
            if precision == "fp16":
                weights = [w for w in graph.initializers.values() if w.dtype == ir.DataType.FLOAT]
                assert all(w.const_value.size < 20_000 for w in weights)  # the last convolutions stay fp32


def test_onnx_runtime_fuses_every_gelu(tiny, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(tiny[2]["fp32"][0]), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert "Erf" not in kinds
    assert sum(kind in ("Gelu", "BiasGelu") for kind in kinds) == 6


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="needs `pip install tensorrt-rtx`")
@pytest.mark.timeout(300)
def test_tensorrt_builds_every_graph(tiny):
    files = [str(file) for own in tiny[2].values() for file in own]
    program = Path(__file__).parents[1] / "tensorrt_builds.py"
    child = subprocess.run([sys.executable, program, *files], capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr[-2000:]
    built = [json.loads(line) for line in child.stdout.splitlines()]
    assert [each["file"] for each in built] == files
    for each, (precision, is_template) in zip(
        built, [("fp32", False), ("fp32", True), ("fp16", False), ("fp16", True)], strict=True
    ):
        assert each["errors"] == []
        tokens = ["FLOAT" if precision == "fp32" else "HALF", [1, 64, 192]]
        if is_template:
            assert each["inputs"] == {"template": ["UINT8", [1, 128, 128, 3]]}
            assert each["outputs"] == {"tokens": tokens}
            continue
        learnt = ["FLOAT", [1, tokens[1][-1] + 2]]
        assert each["inputs"] == {"template_tokens": tokens, "search": ["UINT8", [1, 256, 256, 3]], "learnt": learnt}
        maps = {"box": ["FLOAT", [1, 4]], "score": ["FLOAT", [1]], "score_map": ["FLOAT", [1, 16, 16]]}
        assert each["outputs"] == {**maps, "cell": ["INT32", [1, 2]], "features": ["FLOAT", [1, 256, 192]]}
        assert each["bytes"] > 0.9 * Path(each["file"]).stat().st_size
        if each["version"].startswith("1.7"):  # what its log says
            assert each["attention"] == 6
