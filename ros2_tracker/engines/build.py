"""TensorRT engines built and cached ahead of time, so that a node does not spend its first minutes on it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

from ros2_tracker.engines.base import EngineError, Progress
from ros2_tracker.engines.batches import SEVERAL
from ros2_tracker.engines.cache import EngineCache
from ros2_tracker.engines.load import EngineSettings, Option, list_options, load_engines
from ros2_tracker.engines.origin import batch_of, check_origin, read_metadata
from ros2_tracker.engines.tensorrt import obtain_plan
from ros2_tracker.engines.tensorrt_build import engine_key, find_target
from ros2_tracker.models.variant import Variant, WeightsMissingError, template_graph


@dataclass(frozen=True, slots=True)
class Built:
    """One engine in the cache."""

    file: Path
    megabytes: float
    seconds: float
    """To build it, or to find it there."""
    self_test: str
    """What its self-test said; empty for one that was built without a GPU."""


def build_ahead(
    variant: Variant,
    settings: EngineSettings,
    without_gpu: bool = False,
    progress: Progress = lambda phase, fraction: None,
    cancel: threading.Event | None = None,
) -> list[Built]:
    """Build what `engine: tensorrt` would load here, if it is not in the cache yet.

    Args:
        variant: which network.
        settings: precision, weights, device and cache; the engine is TensorRT whatever they say.
        without_gpu: build for any GPU of TensorRT for RTX (8.0 and later), on a machine that has none; not self-tested.
        progress: of the build.
        cancel: ends it.

    Raises:
        ValueError: settings that do not go together.
        WeightsMissingError: there is no graph.
        EngineError: there is no TensorRT, no GPU, or the build or its self-test fails.

    """
    option = _tensorrt_option(variant, settings)
    assert option.file is not None  # as it was just found
    check_origin(variant, option.file, read_metadata(option.file))
    started = time.perf_counter()
    if not without_gpu:
        load_engines(variant, settings, progress, cancel)
    target = find_target(settings.gpu, ahead=without_gpu)
    cache = EngineCache(settings.cache_dir)
    batch = batch_of(read_metadata(option.file))
    graphs = [(option.file, variant.name, each) for each in ((1, SEVERAL) if batch is None else (batch,))]
    beside = template_graph(option.file)
    if beside.is_file():
        graphs.append((beside, f"{variant.name}-template", batch_of(read_metadata(beside)) or 1))
    built = []
    for graph, name, batch in graphs:
        stored = obtain_plan(target, graph, name, option.precision, batch, cache, progress, cancel)
        file = cache.folder / engine_key(target, graph, name, option.precision, batch).file_name
        elapsed, started = time.perf_counter() - started, time.perf_counter()
        built.append(Built(file, len(stored.plan) / 2**20, elapsed, stored.header.self_test))
    return built


def _tensorrt_option(variant: Variant, settings: EngineSettings) -> Option:
    """The graph that TensorRT would take, whether or not there is a GPU."""
    option = next((o for o in list_options(variant, settings) if o.engine == "tensorrt"), None)
    if option is None:
        raise EngineError(f"device is {settings.device!r}, but TensorRT runs on GPUs only")
    if option.file is None:
        makes = f"export --model {variant.name} --precision fp16 -o FILE.onnx"
        if settings.precision == "int8":
            makes = f"quantize --model {variant.name} FOLDER_OF_SEQUENCES"
        raise WeightsMissingError(f"model {variant.name}: {option.missing}; `ros2-tracker {makes}` makes one")
    return option
