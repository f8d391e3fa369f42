"""The script that makes the int8 graph of a CPU: one operation for each attention, and the same answers as before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import parity
import pytest

torch = pytest.importorskip("torch", reason="the export needs torch")
pytest.importorskip("onnxscript", reason="the export needs onnxscript")
pytest.importorskip("sympy", reason="ONNX Runtime's tools need sympy")
onnxruntime = pytest.importorskip("onnxruntime", reason="graphs are run with ONNX Runtime")

import onnx  # noqa: E402

from ros2_tracker.engines.export import export_onnx  # noqa: E402
from ros2_tracker.models.multistage import MultiStage, MultiStageSettings  # noqa: E402
from ros2_tracker.models.variant import WEIGHTS_DIR, load_variant  # noqa: E402

ROOT = Path(__file__).parents[2]
DEPTH = 3


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """A narrow network's graph, and what the script makes of it."""
    torch.manual_seed(2)
    network = MultiStage(
        MultiStageSettings(
            widths=(8, 16, 48),
            depths=(1, 1, DEPTH),
            levels=(1,),
            heads=3,
            local="conv",
            normed_levels=False,
            head="distances",
        )
    )
    for module in network.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.15)
    folder = tmp_path_factory.mktemp("quantized")
    source, *_ = export_onnx(network.eval(), load_variant("multistage-b"), folder / "m.onnx", batch=1)
    return source, quantized(source, folder / "m.int8.onnx")


def quantized(source: Path, made: Path) -> Path:
    script = [sys.executable, str(ROOT / "scripts" / "quantize_network.py"), str(source), str(made)]
    subprocess.run(script, check=True, capture_output=True, timeout=120)
    return made


def operations(file):
    return [node.op_type for node in onnx.load(file).graph.node]


def test_each_attention_is_one_operation(graphs):
    source, made = graphs
    assert operations(source).count("Softmax") == DEPTH
    assert operations(made).count("MultiHeadAttention") == DEPTH
    assert "Softmax" not in operations(made)
    assert operations(made).count("MatMulInteger") == operations(source).count("MatMul") - 2 * DEPTH
    onnx.checker.check_model(onnx.load(made))


def test_it_answers_as_the_graph_that_it_was_made_from(graphs):
    inputs = {
        "template_tokens": np.random.default_rng(1).normal(0.0, 0.5, (1, 64, 48)).astype(np.float32),
        "search": parity.fixgen.make_image(256, 256, 5)[None],
        "learnt": np.zeros((1, 50), np.float32),
    }
    wanted, found = (answer(file, inputs) for file in graphs)
    assert wanted.keys() == found.keys()
    for name in ("score_map", "features"):
        spread = np.ptp(wanted[name])
        assert np.abs(found[name] - wanted[name]).max() < 0.05 * spread


def answer(file, inputs):
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def test_graphs_of_opset_17_are_taken_too(tmp_path):
    source = WEIGHTS_DIR / "onestream-192.onnx"
    assert {each.domain: each.version for each in onnx.load(source).opset_import}[""] == 17
    made = quantized(source, tmp_path / "made.onnx")
    assert operations(made).count("MultiHeadAttention") == 6
    onnxruntime.InferenceSession(str(made), providers=["CPUExecutionProvider"])


def test_attention_of_another_kind_is_refused_by_name(graphs):
    """Here with a mask between the product and the softmax."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from quantize_network import with_fused_attention
    finally:
        sys.path.pop(0)
    model = onnx.load(graphs[0])
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    masked = onnx.helper.make_node("Add", [softmax.input[0], softmax.input[0]], ["masked"])
    model.graph.node.insert(list(model.graph.node).index(softmax), masked)
    softmax.input[0] = "masked"
    with pytest.raises(ValueError, match=f"{softmax.name} follows Add"):
        with_fused_attention(model, {})


def test_the_shipped_int8_graph_was_made_so():
    shipped = operations(WEIGHTS_DIR / "multistage-tiny.int8.onnx")
    assert shipped.count("MultiHeadAttention") == 6
    assert "Softmax" not in shipped
