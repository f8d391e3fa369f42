"""The export on narrow networks: same answers, types, metadata, nothing left behind."""

from __future__ import annotations

import copy
import logging
import warnings
from collections import Counter
from dataclasses import replace
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

import ros2_tracker  # noqa: E402
from ros2_tracker.engines import export  # noqa: E402
from ros2_tracker.engines.base import EngineError  # noqa: E402
from ros2_tracker.engines.export import export_onnx  # noqa: E402
from ros2_tracker.engines.onnxruntime import load_onnx_engines  # noqa: E402
from ros2_tracker.models.graphs import graphs_of  # noqa: E402
from ros2_tracker.models.ostrack import Elimination, OSTrack, OSTrackSettings  # noqa: E402
from ros2_tracker.models.prepare import fold_batch_norms, prepared, scale_similarity  # noqa: E402
from ros2_tracker.models.stark import Stark, StarkLightning, StarkSettings  # noqa: E402
from ros2_tracker.models.variant import load_variant  # noqa: E402

ELIMINATION = Elimination(blocks=(1,))
BOX = {"fp32": 1e-4, "fp16": 2e-3}  # of the search side
MAPS = {"fp32": 1e-4, "fp16": 5e-3}


def ostrack(elimination=None, **settings):
    torch.manual_seed(2)
    settings = {"width": 48, "depth": 3, "heads": 3} | settings
    network = OSTrack(OSTrackSettings(elimination=elimination, **settings)).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return network


def stark(name="stark-st50"):
    if name == "stark-lightning":
        return parity.load_synthetic(StarkLightning(), "stark_lightning", 51)
    torch.manual_seed(4)
    settings = StarkSettings(depths=(1, 1, 1), layers=1, score_head=load_variant(name).network["score_head"])
    return Stark(settings).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def traces():
    return {}


@pytest.fixture(autouse=True)
def traced_once(traces, monkeypatch):
    """Tracing is what takes seconds: the same graph is traced once for all tests."""
    really_traced = export.traced

    def traced(graph, inputs, any_batch=False):
        weights = tuple(float(p.detach().double().abs().sum()) for p in graph.parameters())
        shapes = tuple(i.shape for i in inputs)
        key = type(graph), getattr(graph.network, "elimination", None), shapes, weights, any_batch
        if key not in traces:
            traces[key] = ir.serde.serialize_model(really_traced(graph, inputs, any_batch))
        return ir.serde.deserialize_model(copy.deepcopy(traces[key]))

    monkeypatch.setattr(export, "traced", traced)


def crops(size, batch=1, seed=1):
    return np.stack([parity.fixgen.make_image(size, size, seed + i) for i in range(batch)])


