"""From an ONNX graph to a TensorRT engine: which TensorRT, for which GPU, and the build.

All that differs between `tensorrt` 8.6 to 11 and `tensorrt_rtx` (TensorRT for RTX) is here and has a comment, except
for running engines: `engines.tensorrt`. docs/engines.md says which of these calls have been run.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from ros2_tracker.engines.base import EngineError, Progress
from ros2_tracker.engines.cache import EngineKey, TimingCache
from ros2_tracker.engines.cuda import Gpu, find_gpu
from ros2_tracker.models.digest import file_sha256

_log = logging.getLogger(__name__)

_OLDEST = {"tensorrt": (8, 6), "tensorrt_rtx": (1, 2)}
_WORKSPACE_MIB = 1024
_SETTINGS = f"workspace {_WORKSPACE_MIB} MiB, no TF32"
"""Part of the key: whoever changes how engines are built changes this text."""
_EXTERNAL_WEIGHTS = b"\x0a\x08location\x12"
"""How ONNX's protobuf says that a tensor lies in another file. TensorRT would look for it in the working directory."""
_TICK_S = 1.0


class BuildCancelledError(EngineError):
    """The build was cancelled."""


@dataclass(frozen=True, slots=True)
class TensorRT:
    """One of the two flavours, imported."""

    module: ModuleType
    flavour: str
    """`tensorrt` or `tensorrt_rtx`."""
    version: str

    @property
    def rtx(self) -> bool:
        """Whether it is TensorRT for RTX: builds without a GPU, and compiles for the GPU when it loads."""
        return self.flavour == "tensorrt_rtx"


@dataclass(frozen=True, slots=True)
class Target:
    """What an engine is built with and for."""

    tensorrt: TensorRT
    gpu: Gpu | None
    """None: built ahead, without a GPU at hand."""

    @property
    def portable(self) -> bool:
        """Whether its engines run on any GPU that TensorRT for RTX supports, except for those before 8.0 (Turing)."""
        return self.tensorrt.rtx and (self.gpu is None or float(self.gpu.compute_capability) >= 8.0)


def find_tensorrt(flavours: Collection[str] = tuple(_OLDEST)) -> TensorRT:
    """The first flavour that can be imported; EngineError says what to install when none can."""
    problems = []
    for flavour in flavours:
        try:
            module = importlib.import_module(flavour)
            version = str(module.__version__)
        except (ImportError, OSError, AttributeError) as error:  # a stub or a library that does not load
            problems.append(f"{flavour}: {' '.join(str(error).split())}")
            continue
        if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST[flavour]:
            problems.append(f"{flavour}: {version} is older than {'.'.join(map(str, _OLDEST[flavour]))}")
            continue
        return TensorRT(module, flavour, version)
    raise EngineError(
        f"there is no TensorRT ({'; '.join(problems)}): JetPack and NVIDIA's apt repository have `tensorrt` "
        "(python3-libnvinfer); `pip install tensorrt-rtx` serves RTX GPUs on x86-64"
    )


def find_target(device: int = 0, ahead: bool = False) -> Target:
    """What engines are built with and for on this machine.

    Args:
        device: CUDA's number of the GPU.
        ahead: build without looking for a GPU; only TensorRT for RTX can.

    Raises:
        EngineError: there is no TensorRT, no GPU, or the two do not go together.

    """
    if ahead:
        return Target(find_tensorrt(("tensorrt_rtx",)), None)
    gpu = find_gpu(device)
    tensorrt = find_tensorrt()
    if tensorrt.rtx:
        # Its enumeration of what it can build for is also what it can run on.
        known = [name for name in tensorrt.module.ComputeCapability.__members__ if name.startswith("SM")]
        if _sm(gpu) not in known:
            raise EngineError(
                f"TensorRT for RTX {tensorrt.version} does not run on {gpu.name} (compute capability "
                f"{gpu.compute_capability}, it knows {', '.join(known)}): install `tensorrt`"
            )
    return Target(tensorrt, gpu)


def engine_key(target: Target, graph: Path, name: str, precision: str, batch: int) -> EngineKey:
    """The key of the engine that `build_plan` makes of a graph; OSError when the graph cannot be read."""
    gpu = None if target.portable else target.gpu
    return EngineKey(
        name=name,
        graph_sha256=file_sha256(graph),
        flavour=target.tensorrt.flavour,
        version=target.tensorrt.version,
        gpu=gpu.name if gpu else "none",
        compute_capability=gpu.compute_capability if gpu else "none",
        precision=precision,
        batch=batch,
        settings=_SETTINGS,
    )


