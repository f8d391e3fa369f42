"""The shipped network's weights in `multistage-tiny`."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the networks need torch")
onnx = pytest.importorskip("onnx", reason="the graph is read with onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="the stand-in is run with ONNX Runtime")

from ros2_tracker.models.build import build_network  # noqa: E402
from ros2_tracker.models.layers import normalized  # noqa: E402
from ros2_tracker.models.ostrack import decode_centers  # noqa: E402
from ros2_tracker.models.stand_in import fit_norms, stand_in_weights  # noqa: E402
from ros2_tracker.models.variant import WEIGHTS_DIR, load_variant  # noqa: E402
from ros2_tracker.models.window import hann_window  # noqa: E402
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


def test_fitted_norms_change_no_answer_and_training_starts_near_it(network, weights, pixels):
    window = torch.from_numpy(hann_window(16))
    z, x = (normalized(torch.from_numpy(each)) for each in pixels)
    before = network(network.template(z), x)
    for block in network.main.blocks:
        block.drop_path.rate = 0.0
    network.train()
    forgetful = network(network.template(z), x)
    network.load_state_dict(weights)  # training has moved the statistics
    fit_norms(network, z, x)
    after = network(network.template(z), x)
    for a, b in zip(after, before, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    network.train()
    training = network(network.template(z), x)
    expected, near, far = (decode_centers(maps, window)[0] for maps in (before, training, forgetful))
    assert (near - expected).abs().max() < 0.05
    assert (far - expected).abs().max() > 0.05


def test_another_graph_is_refused(tmp_path):
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (1,))
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (1,))
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=r"other\.onnx is not the stand-in network: .*stem\.0"):
        stand_in_weights(tmp_path / "other.onnx")
