from dataclasses import replace

import numpy as np
import parity
import pytest

torch = pytest.importorskip("torch", reason="the export needs torch")
pytest.importorskip("onnxscript", reason="the export needs onnxscript")
onnxruntime = pytest.importorskip("onnxruntime", reason="graphs are run with ONNX Runtime")

from ros2_tracker.engines.export import OSTrackGraph, StarkSearchGraph, StarkTemplateGraph, export_onnx  # noqa: E402
from ros2_tracker.models.layers import fuse_repvgg  # noqa: E402
from ros2_tracker.models.ostrack import Elimination, OSTrack, OSTrackSettings  # noqa: E402
from ros2_tracker.models.stark import Stark, StarkLightning, StarkSettings  # noqa: E402
from ros2_tracker.models.variant import load_variant  # noqa: E402

BOX = 1e-4  # of the search side


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(path, inputs):
    loaded = session(path)
    names = [node.name for node in loaded.get_outputs()]
    return dict(zip(names, loaded.run(names, inputs), strict=True))


def crops(size, batch=1, seed=1):
    images = [parity.fixgen.make_image(size, size, seed + i) for i in range(batch)]
    return np.stack(images)


def masks(size, batch=1):
    padded = np.zeros((batch, size, size), bool)
    padded[:, : size // 5] = True
    return padded


def compared(actual, graph, inputs):
    """Largest error per output against torch."""
    with torch.inference_mode():
        expected = graph(*(torch.from_numpy(i) for i in inputs))
    return {name: parity.max_error(a, e) for (name, a), e in zip(actual.items(), expected, strict=True)}


@pytest.mark.parametrize("elimination", [None, Elimination()])
@pytest.mark.parametrize("batch", [1, 3])
def test_ostrack_graph_equals_torch(elimination, batch, tmp_path):
    torch.manual_seed(2)
    network = OSTrack(OSTrackSettings(width=48, depth=12, heads=3, elimination=elimination)).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    (path,) = export_onnx(network, load_variant("ostrack-b256"), tmp_path / "o.onnx", batch)
    inputs = {"template": crops(128, batch), "search": crops(256, batch, seed=9)}
    actual = run(path, inputs)
    assert list(actual) == ["box", "score", "score_map"]
    assert {n: a.shape for n, a in actual.items()} == {
        "box": (batch, 4), "score": (batch,), "score_map": (batch, 16, 16)
    }  # fmt: skip
    assert max(compared(actual, OSTrackGraph(network), inputs.values()).values()) < BOX


@pytest.mark.parametrize("name", ["stark-st50", "stark-lightning"])
def test_stark_graphs_equal_torch(name, tmp_path):
    variant = load_variant(name)
    if name == "stark-lightning":
        network = parity.load_synthetic(StarkLightning(), "stark_lightning", 51)
    else:
        torch.manual_seed(4)
        network = Stark(StarkSettings(depths=(1, 1, 1), layers=2, score_head=True)).eval()
    search_path, template_path = export_onnx(network, variant, tmp_path / "s.onnx")
    assert template_path.name == "s.template.onnx"
    fuse_repvgg(network)
    template_inputs = {"template": crops(128), "template_padded": masks(128)}
    features = run(template_path, template_inputs)
    assert list(features) == ["tokens", "position", "cells"]
    for error in compared(features, StarkTemplateGraph(network), template_inputs.values()).values():
        assert error < 1e-4

    times = 2 if variant.template_update else 1
    inputs = {f"template_{n}": np.concatenate([v] * times, axis=1) for n, v in features.items()}
    inputs |= {"search": crops(320, seed=5), "search_padded": masks(320)}
    actual = run(search_path, inputs)
    assert list(actual) == ["box", "score", "score_map"]
    assert max(compared(actual, StarkSearchGraph(network), inputs.values()).values()) < BOX
    assert actual["score_map"].sum() == pytest.approx(2.0, abs=1e-5)


def test_variant_is_in_the_metadata(tmp_path):
    network = OSTrack(OSTrackSettings(width=24, depth=1, heads=2)).eval()
    variant = replace(load_variant("ostrack-b256"), name="small")
    (path,) = export_onnx(network, variant, tmp_path / "o.onnx")
    assert session(path).get_modelmeta().custom_metadata_map["variant"] == "small"


def test_network_without_export_is_named(tmp_path):
    with pytest.raises(ValueError, match="Linear"):
        export_onnx(torch.nn.Linear(2, 2), load_variant("ostrack-b256"), tmp_path / "o.onnx")
