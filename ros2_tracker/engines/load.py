"""Which engine runs a variant here, from which file, and why; and what happens when one is not to be trusted.

With `auto` the first of these that is there and passes its self-test:
TensorRT, torch on a GPU, ONNX Runtime on a GPU, ONNX Runtime, torch.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

from ros2_tracker.engines.base import ENGINES, PRECISIONS, Engine, EngineError, Engines, Progress
from ros2_tracker.engines.batches import SEVERAL, OneOrSeveral
from ros2_tracker.engines.origin import batch_of, check_origin, read_metadata
from ros2_tracker.models.variant import (
    EXPLICIT_INT8,
    Variant,
    WeightsMissingError,
    find_weights,
    template_graph,
    user_weights_dir,
)

_log = logging.getLogger(__name__)

# Fastest first. A CPU computes fp16 in fp32 with conversions between.
_CPU_ORDER = ("int8", "fp32", "fp16")
_GPU_ORDER = ("fp16", "fp32")
# An explicitly quantised graph is slower than fp32 on a CPU: only when int8 is asked for and there is no other.
_INT8_ORDER = ("int8", EXPLICIT_INT8)
_DYNAMIC = b"DynamicQuantizeLinear"
"""An operation's name, in the file of a graph that scales its activations at run time."""
_THROUGH_ORT = "onnxruntime-tensorrt"
"""TensorRT inside ONNX Runtime: only when it is named, because it builds for minutes without progress or cancelling."""
# Desktop, Jetson (two generations of drivers), WSL.
_GPU_FILES = ("/dev/nvidia0", "/dev/nvhost-gpu", "/dev/nvgpu/igpu0", "/dev/dxg")


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What a user can say about how a network is run."""

    engine: str = "auto"
    """One of ENGINES. A named engine is taken or refused; only `auto` goes on to the next."""
    precision: str = "auto"
    """One of PRECISIONS; `auto` is the fastest for the engine of those that are there."""
    weights: str | Path | None = None
    """A file instead of the variant's own: an ONNX graph or safetensors."""
    threads: int = 0
    """Of the CPU; 0 lets the engine choose."""
    device: str = "auto"
    """`auto` (a GPU where there is one), `cpu`, `cuda`, or `cuda:N` for the GPU of that number."""
    cache_dir: str | Path | None = None
    """Of built engines; None for the user's own, see `engines.cache`."""
    compiled: bool = False
    """Let torch.compile fuse operations on a GPU: a start that takes a minute longer, for faster frames."""

    def __post_init__(self) -> None:
        """ValueError names what is not known."""
        if self.engine not in ENGINES:
            raise ValueError(f"engine is {self.engine!r}, must be one of {', '.join(ENGINES)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}, must be one of {', '.join(PRECISIONS)}")
        kind, _, number = self.device.partition(":")
        if kind not in ("auto", "cpu", "cuda") or (number and (kind != "cuda" or not number.isdecimal())):
            raise ValueError(f"device is {self.device!r}, must be auto, cpu, cuda or cuda:N")

    @property
    def gpu(self) -> int:
        """CUDA's number of the GPU."""
        return int(self.device.partition(":")[2] or 0)


@dataclass(frozen=True, slots=True)
class Option:
    """One way to run a variant: the file it would use, or why there is none."""

    engine: str
    gpu: bool
    file: Path | None = None
    precision: str = ""
    missing: str = ""
    """What it lacks; empty when it can be tried."""

    @property
    def label(self) -> str:
        """For people."""
        return self.engine if self.engine == "tensorrt" else f"{self.engine} on {'CUDA' if self.gpu else 'CPU'}"