def masks(size, batch=1):
    padded = np.zeros((batch, size, size), bool)
    padded[:, : size // 5] = True
    padded[1:, :, -size // 4 :] = True
    return padded


def stark_answer(per_frame, per_template, variant, batch):
    """Through both graphs: features of each target's templates, then all targets at once."""
    z, padded = crops(128, batch), masks(128, batch)
    features = [
        per_template.run({"template": z[i : i + 1], "template_padded": padded[i : i + 1]}) for i in range(batch)
    ]
    kept = {
        f"template_{name}": np.concatenate([np.concatenate([f[name] for f in features])] * variant.templates, axis=1)
        for name in features[0]
    }
    search = {"search": crops(320, batch, seed=5), "search_padded": masks(320, batch)}
    return per_frame.run(kept | search)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("elimination", [None, ELIMINATION])
@pytest.mark.parametrize(("fixed", "batch"), [(1, 1), (None, 3)])
def test_ostrack_graph_equals_torch(precision, elimination, fixed, batch, tmp_path):
    network = ostrack(elimination)
    (path,) = export_onnx(network, load_variant("ostrack-b256"), tmp_path / "o.onnx", fixed, precision)
    inputs = {"template": crops(128, batch), "search": crops(256, batch, seed=9)}
    expected = Torch(graphs_of(network)[0]).run(inputs)
    for actual in (Runtime(path).run(inputs), RoundedOnnx(path).run(inputs)):
        assert list(actual) == ["box", "score", "score_map"]
        assert [value.shape for value in actual.values()] == [(batch, 4), (batch,), (batch, 16, 16)]
        assert all(value.dtype == np.float32 for value in actual.values())
        assert parity.max_error(actual["box"], expected["box"]) < BOX[precision]
        assert parity.max_error(actual["score_map"], expected["score_map"]) < MAPS[precision]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    ("name", "fixed", "batch"),
    [
        ("stark-s50", 1, 1),
        ("stark-st50", 1, 1),
        ("stark-st50", None, 3),
        ("stark-lightning", None, 1),
        ("stark-lightning", None, 3),
    ],
)
def test_stark_graphs_equal_torch(precision, name, fixed, batch, tmp_path):
    network, variant = stark(name), load_variant(name)
    files = export_onnx(network, variant, tmp_path / "s.onnx", fixed, precision)
    assert [file.name for file in files] == ["s.onnx", "s.template.onnx"]
    expected = stark_answer(*map(Torch, graphs_of(network)), variant, batch)
    for run_time in (Runtime, RoundedOnnx):
        actual = stark_answer(*map(run_time, files), variant, batch)
        assert list(actual) == ["box", "score", "score_map"]
        assert all(value.dtype == np.float32 for value in actual.values())
        assert parity.max_error(actual["box"], expected["box"]) < BOX[precision]
        assert parity.max_error(actual["score_map"], expected["score_map"]) < MAPS[precision]
        assert actual["score_map"].sum((1, 2, 3)) == pytest.approx([2.0] * batch, abs=1e-5)
        assert parity.max_error(actual["score"], expected["score"]) < MAPS[precision]


@pytest.mark.parametrize("name", ["ostrack-b256", "stark-st50", "stark-lightning"])
def test_fp16_graph_is_strongly_typed(name, tmp_path):
    network = ostrack(ELIMINATION) if name == "ostrack-b256" else stark(name)
    # The last two of three towers, of two, and of the one that STARK-Lightning has for both corners.
    precise = {"ostrack-b256": 6, "stark-st50": 4, "stark-lightning": 2}[name]
    for file in export_onnx(network, load_variant(name), tmp_path / "g.onnx", precision="fp16"):
        onnx.checker.check_model(onnx.load(file), full_check=True)  # with the types of all values
        graph = ir.load(file).graph
        types = {node: {v.dtype.name for v in (*node.inputs, *node.outputs) if v and v.dtype} for node in graph}
        floats = {node: found & {"FLOAT", "FLOAT16"} for node, found in types.items()}
        assert all(len(found) < 2 for node, found in floats.items() if node.op_type != "Cast")
        for node, found in floats.items():
            if node.op_type in ("LayerNormalization", "Softmax", "Sigmoid", "ArgMax", "TopK", "Sin"):
                assert found == {"FLOAT"}, node.name
        convolutions = Counter(frozenset(floats[node]) for node in graph if node.op_type == "Conv")
        assert convolutions[frozenset({"FLOAT"})] == (0 if file.stem.endswith("template") else precise)
        assert convolutions.keys() <= {frozenset({"FLOAT"}), frozenset({"FLOAT16"})}
        products = Counter(frozenset(floats[node]) for node in graph if node.op_type == "MatMul")
        # Only what ranks the candidates is fp32.
        assert products[frozenset({"FLOAT"})] == (1 if name == "ostrack-b256" else 0)
        # Matrices and other kernels are fp16, also where fp32 operations follow.
        weights = [w for w in graph.initializers.values() if w.dtype.name == "FLOAT" and w.const_value.size >= 30_000]
        assert [w.shape for w in weights] == ([[128, 128, 3, 3]] if precise == 2 and len(products) else [])
        casts = [(node.inputs[0].dtype, node.outputs[0].dtype) for node in graph if node.op_type == "Cast"]
        assert all(source != target for source, target in casts)


def test_features_between_the_graphs_are_fp16(tmp_path):
    per_frame, per_template = export_onnx(stark(), load_variant("stark-st50"), tmp_path / "s.onnx", precision="fp16")
    made = {node.name: node.type for node in Runtime(per_template).session.get_outputs()}
    taken = {node.name: node.type for node in Runtime(per_frame).session.get_inputs()}
    assert made == {"tokens": "tensor(float16)", "position": "tensor(float16)", "cells": "tensor(bool)"}
    assert {f"template_{name}": kind for name, kind in made.items()}.items() <= taken.items()
    assert (taken["search"], taken["search_padded"]) == ("tensor(uint8)", "tensor(bool)")


def test_graphs_have_no_leftovers_of_the_exporter(tmp_path):
    for file in export_onnx(stark(), load_variant("stark-st50"), tmp_path / "s.onnx"):
        kinds = Counter(node.op_type for node in ir.load(file).graph)
        # Guards that would hide NaN; weights cut or turned at run time; batch normalisations.
        assert not kinds.keys() & {"IsNaN", "Split", "BatchNormalization", "Identity", "Constant"}
        graph = ir.load(file).graph
        moved = [node for node in graph if node.op_type in ("Transpose", "Mul", "Rsqrt")]
        assert not any(all(v.is_initializer() for v in node.inputs) for node in moved)
        # TensorRT can do nothing with uint8 but cast it; an open batch is read off its shape.
        readers = [node.op_type for v in graph.inputs if v.dtype == ir.DataType.UINT8 for node, _ in v.uses()]
        assert [kind for kind in readers if kind != "Shape"] == ["Cast"]


def test_nan_is_not_hidden(tmp_path):
    per_frame, per_template = map(Runtime, export_onnx(stark(), load_variant("stark-st50"), tmp_path / "s.onnx"))
    made = per_template.run({"template": crops(128), "template_padded": masks(128)})
    inputs = {f"template_{name}": np.concatenate([value] * 2, axis=1) for name, value in made.items()}
    inputs["template_tokens"][0, 7, 3] = np.nan
    assert np.isnan(per_frame.run(inputs | {"search": crops(320), "search_padded": masks(320)})["box"]).all()


def test_every_key_may_be_masked(tmp_path):
    variant = load_variant("stark-st50")
    files = export_onnx(stark(), variant, tmp_path / "s.onnx", precision="fp16")
    made = Runtime(files[1]).run({"template": crops(128), "template_padded": np.ones((1, 128, 128), bool)})
    inputs = {f"template_{name}": np.concatenate([value] * 2, axis=1) for name, value in made.items()}
    inputs |= {"search": crops(320), "search_padded": np.ones((1, 320, 320), bool)}
    for run_time in (Runtime, RoundedOnnx):
        assert all(np.isfinite(value).all() for value in run_time(files[0]).run(inputs).values())


def test_folded_batch_norms_change_no_answer():
    torch.manual_seed(0)
    network = stark("stark-st50")
    for module in network.modules():
        if hasattr(module, "running_var"):
            torch.nn.init.uniform_(module.running_var, 1e-6, 3.0)  # eps counts
            for name in ("weight", "bias", "running_mean"):
                torch.nn.init.normal_(getattr(module, name))
    folded = copy.deepcopy(network)
    fold_batch_norms(folded)
    assert not any("Norm2d" in type(module).__name__ for module in folded.modules())
    variant = load_variant("stark-st50")
    one, other = (stark_answer(*map(Torch, graphs_of(n)), variant, 1) for n in (network, folded))
    assert parity.max_error(one["box"], other["box"]) < 1e-5


def test_scaled_similarity_is_exact_and_keeps_features_within_fp16():
    torch.manual_seed(1)
    network, variant = stark(), load_variant("stark-st50")
    # Gains of 8: far above any that we know of.
    network.transformer.encoder.layers[-1].norm2.weight.fill_(8.0)
    network.transformer.decoder.norm.weight.fill_(8.0)
    scaled = copy.deepcopy(network)
    scale_similarity(scaled)
    largest = []
    for each in (network, scaled):
        for tower in ("tl", "br"):
            each.box_head.get_submodule(f"conv1_{tower}").register_forward_pre_hook(
                lambda module, inputs: largest.append(float(inputs[0].abs().max()))
            )
    expected, same = (stark_answer(*map(Torch, graphs_of(n)), variant, 1) for n in (network, scaled))
    assert all(np.array_equal(expected[name], same[name]) for name in expected)
    assert largest[2:] == [value / 16.0 for value in largest[:2]]
    assert max(largest[:2]) > 65504.0 / 4.0 > 4.0 * max(largest[2:])


def test_the_network_is_not_changed(tmp_path):
    network = stark("stark-lightning")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    export_onnx(network, load_variant("stark-lightning"), tmp_path / "s.onnx", precision="fp16")
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert len(prepared(network).state_dict()) < len(before)


def test_metadata(tmp_path):
    variant = replace(load_variant("stark-st50"), name="small")
    files = export_onnx(stark(), variant, tmp_path / "s.onnx", 3, "fp16", weights_sha256="ab" * 32)
    expected = {
        "variant": "small",
        "precision": "fp16",
        "batch": "3",
        "weights_sha256": "ab" * 32,
        "ros2_tracker": ros2_tracker.__version__,
    }
    here = str(Path(__file__).parents[2]).encode()
    assert not any(here in file.read_bytes() for file in files), "a folder of the machine that exported"
    found = [Runtime(file).session.get_modelmeta().custom_metadata_map for file in files]
    assert found == [expected, expected | {"batch": "1"}]  # templates come one at a time


def test_any_number_of_targets_unless_told_otherwise(tmp_path):
    (path,) = export_onnx(ostrack(), load_variant("ostrack-b256"), tmp_path / "o.onnx")
    metadata = Runtime(path).session.get_modelmeta().custom_metadata_map
    assert metadata["batch"] == "any"
    assert "weights_sha256" not in metadata  # they are not known
    engine = load_onnx_engines(load_variant("ostrack-b256"), path, threads=1).per_frame
    targets = [{"template": crops(128, seed=i)[0], "search": crops(256, seed=10 + i)[0]} for i in range(3)]
    for answer, target in zip(engine.run(targets), targets, strict=True):
        for name, value in engine.run([target])[0].items():
            np.testing.assert_allclose(answer[name], value, atol=1e-5, err_msg=name)


def test_refused(tmp_path):
    variant = load_variant("ostrack-b256")
    with pytest.raises(ValueError, match="Linear"):
        export_onnx(torch.nn.Linear(2, 2), variant, tmp_path / "o.onnx")
    with pytest.raises(ValueError, match="'fp8'"):
        export_onnx(ostrack(), variant, tmp_path / "o.onnx", precision="fp8")
    network = ostrack(depth=1)
    network.backbone.patch_embed.proj.weight.data[0, 0] = 7e4
    with pytest.raises(ValueError, match=r"patch_embed.proj.weight holds 70000, fp16 ends at 65504"):
        export_onnx(network, variant, tmp_path / "o.onnx", precision="fp16")
    assert list(tmp_path.iterdir()) == []


def test_a_failing_exporter_is_one_error(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise torch.onnx.errors.OnnxExporterError("no such operation")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(EngineError, match="cannot export OSTrackGraph: no such operation"):
        export_onnx(ostrack(depth=2), load_variant("ostrack-b256"), tmp_path / "o.onnx")


def test_what_was_there_stays_when_writing_fails(tmp_path, monkeypatch):
    target = tmp_path / "s.onnx"
    target.write_text("old")
    save, saved = ir.save, []

    def fail_at_the_second(model, path):
        if saved:
            raise OSError("disk full")
        saved.append(path)
        save(model, path)

    monkeypatch.setattr(ir, "save", fail_at_the_second)
    with pytest.raises(OSError, match="disk full"):
        export_onnx(stark("stark-lightning"), load_variant("stark-lightning"), target)
    assert [file.name for file in tmp_path.iterdir()] == ["s.onnx"]
    assert target.read_text() == "old"


def test_the_exporter_is_quiet(tmp_path, capfd, caplog):
    steps = []
    untraced = ostrack(depth=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_onnx(untraced, load_variant("ostrack-b256"), tmp_path / "o.onnx", None, "fp16", progress=steps.append)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert steps == ["tracing o.onnx", "converting o.onnx to fp16", "writing o.onnx"]
