"""What `TensorRTEngine` does each frame, on a stand-in for CUDA and TensorRT in host memory: there is no GPU in CI.

The stand-in does nothing before it is waited for, as a GPU may, so that reading too early or overwriting too early
shows. test_tensorrt.py compares with ONNX Runtime where there is a GPU.
"""

from __future__ import annotations

import ctypes
import gc
from collections import Counter
from collections.abc import Callable, Iterator
from enum import Enum
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from ros2_tracker.engines import cuda
from ros2_tracker.engines.base import EngineError
from ros2_tracker.engines.cache import PlanRefusedError
from ros2_tracker.engines.cuda import CudaError, Gpu
from ros2_tracker.engines.tensorrt import TensorRTEngine
from ros2_tracker.engines.tensorrt_build import Target, TensorRT

BATCH = 2
SHAPES = {"template": (BATCH, 4, 4, 3), "search": (BATCH, 8, 8, 3), "padded": (BATCH, 8), "score": (BATCH,)}
TYPES = {"template": np.uint8, "search": np.uint8, "padded": np.bool_, "score": np.float32}


class HostCuda:
    """CUDA's run time in host memory: one stream, which works when it is waited for."""

    Error = Enum("Error", {"cudaSuccess": 0, "cudaErrorMemoryAllocation": 2, "cudaErrorStreamCapture": 900})
    cudaStreamNonBlocking = 1  # noqa: N815
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N815
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815

    def __init__(self) -> None:
        self.memory: dict[int, ctypes.Array] = {}
        self.calls: Counter[str] = Counter()
        self.uploaded = 0
        """Bytes."""
        self.fail = ""
        """Name of the call that fails next."""
        self._pending: list[Callable[[], None]] = []
        self._recorded: list[Callable[[], None]] | None = None

    def __getattr__(self, name: str) -> Callable:
        if not name.startswith("cuda"):
            raise AttributeError(name)

        def call(*arguments):
            self.calls[name] += 1
            if self.fail == name:
                self.fail = ""
                if name == "cudaStreamEndCapture":
                    self._recorded = None
                return (self.Error.cudaErrorStreamCapture,)
            made = getattr(self, "do_" + name, lambda *arguments: None)(*arguments)
            return (self.Error.cudaSuccess,) if made is None else (self.Error.cudaSuccess, made)

        return call

    def enqueue(self, work: Callable[[], None]) -> None:
        (self._pending if self._recorded is None else self._recorded).append(work)

    def do_cudaMalloc(self, size: int) -> int:  # noqa: N802
        block = (ctypes.c_uint8 * size)()
        ctypes.memset(block, 0xCD, size)
        self.memory[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    do_cudaMallocHost = do_cudaMalloc  # noqa: N815

    def do_cudaFree(self, address: int) -> None:  # noqa: N802
        del self.memory[address]

    do_cudaFreeHost = do_cudaFree  # noqa: N815

    def do_cudaMemcpyAsync(self, to: int, source: int, size: int, kind: int, stream: int) -> None:  # noqa: N802
        self.uploaded += size if kind == 1 else 0
        self.enqueue(lambda: ctypes.memmove(to, source, size))

    def do_cudaStreamCreateWithFlags(self, flags: int) -> int:  # noqa: N802
        return 7

    def do_cudaStreamSynchronize(self, stream: int) -> None:  # noqa: N802
        for work in self._pending:
            work()
        self._pending.clear()

    def do_cudaStreamBeginCapture(self, stream: int, mode: int) -> None:  # noqa: N802
        self._recorded = []

    def do_cudaStreamEndCapture(self, stream: int) -> list:  # noqa: N802
        recorded, self._recorded = self._recorded, None
        return recorded

    def do_cudaGraphInstantiateWithFlags(self, graph: list, flags: int) -> list:  # noqa: N802
        return list(graph)

    def do_cudaGraphLaunch(self, graph: list, stream: int) -> None:  # noqa: N802
        self._pending += graph


class Context:
    """Runs `expected` on what lies at the addresses."""

    def __init__(self, host: HostCuda) -> None:
        self.host, self.addresses, self.works = host, {}, True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        if self.works:
            self.host.enqueue(self._compute)
        return self.works

    def _compute(self) -> None:
        inputs = {name: self._at(name) for name in SHAPES if name != "score"}
        self._at("score")[...] = [expected({n: value[i] for n, value in inputs.items()}) for i in range(BATCH)]

    def _at(self, name: str) -> np.ndarray:
        block = self.host.memory[self.addresses[name]]
        return np.frombuffer(block, TYPES[name]).reshape(SHAPES[name])


def expected(inputs: dict[str, np.ndarray]) -> float:
    return float(inputs["template"].sum() * 3.0 + inputs["search"].sum() + inputs["padded"].sum() * 1e5)


def stand_in(host: HostCuda, said: str = "") -> ModuleType:
    """A module with what `TensorRTEngine` uses of `tensorrt`; `said` instead of loading a plan."""
    trt = ModuleType("tensorrt")
    trt.TensorIOMode = Enum("TensorIOMode", "INPUT OUTPUT")
    names = list(SHAPES)
    types = {np.uint8: "UINT8", np.bool_: "BOOL", np.float32: "FLOAT"}
    engine = SimpleNamespace(
        num_io_tensors=len(names),
        get_tensor_name=names.__getitem__,
        get_tensor_shape=SHAPES.__getitem__,
        get_tensor_dtype=lambda name: SimpleNamespace(name=types[TYPES[name]]),
        get_tensor_mode=lambda name: trt.TensorIOMode.OUTPUT if name == "score" else trt.TensorIOMode.INPUT,
        create_execution_context=lambda: host.context,
    )
    host.context = Context(host)

    class ILogger:
        Severity = Enum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE")

    class Runtime:
        def __init__(self, logger: ILogger) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, plan: bytes) -> SimpleNamespace | None:
            if said:
                self.logger.log(ILogger.Severity.ERROR, said)
            return None if said else engine

    trt.ILogger, trt.Runtime = ILogger, Runtime
    return trt


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[HostCuda]:
    host = HostCuda()
    monkeypatch.setattr(cuda, "_runtime", lambda: host)
    yield host
    gc.collect()  # so that nothing of the stand-in is given back to CUDA itself later


