"""Builds with TensorRT for RTX, which needs no GPU for that; runs only where there is one that it supports."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="small graphs are made with onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from ros2_tracker.engines import cuda, tensorrt_build  # noqa: E402
from ros2_tracker.engines.base import EngineError  # noqa: E402
from ros2_tracker.engines.cache import EngineCache  # noqa: E402
from ros2_tracker.engines.cuda import CudaError, DeviceArray, Gpu, Recording, Stream, find_gpu  # noqa: E402
from ros2_tracker.engines.tensorrt import TensorRTEngine, load_tensorrt_engine, obtain_plan  # noqa: E402
from ros2_tracker.engines.tensorrt_build import (  # noqa: E402
    BuildCancelledError,
    Target,
    build_plan,
    engine_key,
    find_target,
    find_tensorrt,
)

TEMPLATE, SEARCH, CELLS = 32, 64, 16


@pytest.fixture(scope="module")
def target() -> Target:
    """What builds engines here, GPU or none."""
    pytest.importorskip("tensorrt_rtx", reason="engines are built with tensorrt_rtx, which needs no GPU")
    return find_target(ahead=True)


@pytest.fixture
def no_gpu() -> None:
    try:
        find_gpu()
    except EngineError:
        return
    pytest.skip("there is a GPU here")


def make_graph(path: Path, batch: int | str = 1, half: bool = True, strange: tuple[str, ...] = (), **save) -> Path:
    """Like OSTrack's from outside: uint8 crops in, score map and score out."""
    rng = np.random.default_rng(1)
    kind, dtype = (TensorProto.FLOAT16, np.float16) if half else (TensorProto.FLOAT, np.float32)
    nodes, weights = [], []
    for name in ("template", "search"):
        weight = rng.normal(0.0, 0.01, (8, 3, 4, 4)).astype(dtype)
        weights.append(numpy_helper.from_array(weight, f"{name}_w"))
        nodes += [
            helper.make_node("Cast", [name], [f"{name}_f"], to=kind),
            helper.make_node("Transpose", [f"{name}_f"], [f"{name}_t"], perm=[0, 3, 1, 2]),
            helper.make_node("Conv", [f"{name}_t", f"{name}_w"], [f"{name}_c"], kernel_shape=[4, 4], strides=[4, 4]),
        ]
    last = "product"
    nodes += [
        helper.make_node("GlobalAveragePool", ["template_c"], ["pooled"]),
        helper.make_node("Mul", ["search_c", "pooled"], [last]),
    ]
    for operation in strange:
        nodes.append(helper.make_node(operation, [last], [operation], name=f"node_{operation}"))
        last = operation
    weights += [numpy_helper.from_array(np.array(v), n) for n, v in (("channels", [1]), ("cells", [1, 2]))]
    nodes += [
        helper.make_node("ReduceMean", [last, "channels"], ["mean"], keepdims=0),
        helper.make_node("Cast", ["mean"], ["score_map"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["score_map", "cells"], ["score"], keepdims=0),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.UINT8, [batch, side, side, 3])
        for name, side in (("template", TEMPLATE), ("search", SEARCH))
    ]
    outputs = [
        helper.make_tensor_value_info("score_map", TensorProto.FLOAT, [batch, CELLS, CELLS]),
        helper.make_tensor_value_info("score", TensorProto.FLOAT, [batch]),
    ]
    graph = helper.make_graph(nodes, "small", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path, **save)
    return path


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return make_graph(tmp_path / "small.onnx")


def built(target: Target, graph: Path, batch: int = 1, **arguments) -> bytes:
    return build_plan(target, graph, engine_key(target, graph, "small", "fp16", batch), **arguments)


# Builds


@pytest.mark.parametrize(("batch", "half"), [(1, True), (3, True), (1, False)])
def test_uint8_graph_is_built(target: Target, tmp_path: Path, batch: int, half: bool):
    assert len(built(target, make_graph(tmp_path / "g.onnx", batch, half), batch)) > 1000


def test_progress_grows_to_one(target: Target, graph: Path):
    told = []
    built(target, graph, progress=lambda *what: told.append(what))
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions)
    assert told[0] == ("reading the graph", 0.0)
    assert told[-1] == ("built", 1.0)
    assert fractions[-2] < 1.0
    assert len({phase for phase, _ in told}) > 3