def load_engines(
    variant: Variant,
    settings: EngineSettings | None = None,
    progress: Progress = lambda phase, fraction: None,
    cancel: threading.Event | None = None,
) -> Engines:
    """The engines of a variant: chosen, loaded or built, and self-tested where they were built for this machine.

    Args:
        variant: which network.
        settings: None for the defaults.
        progress: of a build, which can take minutes.
        cancel: ends a build early.

    Raises:
        ValueError: settings that do not go together.
        WeightsMissingError: the file is not there.
        EngineError: the engine is not installed, refuses the file, or fails its self-test.

    """
    settings = settings or EngineSettings()
    options = usable_options(variant, settings)
    passed_over = [f"{o.label}: {o.missing}" for o in options if o.missing]
    tried = [option for option in options if not option.missing]
    for option in tried:
        try:
            engines = _LOADERS[option.engine](variant, option, settings, progress, cancel)
        except EngineError as error:
            if option is tried[-1] or (cancel is not None and cancel.is_set()):
                raise
            _log.warning("%s is not used for %s: %s", option.label, variant.name, error)
            passed_over.append(f"{option.label}: {error}")
            continue
        engines.precision = option.precision
        because = f"engine {settings.engine}, precision {option.precision}"
        engines.reason = f"{because} ({'; '.join(passed_over)})" if passed_over else because
        return engines
    raise AssertionError("usable_options returns at least one")


def usable_options(variant: Variant, settings: EngineSettings) -> list[Option]:
    """All ways to run a variant, best first, those that lack something included; errors as `load_engines`' first two.

    At least one of them lacks nothing.
    """
    options = list_options(variant, settings)
    if all(option.missing for option in options):
        raise _nothing(variant, settings, options)
    return options


def list_options(variant: Variant, settings: EngineSettings) -> list[Option]:
    """All ways to run a variant as far as the settings allow, best first, whether or not anything is there."""
    graphs, tensors = _files(variant, settings)
    no_gpu = _why_no_gpu(settings)
    no_torch = "" if find_spec("torch") and find_spec("safetensors") else "needs `pip install torch safetensors`"
    on_gpu = _graph_option(graphs, settings.precision, _GPU_ORDER)
    on_cpu = _graph_option(graphs, settings.precision, _CPU_ORDER)
    named_int8 = bool(settings.weights) and "int8" in graphs
    on_trt = _tensorrt_int8(graphs) if settings.precision == "int8" or named_int8 else on_gpu
    no_trt = "" if find_spec("tensorrt") or find_spec("tensorrt_rtx") else "TensorRT is not installed"
    no_ort = "" if find_spec("onnxruntime") else "needs `pip install onnxruntime`"
    no_tensors = "" if tensors else "there are no safetensors"
    half = "fp32" if settings.precision == "fp32" else "fp16"
    no_half = "computes in fp32 or fp16" if settings.precision == "int8" else ""
    no_single = "computes in fp32" if settings.precision in ("fp16", "int8") else ""

    def option(engine: str, gpu: bool, file: Path | None, precision: str, *lacks: str) -> Option:
        missing = next((lack for lack in lacks if lack), "")
        return Option(engine, gpu, file, precision, missing)

    everything = [
        option("tensorrt", True, *on_trt[:2], no_gpu, no_trt, on_trt[2]),
        option("torch", True, tensors, half, no_gpu, no_torch, no_tensors, no_half),
        option("onnxruntime", True, *on_gpu[:2], no_gpu, no_ort, on_gpu[2] or _why_no_provider("CUDA")),
        option("onnxruntime", False, *on_cpu[:2], no_ort, on_cpu[2]),
        option("torch", False, tensors, "fp32", no_torch, no_tensors, no_single),
        option(_THROUGH_ORT, True, *on_gpu[:2], no_gpu, no_ort, on_gpu[2] or _why_no_provider("Tensorrt")),
    ]
    wanted = everything[:-1] if settings.engine == "auto" else [o for o in everything if o.engine == settings.engine]
    if settings.device == "cpu":
        return [o for o in wanted if not o.gpu] or wanted
    if settings.device.startswith("cuda"):
        return [o for o in wanted if o.gpu]
    return wanted


