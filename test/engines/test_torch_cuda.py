"""What the engine on a GPU does to a network before it runs there: on the CPU, where it must change no answer."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the networks need torch")

import parity  # noqa: E402

from ros2_tracker.engines import torch_crop  # noqa: E402
from ros2_tracker.engines.base import Engines  # noqa: E402
from ros2_tracker.engines.patch import Patch  # noqa: E402
from ros2_tracker.engines.self_test import self_test  # noqa: E402
from ros2_tracker.engines.torch import TorchEngine  # noqa: E402
from ros2_tracker.engines.torch_crop import CutGraph, pack, row_bytes  # noqa: E402
from ros2_tracker.engines.torch_cuda import CudaEngine, arranged, compiled_graph  # noqa: E402
from ros2_tracker.models.build import build_network  # noqa: E402
from ros2_tracker.models.graphs import graphs_of  # noqa: E402
from ros2_tracker.models.ostrack import Elimination, OSTrack, OSTrackSettings  # noqa: E402
from ros2_tracker.models.prepare import prepared  # noqa: E402
from ros2_tracker.models.variant import load_variant  # noqa: E402
from ros2_tracker.tracking.frame import ArrayFrame  # noqa: E402
from ros2_tracker.tracking.sample_target import SampleRegion, lazy_sample_crop  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ostrack(elimination: Elimination | None = None) -> OSTrack:
    torch.manual_seed(2)
    settings = OSTrackSettings(elimination=elimination, width=48, depth=3, heads=3)
    return OSTrack(settings).eval().requires_grad_(False)


def crops(*sides: int) -> list[torch.Tensor]:
    torch.manual_seed(5)
    return [torch.randint(0, 256, (1, side, side, 3), dtype=torch.uint8) for side in sides]


def assert_same(answers, expected, tolerance: float) -> None:
    assert len(answers) == len(expected)
    for answer, wanted in zip(answers, expected, strict=True):
        torch.testing.assert_close(answer.float(), wanted.float(), atol=tolerance, rtol=0.0)


# All of torch.compile but making machine code, which takes half a minute and another backend on a GPU.
@pytest.mark.parametrize("elimination", [None, Elimination((1,), 0.7)], ids=["whole", "elimination"])
def test_compiled_graph_of_ostrack(elimination: Elimination | None):
    graph, _ = graphs_of(prepared(ostrack(elimination)))
    inputs = crops(128, 256)
    with torch.inference_mode():
        assert_same(compiled_graph(graph, "aot_eager")(*inputs), graph(*inputs), 1e-5)


def test_compiled_graphs_of_stark():
    variant = load_variant("stark-lightning")
    network = build_network(variant, empty=True).to_empty(device="cpu")
    per_frame, per_template = graphs_of(prepared(parity.load_synthetic(network, "stark_lightning", 51)))
    (template, search) = crops(variant.template.size, variant.search.size)
    with torch.inference_mode():
        inputs = template, torch.zeros(template.shape[:3], dtype=torch.bool)
        features = per_template(*inputs)
        assert_same(compiled_graph(per_template, "aot_eager")(*inputs), features, 1e-5)
        inputs = *features, search, torch.zeros(search.shape[:3], dtype=torch.bool)
        assert_same(compiled_graph(per_frame, "aot_eager")(*inputs), per_frame(*inputs), 1e-5)


def test_channels_last_in_fp16():
    inputs = crops(128, 256)
    network = arranged(prepared(ostrack()), half=True)
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
    assert convolutions
    assert all(conv.weight.is_contiguous(memory_format=torch.channels_last) for conv in convolutions)
    half, single = (graphs_of(each)[0] for each in (network, prepared(ostrack())))
    with torch.inference_mode():
        with torch.autocast("cpu", torch.float16, cache_enabled=False):
            answers = half(*inputs)
        # Not the box: with random weights the two best cells are as good as each other.
        assert_same(answers[1:], single(*inputs)[1:], 2e-3)


def test_fp32_stays_as_it_is():
    network = prepared(ostrack())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for name, value in arranged(network, half=False).state_dict().items():
        assert value.dtype == before[name].dtype
        assert value.stride() == before[name].stride()


def engine_on_cpu(network: OSTrack, cuts: bool) -> CudaEngine:
    """The engine of a GPU, without CUDA graphs and pinned memory."""
    graph, _ = graphs_of(prepared(network))
    return CudaEngine(graph, crops(128, 256), torch.device("cpu"), False, "on the CPU", cuts=cuts)


def reference(network: OSTrack) -> TorchEngine:
    return TorchEngine(graphs_of(prepared(network))[0], crops(128, 256), "reference")


def drawn(side: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


def assert_equal_answers(answers, expected) -> None:
    assert len(answers) == len(expected)
    for answer, wanted in zip(answers, expected, strict=True):
        assert set(answer) == set(wanted)
        for name, value in wanted.items():
            np.testing.assert_allclose(answer[name], value, atol=1e-5)


@pytest.mark.parametrize("cuts", [False, True])
def test_engine_uploads_what_is_new(cuts: bool):
    network = ostrack()
    engine, expected = engine_on_cpu(network, cuts), reference(network)
    assert engine.inputs == expected.inputs
    assert engine.outputs == expected.outputs
    first, second = drawn(128, 0), drawn(128, 1)
    frames = [
        [{"template": first, "search": drawn(256, 2)}],
        [{"template": first, "search": drawn(256, 3)}],
        [{"template": second, "search": drawn(256, 3)}],
        [{"template": t, "search": drawn(256, i)} for i, t in enumerate((first, second))],
        [{"template": t, "search": drawn(256, 4 + i)} for i, t in enumerate((second, first))],
    ]
    for targets in frames:
        assert_equal_answers(engine.run(targets), expected.run(targets))


def test_engine_cuts_what_a_tracker_asks_about():
    network = ostrack()
    engine, expected = engine_on_cpu(network, cuts=True), reference(network)
    template = drawn(128, 0)
    camera = np.repeat(np.repeat(drawn(256, 7), 2, axis=0), 2, axis=1)
    # Every pixel of a crop is the mean of equal ones, so that the crops are equal, not only nearly.
    for corner in ((0, 0), (0, 0), (-120, 60)):
        asked = lazy_sample_crop(ArrayFrame(camera), SampleRegion(*corner, 512, 256))
        assert isinstance(asked, Patch)
        given = {"template": template, "search": asked}
        answers = engine.run([given, {"template": template, "search": drawn(256, 9)}, given])
        assert_equal_answers(answers, expected.run([given, {"template": template, "search": drawn(256, 9)}, given]))


def test_self_test_covers_the_cutting(monkeypatch: pytest.MonkeyPatch):
    network = ostrack()
    engines, expected = Engines(engine_on_cpu(network, cuts=True), takes_patches=True), Engines(reference(network))
    result = self_test(engines, expected, "fp32")
    assert result.passed, result.text
    right = torch_crop.cut
    monkeypatch.setattr(torch_crop, "cut", lambda rows, size: right(rows, size).flip(-1))
    assert not self_test(engines, expected, "fp32").passed


def test_compiled_graph_that_cuts():
    graph = CutGraph(graphs_of(prepared(ostrack()))[0], 256)
    template, search = crops(128, 256)
    row = torch.zeros(1, row_bytes(256), dtype=torch.uint8)
    pack(row.numpy()[0], search[0].numpy(), 256)
    with torch.inference_mode():
        assert_same(compiled_graph(graph, "aot_eager")(template, row), graph.graph(template, search), 1e-5)
