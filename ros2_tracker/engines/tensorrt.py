"""Networks on an NVIDIA GPU through TensorRT or TensorRT for RTX.

None of this can run without a GPU; docs/engines.md says what of it has been run, and where.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ros2_tracker.engines.base import EngineError, NamedArrays, Progress
from ros2_tracker.engines.cache import EngineCache, PlanRefusedError, StoredPlan
from ros2_tracker.engines.cuda import DeviceArray, Recording, Stream, use_device
from ros2_tracker.engines.tensorrt_build import Target, build_plan, engine_key, find_target, logger_of

_log = logging.getLogger(__name__)

_DTYPES: Mapping[str, type[np.generic]] = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "UINT8": np.uint8,
    "INT8": np.int8,
    "BOOL": np.bool_,
    "INT32": np.int32,
    "INT64": np.int64,
}
"""TensorRT's names. Its own `nptype` fails in 8.6 with newer NumPy."""


def load_tensorrt_engine(
    graph: Path,
    name: str,
    precision: str,
    *,
    batch: int = 1,
    cache: EngineCache | None = None,
    device: int = 0,
    progress: Progress = lambda phase, fraction: None,
    cancel: threading.Event | None = None,
    self_test: Callable[[TensorRTEngine], str] | None = None,
) -> TensorRTEngine:
    """The engine of a graph on this machine's GPU, from the cache or built now.

    Args:
        graph: the ONNX file, weights inside.
        name: of the model and graph, for the cache's file names.
        precision: of the graph.
        batch: of the graph, or any where it takes any.
        cache: None: the default one.
        device: CUDA's number of the GPU.
        progress: of the build; see `build_plan`.
        cancel: ends the build; see `build_plan`.
        self_test: runs an engine that was never tested with this GPU and driver, and returns its findings in a line;
            PlanRefusedError when they are not good enough.

    Raises:
        BuildCancelledError: `cancel` was set.
        EngineError: something is missing, does not go together, or is refused; the text says what to do.

    """
    target = find_target(device)
    loaded: list[TensorRTEngine] = []

    def verify(plan: bytes, tested: bool) -> str:
        engine = TensorRTEngine(target, plan, name)
        said = self_test(engine) if self_test and not tested else ""
        loaded.append(engine)
        return said

    obtain_plan(target, graph, name, precision, batch, cache or EngineCache(), progress, cancel, verify)
    return loaded[-1]


def obtain_plan(
    target: Target,
    graph: Path,
    name: str,
    precision: str,
    batch: int,
    cache: EngineCache,
    progress: Progress = lambda phase, fraction: None,
    cancel: threading.Event | None = None,
    verify: Callable[[bytes, bool], str] | None = None,
) -> StoredPlan:
    """An engine for a target, from the cache or built now; also on a machine without a GPU, where it cannot run.

    Arguments and errors as those of `load_tensorrt_engine` and `EngineCache.get_or_build`.
    """
    key = engine_key(target, graph, name, precision, batch)
    timing = cache.timing_cache(key)
    driver = f"{target.gpu.name}, {target.gpu.driver}" if target.gpu else ""
    return cache.get_or_build(
        key, lambda told: build_plan(target, graph, key, told, cancel, timing), progress, verify, driver
    )