def test_cancelled_in_the_middle(target: Target, graph: Path):
    cancel, told = threading.Event(), []

    def progress(phase, fraction):
        told.append(fraction)
        if fraction > 0.1:
            cancel.set()

    with pytest.raises(BuildCancelledError):
        built(target, graph, progress=progress, cancel=cancel)
    assert told[-1] < 0.5


def test_cancelled_before_it_began(target: Target, graph: Path):
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(BuildCancelledError):
        built(target, graph, cancel=cancel)


def test_what_progress_raises_ends_the_build_and_comes_out(target: Target, graph: Path, capfd):
    def progress(phase, fraction):
        if fraction > 0.1:
            signal.raise_signal(signal.SIGINT)  # as Ctrl-C

    with pytest.raises(KeyboardInterrupt):
        built(target, graph, progress=progress)
    assert capfd.readouterr().err == ""  # TensorRT would print what reaches it


def test_other_threads_run_meanwhile(target: Target, graph: Path):
    over = threading.Event()
    ticks = []

    def tick():
        while not over.wait(0.002):
            ticks.append(1)

    thread = threading.Thread(target=tick)
    thread.start()
    built(target, graph)
    over.set()
    thread.join()
    assert len(ticks) >= 3


def test_every_unknown_operation_is_named(target: Target, tmp_path: Path):
    with pytest.raises(EngineError) as error:
        built(target, make_graph(tmp_path / "g.onnx", strange=("Strange", "Stranger")))
    first, *lines = str(error.value).splitlines()
    assert first == f"TensorRT cannot read {tmp_path}/g.onnx:"
    assert ["node_Strange " in lines[0], "node_Stranger " in lines[1]] == [True, True]
    assert len(lines) == 2


def test_file_that_is_no_graph(target: Target, tmp_path: Path):
    (tmp_path / "g.onnx").write_bytes(b"no graph at all")
    with pytest.raises(EngineError, match=r"TensorRT cannot read .*g\.onnx"):
        built(target, tmp_path / "g.onnx")