def load(host: HostCuda, said: str = "") -> TensorRTEngine:
    trt = TensorRT(stand_in(host, said), "tensorrt", "10.3.0")
    return TensorRTEngine(Target(trt, Gpu(1, "Orin", "8.7", "")), b"plan", "small")


def looks(seed: int, templates: list[np.ndarray] | None = None) -> list[dict[str, np.ndarray]]:
    """Inputs of all targets."""
    rng = np.random.default_rng(seed)
    made = [
        {name: rng.integers(0, 2, SHAPES[name][1:]).astype(TYPES[name]) for name in SHAPES if name != "score"}
        for _ in range(BATCH)
    ]
    for inputs, template in zip(made, templates or (), strict=False):
        inputs["template"] = template
    return made


def expect_right(engine: TensorRTEngine, targets: list[dict[str, np.ndarray]]) -> None:
    for answer, inputs in zip(engine.run(targets), targets, strict=True):
        assert answer["score"].shape == ()
        assert answer["score"].dtype == np.float32
        assert float(answer["score"]) == expected(inputs)


def test_is_described(host: HostCuda):
    engine = load(host)
    assert engine.description == "tensorrt 10.3.0, Orin, CUDA graph, small"
    assert engine.batch == BATCH
    assert engine.inputs == {name: SHAPES[name] for name in ("template", "search", "padded")}
    assert engine.outputs == {"score": (BATCH,)}


def test_frames_one_after_another(host: HostCuda):
    engine = load(host)
    first = looks(0)
    templates = [inputs["template"] for inputs in first]
    expect_right(engine, first)
    host.calls.clear()
    for frame in range(1, 5):
        expect_right(engine, looks(frame, templates))
    assert host.calls == {
        "cudaSetDevice": 4, "cudaMemcpyAsync": 8, "cudaGraphLaunch": 4, "cudaStreamSynchronize": 4
    }  # fmt: skip


def test_templates_are_uploaded_once_and_when_renewed(host: HostCuda):
    engine = load(host)
    template, others = np.prod(SHAPES["template"][1:]), BATCH * (8 * 8 * 3 + 8)
    targets = looks(0)
    for renewed in ([0, 1], [], [], [1], [], [0]):
        fresh = looks(10)
        for i, inputs in enumerate(fresh):
            if i not in renewed:
                inputs["template"] = targets[i]["template"]
        targets, host.uploaded = fresh, 0
        expect_right(engine, targets)
        assert host.uploaded == others + len(renewed) * template


