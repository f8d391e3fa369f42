"""Networks through ONNX Runtime: on the CPU, or on a GPU where its build can."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ros2_tracker.engines.base import Engine, EngineError, Engines, NamedArrays, stacked, unstacked
from ros2_tracker.engines.batches import OneOrSeveral, OtherEngine, SideBySide
from ros2_tracker.engines.cache import EngineCache
from ros2_tracker.engines.origin import BATCH_AXIS, batch_of, check_origin, read_metadata
from ros2_tracker.models.digest import file_sha256
from ros2_tracker.models.variant import Variant, template_graph

_log = logging.getLogger(__name__)

# More threads than this do not speed up one small network, and the camera driver needs cores too.
_MAX_THREADS = 4
# Within a frame, threads wait for each other a few hundred times. Going to sleep each time makes a frame 11 to 17 %
# longer than a default session's where no other program runs; spinning as long as that one does takes up to twice as
# long where another program has a core. This short while costs neither (docs/engines.md, scripts/session_bench.py).
_SPIN_US = "100"
_BOUNDED_SPINNING = (1, 26)
"""The release that knows how long to spin; earlier ones ignore it, so that there threads do not spin at all."""


class OnnxRuntimeEngine:
    """One ONNX graph in one session."""

    def __init__(
        self,
        graph: Path,
        threads: int = 0,
        gpu: int | None = None,
        tensorrt: Mapping[str, Any] | None = None,
        batch: int | None = 1,
    ) -> None:
        """Load `graph`, for the CPU or for the GPU of that number, there through TensorRT with these options of it.

        `batch` is for a graph that takes any number of targets: with None it goes on to, more slowly for a single one.
        EngineError when onnxruntime is missing or refuses the file.
        """
        onnxruntime = _imported()
        if not graph.is_file():
            raise EngineError(f"the network file {graph} does not exist")
        options = session_options(threads)
        if batch is not None:
            # Then its optimised graph is that of a fixed batch. A graph without this axis takes no notice.
            options.add_free_dimension_override_by_name(BATCH_AXIS, batch)
        providers: list[Any] = ["CPUExecutionProvider"]
        if gpu is not None:
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": gpu}))
        if tensorrt is not None:
            providers.insert(0, ("TensorrtExecutionProvider", {"device_id": gpu, **tensorrt}))
        try:
            self._session = onnxruntime.InferenceSession(str(graph), options, providers=providers)
        except Exception as error:  # onnxruntime raises classes of its own without a common public base
            raise EngineError(f"onnxruntime cannot load {graph}: {error}") from error
        self.inputs: Mapping[str, tuple[int | None, ...]] = {n.name: _shape(n) for n in self._session.get_inputs()}
        self.outputs: Mapping[str, tuple[int | None, ...]] = {n.name: _shape(n) for n in self._session.get_outputs()}
        self.batch: int | None = next(iter(self.inputs.values()))[0]
        self._names = list(self.outputs)
        # A GPU that cannot be used is left out without an error.
        used = self._session.get_providers()
        if gpu is not None and "CUDAExecutionProvider" not in used:
            raise EngineError(f"onnxruntime {onnxruntime.__version__} cannot use GPU {gpu}")
        if tensorrt is not None and "TensorrtExecutionProvider" not in used:
            raise EngineError(f"onnxruntime {onnxruntime.__version__} cannot use TensorRT on GPU {gpu}")
        self.threads = options.intra_op_num_threads
        where = f"CPU, {options.intra_op_num_threads} threads" if gpu is None else f"GPU {gpu}"
        where = f"TensorRT on {where}" if tensorrt is not None else where
        self.description = f"onnxruntime {onnxruntime.__version__}, {where}, {graph.name}"

    def run(self, targets: Sequence[NamedArrays]) -> list[NamedArrays]:
        """Run the network once; see `Engine.run`."""
        outputs = self._session.run(self._names, stacked(targets))
        return unstacked(dict(zip(self._names, outputs, strict=True)), len(targets))


def session_options(threads: int = 0) -> Any:
    """`onnxruntime.SessionOptions` of our sessions; `threads` 0: as many as there are cores, at most 4.

    EngineError when onnxruntime is missing.
    """
    onnxruntime = _imported()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or min(len(os.sched_getaffinity(0)), _MAX_THREADS)
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that spin between frames would take the core that receives the next image.
    if _release(onnxruntime.__version__) >= _BOUNDED_SPINNING:
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.add_session_config_entry("session.intra_op.spin_duration_us", _SPIN_US)
    else:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def tensorrt_options(graph: Path, precision: str, cache: EngineCache) -> dict[str, Any]:
    """Options of ONNX Runtime's TensorRT, with a folder of the cache for this graph and version of ONNX Runtime.

    ONNX Runtime names the GPU in its files but does not check them. EngineError when the folder is refused.
    """
    kept = cache.own_folder(f"onnxruntime-{_imported().__version__}-{file_sha256(graph)[:16]}")
    return {
        "trt_fp16_enable": precision == "fp16",
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(kept),
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(kept),
    }


def load_onnx_engines(
    variant: Variant,
    graph: Path,
    threads: int = 0,
    gpu: int | None = None,
    tensorrt: Callable[[Path], Mapping[str, Any]] | None = None,
) -> Engines:
    """The graph, and the template graph beside it for families that keep template features.

    Args:
        variant: whose graph it is.
        graph: the ONNX file.
        threads: of the CPU; 0 lets the engine choose.
        gpu: number of the GPU; None for the CPU.
        tensorrt: on the GPU through ONNX Runtime's TensorRT, with these options of it for each graph.

    Raises:
        EngineError: a file is missing or refused, is of another variant, or was exported from other weights than
            those that lie in its place.

    """
    metadata = read_metadata(graph)
    check_origin(variant, graph, metadata)
    engine = OnnxRuntimeEngine(graph, threads, gpu, tensorrt and tensorrt(graph))
    per_frame = engine if tensorrt else _for_several(engine, graph, batch_of(metadata), gpu)
    if "template" in engine.inputs:
        return Engines(per_frame)
    beside = template_graph(graph)
    if not beside.is_file():
        raise EngineError(f"{graph} needs the template graph {beside}, which does not exist: export both again")
    check_origin(variant, graph, read_metadata(beside))
    return Engines(per_frame, OnnxRuntimeEngine(beside, threads, gpu, tensorrt and tensorrt(beside)))


def _for_several(one: OnnxRuntimeEngine, graph: Path, batch: int | None, gpu: int | None) -> Engine:
    """The engine of a graph of that batch, for any number of targets."""
    if batch is None:
        return OneOrSeveral(one, _another(graph, one.threads, gpu, batch=None))
    if one.batch == 1 and gpu is None and one.threads > 1:
        return SideBySide(one, _another(graph, 1), one.threads)
    return one


def _another(graph: Path, threads: int, gpu: int | None = None, batch: int | None = 1) -> OtherEngine:
    """Makes another session later, if the file is still the one that it is now: most trackers never need it."""
    seen = _identity(graph)

    def make() -> OnnxRuntimeEngine | None:
        if _identity(graph) != seen:
            _log.warning("%s was changed since it was loaded: several targets run one after another", graph)
            return None
        try:
            return OnnxRuntimeEngine(graph, threads, gpu, batch=batch)
        except EngineError as error:
            _log.warning("several targets run one after another: %s", error)
            return None

    return make


def _identity(file: Path) -> tuple[int, int, int] | None:
    """What changes when a file is replaced or rewritten; None when it is not there."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _imported() -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError("the onnxruntime engine needs `pip install onnxruntime`") from error
    return onnxruntime


def _release(version: str) -> tuple[int, int]:
    """Major and minor number."""
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def _shape(node: object) -> tuple[int | None, ...]:
    """A graph's input or output shape; None for a free dimension."""
    return tuple(side if isinstance(side, int) else None for side in node.shape)  # type: ignore[attr-defined]