def test_weights_in_another_file_are_refused(target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    graph = make_graph(tmp_path / "g.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EngineError, match="weights in another file"):
        built(target, graph)


@pytest.mark.parametrize("batch", [1, 4])
def test_free_batch_becomes_the_keys(target: Target, tmp_path: Path, batch: int):
    """As if the graph had been exported so: TensorRT's plans of the two have the same size."""
    free = built(target, make_graph(tmp_path / "free.onnx", batch="N"), batch)
    fixed = built(target, make_graph(tmp_path / "fixed.onnx", batch), batch)
    assert abs(len(free) - len(fixed)) < 0.01 * len(fixed)


def test_other_free_dimensions_are_refused(target: Target, tmp_path: Path):
    model = onnx.load(make_graph(tmp_path / "g.onnx", batch="N"))
    model.graph.input[1].type.tensor_type.shape.dim[1].dim_param = "height"
    onnx.save(model, tmp_path / "g.onnx")
    with pytest.raises(EngineError, match=r"input search has the shape \(2, -1, .* only its batch may be free"):
        built(target, tmp_path / "g.onnx", 2)


def test_other_batch_than_the_keys_is_refused(target: Target, graph: Path):
    with pytest.raises(EngineError, match="not a batch of 2"):
        built(target, graph, batch=2)


def test_graph_that_changed_after_its_key_was_made(target: Target, graph: Path):
    key = engine_key(target, graph, "small", "fp16", 1)
    make_graph(graph, half=False)
    with pytest.raises(EngineError, match="was changed"):
        build_plan(target, graph, key)


# What for


def test_engine_of_rtx_is_for_any_gpu_but_turing(target: Target, graph: Path):
    ada = Target(target.tensorrt, Gpu(0, "NVIDIA GeForce RTX 4090", "8.9", ""))
    turing = Target(target.tensorrt, Gpu(0, "NVIDIA GeForce RTX 2080", "7.5", ""))
    key = engine_key(turing, graph, "small", "fp16", 1)
    assert engine_key(ada, graph, "small", "fp16", 1) == engine_key(target, graph, "small", "fp16", 1)
    assert (key.gpu, key.compute_capability) == ("NVIDIA GeForce RTX 2080", "7.5")
    assert len(build_plan(turing, graph, key)) > 1000


def test_engine_of_tensorrt_is_for_one_gpu(target: Target, graph: Path):
    orin = Target(tensorrt_build.TensorRT(target.tensorrt.module, "tensorrt", "10.3.0"), Gpu(0, "Orin", "8.7", ""))
    key = engine_key(orin, graph, "small", "fp16", 1)
    assert (key.flavour, key.version, key.gpu, key.compute_capability) == ("tensorrt", "10.3.0", "Orin", "8.7")


def test_key_knows_the_graphs_content(target: Target, graph: Path):
    key = engine_key(target, graph, "small", "fp16", 1)
    assert key == engine_key(target, graph, "small", "fp16", 1)
    make_graph(graph, half=False)
    assert key.graph_sha256 != engine_key(target, graph, "small", "fp16", 1).graph_sha256


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_nothing_is_built(graph: Path, tmp_path: Path):
    cache = EngineCache(tmp_path / "engines")
    with pytest.raises(EngineError, match="GPU"):
        load_tensorrt_engine(graph, "small", "fp16", cache=cache, progress=lambda *told: pytest.fail("it was built"))
    assert not cache.folder.exists()


def test_engine_built_ahead_does_not_run(target: Target):
    with pytest.raises(EngineError, match="runs on a GPU only"):
        TensorRTEngine(target, b"", "small")


def test_rtx_on_a_gpu_that_it_does_not_know(target: Target, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tensorrt_build, "find_gpu", lambda device: Gpu(device, "NVIDIA H200", "9.0", ""))
    monkeypatch.setattr(tensorrt_build, "find_tensorrt", lambda: target.tensorrt)
    with pytest.raises(EngineError, match=r"does not run on NVIDIA H200 \(compute capability 9\.0.*install `tensorrt`"):
        find_target()
    monkeypatch.setattr(tensorrt_build, "find_gpu", lambda device: Gpu(device, "RTX 4090", "8.9", ""))
    assert find_target().gpu.name == "RTX 4090"


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write a module `tensorrt` that is found before any other."""

    def write(text: str) -> None:
        (tmp_path / "tensorrt.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "tensorrt", raising=False)

    yield write
    sys.modules.pop("tensorrt", None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise ImportError('libnvinfer.so.8: cannot open')", r"libnvinfer\.so\.8: cannot open"),
        ("__version__ = '8.5.2.2'", r"8\.5\.2\.2 is older than 8\.6"),
        ("", "no attribute '__version__'"),
    ],
)
def test_tensorrt_that_will_not_do(stub, text: str, reason: str):
    stub(text)
    with pytest.raises(EngineError, match=rf"there is no TensorRT \(tensorrt: .*{reason}.*apt repository"):
        find_tensorrt(("tensorrt",))


def test_tensorrt_comes_before_rtx(stub):
    stub("__version__ = '10.3.0'")
    assert find_tensorrt().flavour == "tensorrt"


def test_flags_of_old_and_new_versions():
    """8.6 cannot be had here; its enumerations as its documentation lists them."""
    old = SimpleNamespace(
        NetworkDefinitionCreationFlag=SimpleNamespace(EXPLICIT_BATCH=0), BuilderFlag=SimpleNamespace(FP16="fp16 flag")
    )
    new = SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace(EXPLICIT_BATCH=0, STRONGLY_TYPED=1))
    assert tensorrt_build._network_flags(old) == 1
    assert tensorrt_build._network_flags(new) == 2
    flags = []
    config = SimpleNamespace(set_flag=flags.append)
    for trt, precision in ((old, "fp32"), (new, "fp16"), (old, "fp16")):
        tensorrt_build._allow_precision(trt, config, precision)
    assert flags == ["fp16 flag"]


# Progress of versions that report none, and of several phases


def test_elapsed_time_where_tensorrt_reports_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tensorrt_build, "_TICK_S", 0.01)
    told = []
    watch = tensorrt_build._Watch(lambda *what: told.append(what), threading.Event())
    with watch.ticking():
        time.sleep(0.2)
    assert len(told) >= 3
    assert told[0] == ("building, 0 s", None)


def test_any_number_of_phases_stays_below_one():
    told = []
    watch = tensorrt_build._Watch(lambda phase, fraction: told.append(fraction), threading.Event())
    for root in ("first", "second"):
        watch.start(root, None, 2)
        for child in range(20):
            watch.start(f"child {child}", root, 4)
            for step in range(4):
                watch.step(f"child {child}", step)
            watch.finish(f"child {child}")
        watch.step(root, 0)
        watch.start("never told to finish", root, 1)
        watch.step(root, 1)
        watch.finish(root)
    watch.finish("unknown")
    assert told == sorted(told)
    assert 0.9 < told[-1] < 1.0


# Cache


def test_built_once_and_kept(target: Target, graph: Path, tmp_path: Path):
    cache, told = EngineCache(tmp_path / "engines"), []

    def get():
        told.clear()
        return obtain_plan(target, graph, "small", "fp16", 1, cache, lambda *what: told.append(what)).plan

    plan = get()
    assert told[-1] == ("built", 1.0)
    assert get() == plan
    assert told == []
    (file,) = cache.folder.glob("small-fp16-b1-*.engine")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    assert len(get()) > 1000
    assert told[-1] == ("built", 1.0)


def test_cancelled_build_leaves_nothing(target: Target, graph: Path, tmp_path: Path):
    cache, cancel = EngineCache(tmp_path / "engines"), threading.Event()
    cancel.set()
    with pytest.raises(BuildCancelledError):
        obtain_plan(target, graph, "small", "fp16", 1, cache, cancel=cancel)
    assert cache.entries() == []


def test_timing_cache_is_written_and_read_back(target: Target, graph: Path, tmp_path: Path, caplog):
    """TensorRT for RTX still takes and gives timing caches, but has nothing to put in: only the calls are tried."""
    timing = EngineCache(tmp_path / "engines").timing_cache(engine_key(target, graph, "small", "fp16", 1))
    trt = target.tensorrt.module
    config = trt.Builder(tensorrt_build.logger_of(trt)).create_builder_config()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        tensorrt_build.attach_timing_cache(config, timing)
        tensorrt_build.save_timing_cache(config, timing)
        first = timing.load()
        assert len(first) > 50
        tensorrt_build.attach_timing_cache(config, timing)
        tensorrt_build.save_timing_cache(config, timing)
    assert len(timing.load()) == len(first)


def test_rtx_does_without_a_timing_cache(target: Target, graph: Path, tmp_path: Path):
    cache = EngineCache(tmp_path / "engines")
    obtain_plan(target, graph, "small", "fp16", 1, cache)
    assert list(cache.folder.glob("timing-*")) == []


@pytest.mark.usefixtures("no_gpu")
def test_truncated_plan_is_seen_by_tensorrt(target: Target, graph: Path):
    """Without a GPU no plan loads, but a truncated one is refused for another reason, before that."""
    plan = built(target, graph)
    trt = target.tensorrt.module
    logger = tensorrt_build.logger_of(trt)
    reasons = []
    for data in (plan, plan[: len(plan) // 2]):
        logger.errors.clear()
        assert trt.Runtime(logger).deserialize_cuda_engine(data) is None
        reasons.append(" ".join(logger.errors))
    assert "CUDA driver version is insufficient" in reasons[0]
    assert "header.size == blobSize" not in reasons[0]
    assert "header.size == blobSize" in reasons[1]


def test_messages_of_tensorrt_reach_the_log(target: Target, tmp_path: Path, caplog):
    with caplog.at_level(logging.DEBUG, "ros2_tracker"), pytest.raises(EngineError):
        built(target, make_graph(tmp_path / "g.onnx", strange=("Strange",)))
    assert "Strange" in "".join(record.message for record in caplog.records if record.levelno == logging.ERROR)
    assert {record.name for record in caplog.records} == {"ros2_tracker.engines.tensorrt_build"}


# The GPU


def has_driver() -> bool:
    try:
        return bool(cuda._call("cudaDriverGetVersion"))
    except EngineError:
        return False


@pytest.mark.skipif(has_driver(), reason="made-up addresses must not reach a GPU")
def test_every_call_has_arguments_that_cuda_python_takes():
    """Each gets as far as NVIDIA's run time, which then misses its driver."""
    pytest.importorskip("cuda.bindings", reason="cuda-python is not installed")
    runtime = cuda._runtime()
    stream, array = object.__new__(Stream), object.__new__(DeviceArray)
    stream.handle = runtime.cudaStream_t(0)
    array.address = array._pinned = array._bytes = 16
    array.host = np.zeros(4, np.float32)
    recording = object.__new__(Recording)
    recording._handle = runtime.cudaGraphExec_t(0)
    calls = {
        "cudaSetDevice": lambda: cuda.use_device(0),
        "cudaStreamCreateWithFlags": Stream,
        "cudaStreamSynchronize": stream.synchronize,
        "cudaStreamBeginCapture": lambda: stream.record(lambda: None),
        "cudaStreamEndCapture": lambda: cuda._call("cudaStreamEndCapture", stream.handle),
        "cudaGetLastError": lambda: cuda._call("cudaGetLastError"),
        "cudaGraphInstantiateWithFlags": lambda: Recording(runtime.cudaGraph_t(0)),
        "cudaGraphLaunch": lambda: recording.launch(stream),
        "cudaMalloc": lambda: DeviceArray((2, 3), np.uint8),
        "cudaMallocHost": lambda: cuda._call("cudaMallocHost", 16),
        "cudaMemcpyAsync": lambda: array.upload(stream, 1, 3),
        "cudaGetDeviceProperties": lambda: cuda._call("cudaGetDeviceProperties", 0),
    }
    for name, call in calls.items():
        with pytest.raises(CudaError, match=f"^{name}: cudaErrorInsufficientDriver$"):
            call()
    with pytest.raises(CudaError, match="cudaMemcpyAsync"):
        array.download(stream)
    for name, handle in (
        ("cudaFree", 0),
        ("cudaFreeHost", 0),
        ("cudaStreamDestroy", stream.handle),
        ("cudaGraphDestroy", runtime.cudaGraph_t(0)),
        ("cudaGraphExecDestroy", recording._handle),
    ):
        with pytest.raises(CudaError, match="cudaErrorInsufficientDriver"):
            cuda._call(name, handle)
        cuda._release(name, handle)
    with pytest.raises(EngineError, match="no NVIDIA driver is loaded"):
        find_gpu()


@pytest.fixture
def here() -> Target:
    """What runs engines on this machine."""
    try:
        return find_target()
    except EngineError as error:
        pytest.skip(str(error))


def crops(batch: int, seed: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    sides = {"template": TEMPLATE, "search": SEARCH}
    return [{n: rng.integers(0, 256, (s, s, 3), np.uint8) for n, s in sides.items()} for _ in range(batch)]


@pytest.mark.parametrize(("batch", "half"), [(1, False), (3, True)])
def test_runs_as_onnxruntime_does(here: Target, tmp_path: Path, batch: int, half: bool):
    from ros2_tracker.engines.onnxruntime import OnnxRuntimeEngine

    graph = make_graph(tmp_path / "g.onnx", batch, half)
    reference = OnnxRuntimeEngine(graph)
    cache = EngineCache(tmp_path / "engines")
    precision = "fp16" if half else "fp32"
    tested = []
    for _ in range(2):
        engine = load_tensorrt_engine(
            graph, "small", precision, batch=batch, cache=cache, self_test=lambda e: tested.append(e) or "good"
        )
    assert len(tested) == 1
    assert (engine.batch, engine.inputs, engine.outputs) == (batch, reference.inputs, reference.outputs)
    targets = crops(batch, seed=0)
    for frame in range(6):
        searches = crops(batch, seed=100 + frame)
        targets = [{**old, "search": new["search"]} for old, new in zip(targets, searches, strict=True)]
        if frame == 3:  # one target gets a new template
            targets[-1] = {**targets[-1], "template": searches[-1]["template"]}
        for actual, expected in zip(engine.run(targets), reference.run(targets), strict=True):
            for name, value in expected.items():
                np.testing.assert_allclose(actual[name], value, rtol=2e-2 if half else 1e-4, atol=1e-3)
    with pytest.raises(ValueError, match="input search is float32"):
        engine.run([{**inputs, "search": inputs["search"].astype(np.float32)} for inputs in targets])
    with pytest.raises(ValueError, match=f"targets for an engine that takes {batch}"):
        engine.run(targets * 2)
    np.testing.assert_array_equal(engine.run(targets)[0]["score_map"], engine.run(targets)[0]["score_map"])