def _files(variant: Variant, settings: EngineSettings) -> tuple[Mapping[str, Path], Path | None]:
    """Graphs by precision, and safetensors, that are there."""
    if settings.weights:
        file = Path(settings.weights)
        if not file.is_file():
            raise WeightsMissingError(f"model {variant.name}: the weights file {file} does not exist")
        if file.suffix == ".safetensors":
            return {}, file
        if file.suffix != ".onnx":
            raise ValueError(f"weights is {str(file)!r}, must end in .onnx or .safetensors")
        return {read_metadata(file).get("precision", settings.precision.replace("auto", "fp32")): file}, None
    found = {precision: find_weights(name) for precision, name in variant.graphs.items()}
    return {p: path for p, path in found.items() if path}, find_weights(variant.weights) if variant.weights else None


def _graph_option(
    graphs: Mapping[str, Path], precision: str, order: tuple[str, ...]
) -> tuple[Path | None, str, str]:
    """The graph to take, its precision, and what is lacking."""
    wanted = {"auto": order, "int8": _INT8_ORDER}.get(precision, (precision,))
    chosen = next((p for p in wanted if p in graphs), "")
    if not chosen:
        return None, "", "there is no graph" if precision == "auto" else f"there is no {precision} graph"
    return graphs[chosen], "int8" if chosen == EXPLICIT_INT8 else chosen, ""


def _tensorrt_int8(graphs: Mapping[str, Path]) -> tuple[Path | None, str, str]:
    """The same for int8 in TensorRT, which cannot scale activations at run time."""
    file = graphs.get(EXPLICIT_INT8) or graphs.get("int8")
    if file is None:
        return None, "", "there is no int8 graph"
    try:
        dynamic = _DYNAMIC in file.read_bytes()
    except OSError as error:
        return None, "", f"the network file {file} cannot be read: {error}"
    if dynamic:
        return None, "", f"{file.name} is quantised at run time, not for TensorRT: `ros2-tracker quantize` makes one"
    return file, "int8", ""


def _why_no_gpu(settings: EngineSettings) -> str:
    if settings.device == "cpu":
        return "device is cpu"
    return "" if any(Path(file).exists() for file in _GPU_FILES) else "there is no NVIDIA GPU"


def _why_no_provider(name: str) -> str:
    from onnxruntime import get_available_providers

    there = f"{name}ExecutionProvider" in get_available_providers()
    return "" if there else f"this build of onnxruntime has no {name} provider (onnxruntime-gpu has)"


def _nothing(variant: Variant, settings: EngineSettings, options: list[Option]) -> Exception:
    """Why there is nothing to run, and what would make it."""
    graphs, tensors = _files(variant, settings)
    lacking = "; ".join(f"{option.label}: {option.missing}" for option in options)
    if settings.weights:
        return ValueError(f"weights is {str(settings.weights)!r}, which cannot be run so ({lacking})")
    asked = settings.precision
    if asked == "int8" and not graphs.keys() & _INT8_ORDER:
        return ValueError(
            f"precision is 'int8', but model {variant.name} has none ({lacking}); `ros2-tracker quantize --model "
            f"{variant.name}` makes one of its fp32 graph"
        )
    if asked not in ("auto", "int8") and asked not in variant.graphs:
        return ValueError(f"precision is {asked!r}, but model {variant.name} has none ({lacking})")
    if not graphs and tensors is None and variant.weights is not None:
        return WeightsMissingError(variant.how_to_get_weights())
    made = "fp16" if asked == "fp16" or settings.engine == "tensorrt" else "fp32"
    if tensors is not None and made in variant.graphs and made not in graphs:
        graph = user_weights_dir() / variant.graphs[made]
        return WeightsMissingError(
            f"model {variant.name} cannot be run from {tensors} so ({lacking}); `ros2-tracker export --model "
            f"{variant.name} --precision {made} -o {graph}` makes a graph of it, here or where torch is"
        )
    return EngineError(f"model {variant.name} cannot be run so ({lacking})")