class TensorRTEngine:
    """One engine on one GPU, with memory of its own; warmed up when it is made.

    A target's input goes to the GPU only when it is another array than last time, as the protocol allows: a template
    once, a search region every frame. The rest of a frame is one recorded CUDA graph where TensorRT allows it, kernels
    and outputs; then the host waits, once.
    """

    def __init__(self, target: Target, plan: bytes, name: str) -> None:
        """Load a plan, which is machine code: only one that `EngineCache` has checked, or that was just built.

        Args:
            target: of `find_target`, with a GPU.
            plan: built for it.
            name: for the description.

        Raises:
            PlanRefusedError: TensorRT does not take the plan.
            EngineError: the GPU has not enough memory, or fails.

        """
        if target.gpu is None:
            raise EngineError("a TensorRT engine runs on a GPU only")
        trt = target.tensorrt.module
        self._device = target.gpu.device
        self._logger = logger_of(trt)
        self._logger.errors.clear()
        use_device(self._device)
        # `engine_host_code_allowed` stays off: a plan brings code for the GPU, none for this process.
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            said = "; ".join(self._logger.errors)
            # A full GPU says nothing about the plan.
            refusal = EngineError if "OutOfMemory" in said else PlanRefusedError
            raise refusal(f"TensorRT does not load the engine of {name}: {said}")
        rtx = target.tensorrt.rtx
        self._context = _rtx_context(trt, self._engine) if rtx else self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(f"TensorRT cannot run the engine of {name}: {'; '.join(self._logger.errors)}")
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        arrays = {name: self._bound(name) for name in names}
        self._in = {n: a for n, a in arrays.items() if self._engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT}
        self._out = {n: a for n, a in arrays.items() if n not in self._in}
        self.inputs: Mapping[str, tuple[int | None, ...]] = {n: a.host.shape for n, a in self._in.items()}
        self.outputs: Mapping[str, tuple[int | None, ...]] = {n: a.host.shape for n, a in self._out.items()}
        batch = len(next(iter(self._in.values())).host)
        self.batch: int | None = batch
        self._uploaded: dict[str, list[NDArray | None]] = {name: [None] * batch for name in self._in}
        """What is on the GPU. Held, so that no other array can take its place in memory."""
        self._stream = Stream()
        self._recording = self._warm_up(record=not rtx)
        graph = "CUDA graph" if rtx or self._recording else "no CUDA graph"
        self.description = f"{target.tensorrt.flavour} {target.tensorrt.version}, {target.gpu.name}, {graph}, {name}"

    def run(self, targets: Sequence[NamedArrays]) -> list[NamedArrays]:
        """Run the network once; see `Engine.run`.

        Raises:
            ValueError: more or fewer targets than `batch`, or an input of another shape or type than the engine's.
            EngineError: the GPU failed.

        """
        self._check(targets)
        use_device(self._device)
        for name, array in self._in.items():
            uploaded = self._uploaded[name]
            changed = [i for i, inputs in enumerate(targets) if inputs[name] is not uploaded[i]]
            for i in changed:
                uploaded[i] = None  # until it is certain that it arrived
                array.host[i] = targets[i][name]
            if changed:
                array.upload(self._stream, changed[0], changed[-1] + 1)
        if self._recording is not None:
            self._recording.launch(self._stream)
        else:
            self._enqueue()
        self._stream.synchronize()
        self._uploaded = {name: [inputs[name] for inputs in targets] for name in self._in}
        return [{name: np.array(array.host[i]) for name, array in self._out.items()} for i in range(len(targets))]

    def _check(self, targets: Sequence[NamedArrays]) -> None:
        if len(targets) != self.batch:
            raise ValueError(f"{len(targets)} targets for an engine that takes {self.batch}")
        for inputs in targets:
            for name, array in self._in.items():
                given, wanted = inputs[name], array.host[0]
                if given.shape != wanted.shape or given.dtype != wanted.dtype:
                    raise ValueError(f"input {name} is {given.dtype}{given.shape}, not {wanted.dtype}{wanted.shape}")

    def _bound(self, name: str) -> DeviceArray:
        """Memory for one input or output, which the context knows."""
        dtype = self._engine.get_tensor_dtype(name).name
        if dtype not in _DTYPES:
            raise EngineError(f"{name} is {dtype}, which is not supported")
        array = DeviceArray(tuple(self._engine.get_tensor_shape(name)), _DTYPES[dtype])
        if not self._context.set_tensor_address(name, array.address):
            raise EngineError(f"TensorRT refuses the memory of {name}: {'; '.join(self._logger.errors)}")
        return array

    def _enqueue(self) -> None:
        """Give the stream what every frame does once the inputs are there."""
        if not self._context.execute_async_v3(int(self._stream.handle)):
            raise EngineError(f"TensorRT failed: {'; '.join(self._logger.errors) or 'it does not say why'}")
        for array in self._out.values():
            array.download(self._stream)

    def _warm_up(self, record: bool) -> Recording | None:
        """Run on black crops: TensorRT wants one run before it is recorded; EngineError when that fails."""
        for array in self._in.values():
            array.upload(self._stream, 0, len(array.host))
        self._enqueue()
        self._stream.synchronize()
        if not record:
            return None
        try:
            return self._stream.record(self._enqueue)
        except EngineError as error:
            # Engines with loops or conditions cannot be recorded, and run all the same.
            _log.info("without a CUDA graph: %s", error)
            return None


def _rtx_context(trt: Any, engine: Any) -> Any:
    """TensorRT for RTX records its CUDA graph itself; recording it from outside needs engines built another way."""
    config = engine.create_runtime_config()
    config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    return engine.create_execution_context(config)