def build_plan(
    target: Target,
    graph: Path,
    key: EngineKey,
    progress: Progress = lambda phase, fraction: None,
    cancel: threading.Event | None = None,
    timing_cache: TimingCache | None = None,
) -> bytes:
    """Build an engine: seconds with TensorRT for RTX, minutes with `tensorrt`, longer on a Jetson.

    Args:
        target: with and for what.
        graph: the ONNX file, weights inside.
        key: of `engine_key` for this target and graph.
        progress: told the phase and the fraction; with `tensorrt` 8.6 the elapsed time and no fraction. Any thread may
            call it, one at a time. What it raises cancels the build, and is raised here.
        cancel: set it to end the build at the next step, with `tensorrt` 8.6 when it is done.
        timing_cache: measurements of earlier builds, which shorten this one; written back. Of no use to TensorRT for
            RTX, which measures nothing while it builds.

    Raises:
        BuildCancelledError: `cancel` was set.
        EngineError: the graph changed since the key was made, has a free dimension or a batch other than the key's,
            TensorRT does not know an operation, or the build fails; the text has TensorRT's own words.

    """
    trt = target.tensorrt.module
    logger = logger_of(trt)
    logger.errors.clear()
    progress("reading the graph", 0.0)
    data = graph.read_bytes()
    if hashlib.sha256(data).hexdigest() != key.graph_sha256:
        raise EngineError(f"{graph} was changed while its engine was to be built: try again")
    if _EXTERNAL_WEIGHTS in data:
        raise EngineError(f"{graph} has weights in another file, which its key does not know: export it in one file")
    try:
        builder = trt.Builder(logger)
    except (RuntimeError, TypeError) as error:  # pybind11's, for a constructor that returns nothing
        what = f"TensorRT {target.tensorrt.version} does not start"
        raise EngineError(_failure(what, logger.errors or [str(error)])) from error
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    _parse(parser, data, graph, logger)
    _fix_batch(network, graph, key.batch)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _WORKSPACE_MIB << 20)
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 is to mean fp32
    _allow_precision(trt, config, key.precision)
    if target.gpu is not None and target.tensorrt.rtx and not target.portable:
        # Without this an engine runs on 8.0 and later; before that only when it is asked for.
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, _sm(target.gpu)), 0)
    if target.tensorrt.rtx:
        timing_cache = None  # deprecated there, and empty
    if timing_cache is not None:
        attach_timing_cache(config, timing_cache)
    plan = _build(trt, builder, network, config, logger, _Watch(progress, cancel or threading.Event()))
    del parser  # the network's weights are in its memory until here
    if timing_cache is not None:
        save_timing_cache(config, timing_cache)
    progress("built", 1.0)
    return plan