def _load_tensorrt(
    variant: Variant, option: Option, settings: EngineSettings, progress: Progress, cancel: threading.Event | None
) -> Engines:
    from ros2_tracker.engines.cache import EngineCache, PlanRefusedError
    from ros2_tracker.engines.onnxruntime import load_onnx_engines
    from ros2_tracker.engines.self_test import SelfTest, features_test, self_test
    from ros2_tracker.engines.tensorrt import load_tensorrt_engine

    assert option.file is not None  # or the option would lack something
    metadata = read_metadata(option.file)
    check_origin(variant, option.file, metadata)

    @cache
    def reference() -> Engines:
        """Only loaded where an engine was never tested with this GPU and driver."""
        progress("self-test", None)
        return load_onnx_engines(variant, option.file, settings.threads)

    def accepted(result: SelfTest) -> str:
        if not result.passed:
            raise PlanRefusedError(result.text)
        return result.text

    load = partial(
        load_tensorrt_engine,
        precision=option.precision,
        cache=EngineCache(settings.cache_dir),
        device=settings.gpu,
        progress=progress,
        cancel=cancel,
    )

    def frame_test(engine: Engine) -> str:
        return accepted(self_test(Engines(engine, reference().per_template), reference(), option.precision))

    def template_test(engine: Engine) -> str:
        return accepted(features_test(engine, reference().per_template, option.precision))

    load_frame = partial(load, option.file, variant.name, self_test=frame_test)
    batch = batch_of(metadata)
    per_frame = load_frame(batch=batch) if batch else _one_and_several(load_frame, variant, progress, cancel)
    if "template" in per_frame.inputs:
        return Engines(per_frame)
    beside = template_graph(option.file)
    metadata = read_metadata(beside)
    check_origin(variant, beside, metadata)
    name = f"{variant.name}-template"
    return Engines(per_frame, load(beside, name, batch=batch_of(metadata) or 1, self_test=template_test))


def _one_and_several(
    load: Callable[..., Engine], variant: Variant, progress: Progress, cancel: threading.Event | None
) -> Engine:
    """Engines of a graph that takes any number of targets, for one and, where it can be had, for several."""
    one = load(batch=1)

    def told(phase: str, fraction: float | None) -> None:
        progress(f"{phase}, for {SEVERAL} targets", fraction)

    several = None
    try:
        several = load(batch=SEVERAL, progress=told)
    except EngineError as error:
        if cancel is not None and cancel.is_set():
            raise
        _log.warning("several targets of %s run one after another: %s", variant.name, error)
    return OneOrSeveral(one, lambda: several)


def _load_torch(
    variant: Variant, option: Option, settings: EngineSettings, progress: Progress, cancel: threading.Event | None
) -> Engines:
    from ros2_tracker.engines.torch import load_torch_engines

    progress("reading the weights", None)
    device = f"cuda:{settings.gpu}" if option.gpu else "cpu"
    return load_torch_engines(
        variant, option.file, settings.threads, device, option.precision, compiled=settings.compiled
    )


def _load_onnxruntime(
    variant: Variant, option: Option, settings: EngineSettings, progress: Progress, cancel: threading.Event | None
) -> Engines:
    from ros2_tracker.engines.cache import EngineCache
    from ros2_tracker.engines.onnxruntime import load_onnx_engines, tensorrt_options
    from ros2_tracker.engines.self_test import require_passed, self_test

    through = None
    if option.engine == _THROUGH_ORT:
        # A build of minutes, of which ONNX Runtime tells nothing.
        progress("ONNX Runtime builds or loads a TensorRT engine", None)
        through = partial(tensorrt_options, precision=option.precision, cache=EngineCache(settings.cache_dir))
    else:
        progress("reading the graph", None)
    gpu = settings.gpu if option.gpu else None
    engines = load_onnx_engines(variant, option.file, settings.threads, gpu, through)
    if option.gpu:
        reference = load_onnx_engines(variant, option.file, settings.threads)
        require_passed(self_test(engines, reference, option.precision))
    return engines


_LOADERS = {
    "tensorrt": _load_tensorrt,
    "torch": _load_torch,
    "onnxruntime": _load_onnxruntime,
    _THROUGH_ORT: _load_onnxruntime,
}