def test_equal_template_in_other_memory_is_uploaded(host: HostCuda):
    engine = load(host)
    targets = looks(0)
    expect_right(engine, targets)
    host.uploaded = 0
    expect_right(engine, [{**inputs, "template": inputs["template"].copy()} for inputs in targets])
    assert host.uploaded == np.prod(SHAPES["template"])


def test_one_target_in_every_place(host: HostCuda):
    """How a batch is filled up."""
    engine = load(host)
    expect_right(engine, looks(0)[:1] * BATCH)


def test_answers_belong_to_the_caller(host: HostCuda):
    engine = load(host)
    answers = engine.run(looks(0))
    kept = [float(answer["score"]) for answer in answers]
    engine.run(looks(1))
    assert [float(answer["score"]) for answer in answers] == kept


@pytest.mark.parametrize("call", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiateWithFlags"])
def test_without_a_cuda_graph_it_runs_all_the_same(host: HostCuda, call: str):
    host.fail = call
    engine = load(host)
    assert "no CUDA graph" in engine.description
    for frame in range(3):
        expect_right(engine, looks(frame))
    assert host.calls["cudaGraphLaunch"] == 0


def test_tensorrt_that_cannot_be_recorded_leaves_the_stream_usable(host: HostCuda, monkeypatch: pytest.MonkeyPatch):
    execute = Context.execute_async_v3
    refuse = lambda self, stream: self.host._recorded is None and execute(self, stream)  # noqa: E731
    monkeypatch.setattr(Context, "execute_async_v3", refuse)
    engine = load(host)
    assert host.calls["cudaStreamEndCapture"] == host.calls["cudaGetLastError"] == 1
    assert host.calls["cudaGraphInstantiateWithFlags"] == 0
    expect_right(engine, looks(0))


def test_failed_frame_is_reported_and_leaves_no_doubt_about_what_is_on_the_gpu(host: HostCuda):
    engine = load(host)
    before = looks(0)
    expect_right(engine, before)
    host.fail = "cudaGraphLaunch"
    with pytest.raises(CudaError, match="cudaGraphLaunch: cudaErrorStreamCapture"):
        engine.run(looks(1))
    expect_right(engine, before)


def test_tensorrt_that_fails_says_so(host: HostCuda):
    trt = stand_in(host)
    host.context.works = False
    with pytest.raises(EngineError, match="TensorRT failed: it does not say why"):
        TensorRTEngine(Target(TensorRT(trt, "tensorrt", "10"), Gpu(0, "Orin", "8.7", "")), b"", "small")


def test_wrong_inputs_are_named_and_change_nothing(host: HostCuda):
    engine = load(host)
    targets = looks(0)
    expect_right(engine, targets)
    host.calls.clear()
    with pytest.raises(ValueError, match=r"1 targets for an engine that takes 2"):
        engine.run(targets[:1])
    with pytest.raises(ValueError, match=r"input search is uint8\(8, 8, 1\), not uint8\(8, 8, 3\)"):
        engine.run([targets[0], {**targets[1], "search": targets[1]["search"][..., :1]}])
    with pytest.raises(ValueError, match=r"input padded is uint8\(8,\), not bool\(8,\)"):
        engine.run([{**inputs, "padded": inputs["padded"].view(np.uint8)} for inputs in targets])
    assert not host.calls
    expect_right(engine, targets)


def test_refused_plan_and_full_gpu_are_different_things(host: HostCuda):
    with pytest.raises(PlanRefusedError, match="does not load the engine of small: magicTag mismatch"):
        load(host, "magicTag mismatch")
    with pytest.raises(EngineError, match="OutOfMemory") as error:
        load(host, "Error Code 2: OutOfMemory (no further information)")
    assert not isinstance(error.value, PlanRefusedError)


def test_everything_is_given_back(host: HostCuda):
    engine = load(host)
    engine.run(looks(0))
    assert len(host.memory) == 2 * len(SHAPES)
    del engine
    gc.collect()
    assert not host.memory
    for name in ("cudaStreamDestroy", "cudaGraphExecDestroy", "cudaGraphDestroy"):
        assert host.calls[name] == 1


def test_memory_that_is_not_to_be_had(host: HostCuda):
    host.fail = "cudaMallocHost"
    with pytest.raises(CudaError, match="cudaMallocHost"):
        load(host)
    gc.collect()
    assert not host.memory