def attach_timing_cache(config: Any, timing_cache: TimingCache) -> None:
    """Give TensorRT what it measured in earlier builds."""
    # It verifies GPU and version itself as well: False instead of ignoring a mismatch.
    if not config.set_timing_cache(config.create_timing_cache(timing_cache.load()), False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def save_timing_cache(config: Any, timing_cache: TimingCache) -> None:
    """Keep what TensorRT has measured until now."""
    timing_cache.store(bytes(config.get_timing_cache().serialize()))


def _sm(gpu: Gpu) -> str:
    """A compute capability in TensorRT for RTX's words."""
    return "SM" + gpu.compute_capability.replace(".", "")


def _network_flags(trt: ModuleType) -> int:
    """For a network whose types are those of its graph."""
    kinds = trt.NetworkDefinitionCreationFlag
    # 8.6 has no STRONGLY_TYPED and wants EXPLICIT_BATCH, which 10 ignores and RTX no longer has; 11 ignores the first.
    for name in ("STRONGLY_TYPED", "EXPLICIT_BATCH"):
        if hasattr(kinds, name):
            return 1 << int(getattr(kinds, name))
    return 0


def _allow_precision(trt: ModuleType, config: Any, precision: str) -> None:
    """Let 8.6 compute in the graph's precision: it has no strong typing, and refuses fp16 without a flag.

    It then also chooses by itself where to use fp16. With strong typing these flags are an error, from 11 on unknown.
    """
    if precision != "fp32" and not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        config.set_flag(getattr(trt.BuilderFlag, precision.upper()))


def _parse(parser: Any, data: bytes, graph: Path, logger: Any) -> None:
    if not parser.parse(data):
        said = [str(parser.get_error(i)) for i in range(parser.num_errors)]
        raise EngineError(_failure(f"TensorRT cannot read {graph}", said or logger.errors))


def _fix_batch(network: Any, graph: Path, batch: int) -> None:
    """Give inputs with a free batch this one, before anything is built; EngineError for other shapes.

    TensorRT then builds as if the graph had been exported so. A range of batches would be one engine for all, but of
    kernels chosen for the whole range, and its frames could not be recorded once.
    """
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        shape = tuple(tensor.shape)
        if shape[:1] == (-1,):
            tensor.shape = shape = (batch, *shape[1:])
        if min(shape, default=1) < 1:
            raise EngineError(f"{graph}: input {tensor.name} has the shape {shape}: only its batch may be free")
        if shape[:1] != (batch,):
            raise EngineError(f"{graph}: input {tensor.name} has the shape {shape}, which is not a batch of {batch}")


def _build(trt: ModuleType, builder: Any, network: Any, config: Any, logger: Any, watch: _Watch) -> bytes:
    """The build proper; TensorRT releases the interpreter meanwhile."""
    plan = None
    if watch.go_on():
        if hasattr(trt, "IProgressMonitor"):  # from 10 on, and in RTX
            config.progress_monitor = _monitor(trt, watch)
            plan = builder.build_serialized_network(network, config)
        else:
            with watch.ticking():
                plan = builder.build_serialized_network(network, config)
    if watch.raised is not None:
        raise watch.raised
    if not watch.go_on():
        raise BuildCancelledError("the build of the engine was cancelled")
    if plan is None:
        raise EngineError(_failure("TensorRT could not build the engine", logger.errors))
    return bytes(plan)


def _monitor(trt: ModuleType, watch: _Watch) -> Any:
    class Monitor(trt.IProgressMonitor):
        """Called by TensorRT, from any of its threads."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            watch.go_on(watch.start, phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return watch.go_on(watch.step, phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            watch.go_on(watch.finish, phase_name)

    return Monitor()


@dataclass(slots=True)
class _Phase:
    parent: str | None
    steps: int
    done: int = 0
    finished: int = 0
    """Phases within the present step that are over."""


class _Watch:
    """Makes one growing fraction of TensorRT's nested phases, and knows when to stop."""

    def __init__(self, progress: Progress, cancel: threading.Event) -> None:
        self.raised: BaseException | None = None
        """What `progress` raised, or the user's interrupt."""
        self._progress, self._cancel = progress, cancel
        self._lock = threading.Lock()
        self._phases: dict[str, _Phase] = {}
        self._roots_finished = 0
        self._told = 0.0

    def go_on(self, call: Callable[..., None] = lambda: None, *arguments: Any) -> bool:
        """Call one of the others, from any thread; whether to go on. Raises nothing: TensorRT would not pass it on."""
        try:
            with self._lock:
                if self.raised is None:
                    call(*arguments)
        except BaseException as error:
            self.raised = error
        return self.raised is None and not self._cancel.is_set()

    def start(self, name: str, parent: str | None, steps: int) -> None:
        self._phases[name] = _Phase(parent, max(steps, 1))
        self._tell(name)

    def step(self, name: str, step: int) -> None:
        phase = self._phases.get(name)
        if phase is not None:
            phase.done, phase.finished = step + 1, 0
        self._tell(name)

    def finish(self, name: str) -> None:
        phase = self._phases.pop(name, None)
        if phase is None:
            return
        if phase.parent in self._phases:
            self._phases[phase.parent].finished += 1
        elif phase.parent is None:
            self._roots_finished += 1

    @contextmanager
    def ticking(self) -> Iterator[None]:
        """Tell the elapsed time instead."""
        over = threading.Event()
        started = time.monotonic()

        def tick() -> None:
            while not over.wait(_TICK_S):
                self.go_on(self._progress, f"building, {time.monotonic() - started:.0f} s", None)

        thread = threading.Thread(target=tick, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _tell(self, phase: str) -> None:
        # How many phases a step or the whole build has is not known: each takes a share of what the earlier ones left.
        left = 0.1**self._roots_finished
        fraction = 1.0 - left + 0.9 * left * self._within(None)
        if fraction >= self._told + 0.01:
            self._told = fraction
            self._progress(phase, fraction)

    def _within(self, parent: str | None) -> float:
        """Of the phase of that parent that is furthest: several may run at once."""
        return max((self._of(name) for name, phase in self._phases.items() if phase.parent == parent), default=0.0)

    def _of(self, name: str) -> float:
        phase = self._phases[name]
        left = 0.5**phase.finished
        return min(1.0, (phase.done + 1.0 - left + 0.5 * left * self._within(name)) / phase.steps)


@cache
def logger_of(trt: ModuleType) -> Any:
    """TensorRT's messages to `logging`. One for all: TensorRT keeps using the first it was given."""
    kinds = trt.ILogger.Severity
    levels = {kinds.WARNING: logging.WARNING, kinds.INFO: logging.DEBUG, kinds.VERBOSE: None}

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            """What went wrong lately, a line each."""

        def log(self, severity: Any, message: str) -> None:
            level = levels.get(severity, logging.ERROR)
            if level == logging.ERROR:
                self.errors.append(_one_line(message))
            if level is not None:
                _log.log(level, "TensorRT: %s", message)

    return Logger()


def _failure(what: str, said: list[str]) -> str:
    """What failed, with all that TensorRT said about it, a line each."""
    return "\n  ".join([f"{what}:", *(_one_line(text) for text in said)]) if said else f"{what}, and does not say why"


def _one_line(text: str) -> str:
    return " ".join(text.split())
