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
    made = folder / "m.int8.onnx"
    script = [sys.executable, str(ROOT / "scripts" / "quantize_network.py"), str(source), str(made)]
    subprocess.run(script, check=True, capture_output=True, timeout=120)
    return source, made


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


def test_the_shipped_int8_graph_was_made_so():
    shipped = operations(WEIGHTS_DIR / "multistage-tiny.int8.onnx")
    assert shipped.count("MultiHeadAttention") == 6
    assert "Softmax" not in shipped
