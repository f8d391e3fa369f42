"""The shipped network's weights in `multistage-tiny`."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the networks need torch")
onnx = pytest.importorskip("onnx", reason="the graph is read with onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="the stand-in is run with ONNX Runtime")

from ros2_tracker.models.build import build_network  # noqa: E402
from ros2_tracker.models.layers import normalized  # noqa: E402
from ros2_tracker.models.stand_in import stand_in_weights  # noqa: E402
from ros2_tracker.models.variant import WEIGHTS_DIR, load_variant  # noqa: E402
from ros2_tracker.tracking.crop import Region, crop  # noqa: E402
from ros2_tracker.tracking.frame import frame_from_array  # noqa: E402

GRAPH = WEIGHTS_DIR / "onestream-192.onnx"


@pytest.fixture(scope="module")
def weights():
    return stand_in_weights(GRAPH)


@pytest.fixture
def network(weights):
    network = build_network(load_variant("multistage-tiny"))
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def pixels(clip):
    """uint8 crops of the rendered clip: template and search region, four pairs."""
    found = [clip.render(i) for i in (0, 12, 24, 36)]
    frames = [frame_from_array(each.image) for each in found]

    def cut(factor, size):
        regions = [Region.around(each.box, factor) for each in found]
        pairs = zip(frames, regions, strict=True)
        return np.stack([crop(frame, region, size, (90.0, 90.0, 90.0)) for frame, region in pairs])

    return cut(2.0, 128), cut(4.0, 256)


def test_answers_are_those_of_the_stand_in(network, pixels):
    session = onnxruntime.InferenceSession(str(GRAPH), providers=["CPUExecutionProvider"])
    z, x = pixels
    maps = network(network.template(normalized(torch.from_numpy(z))), normalized(torch.from_numpy(x)))
    for i in range(len(z)):
        score_map, ltrb = session.run(["score_map", "ltrb"], {"template": z[i : i + 1], "search": x[i : i + 1]})
        assert score_map.max() > 0.5  # it sees the target
        before, after = ltrb[0, :2], ltrb[0, 2:]
        np.testing.assert_allclose(maps.score[i, 0], score_map[0].clip(1e-4, 1 - 1e-4), atol=1e-4)
        np.testing.assert_allclose(maps.size[i], before + after, atol=1e-4)
        np.testing.assert_allclose(maps.offset[i], 0.5 + 8.0 * (after - before), atol=1e-3)


def test_training_with_frozen_norms_starts_from_these_answers(weights, network, pixels):
    z, x = (normalized(torch.from_numpy(each)) for each in pixels)
    expected = network(network.template(z), x)
    variant = load_variant("multistage-tiny")
    for frozen in (True, False):
        settings = {**variant.network, "drop_path": 0.0, "frozen_norms": frozen}
        learning = build_network(replace(variant, network=settings)).train()
        learning.load_state_dict(weights)
        maps = learning(learning.template(z), x)
        assert torch.allclose(maps.score, expected.score, atol=1e-4) == frozen
        maps.score.sum().backward()
        assert all((p.grad is None) == name.startswith("box_head.reg") for name, p in learning.named_parameters())
        moved = {name for name, value in learning.state_dict().items() if not torch.equal(value, weights[name])}
        assert bool(moved) != frozen


def test_another_graph_is_refused(tmp_path):
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (1,))
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (1,))
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=r"other\.onnx is not the stand-in network: .*stem\.0"):
        stand_in_weights(tmp_path / "other.onnx")
