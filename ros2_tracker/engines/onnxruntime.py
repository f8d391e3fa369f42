"""Networks through ONNX Runtime: on the CPU, or on a GPU where its build can."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ros2_tracker.engines.base import EngineError, Engines, NamedArrays, stacked, unstacked
from ros2_tracker.engines.origin import check_origin, read_metadata
from ros2_tracker.models.variant import Variant, template_graph

# More threads than this do not speed up one small network, and the camera driver needs cores too.
_MAX_THREADS = 4


class OnnxRuntimeEngine:
    """One ONNX graph in one session."""

    def __init__(self, graph: Path, threads: int = 0, gpu: int | None = None) -> None:
        """Load `graph`, for the CPU or for the GPU of that number.

        EngineError when onnxruntime is missing or refuses the file.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineError("the onnxruntime engine needs `pip install onnxruntime`") from error
        if not graph.is_file():
            raise EngineError(f"the network file {graph} does not exist")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or min(len(os.sched_getaffinity(0)), _MAX_THREADS)
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads that spin between frames would take the core that receives the next image.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers: list[Any] = ["CPUExecutionProvider"]
        if gpu is not None:
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": gpu}))
        try:
            self._session = onnxruntime.InferenceSession(str(graph), options, providers=providers)
        except Exception as error:  # onnxruntime raises classes of its own without a common public base
            raise EngineError(f"onnxruntime cannot load {graph}: {error}") from error
        self.inputs: Mapping[str, tuple[int | None, ...]] = {n.name: _shape(n) for n in self._session.get_inputs()}
        self.outputs: Mapping[str, tuple[int | None, ...]] = {n.name: _shape(n) for n in self._session.get_outputs()}
        self.batch: int | None = next(iter(self.inputs.values()))[0]
        self._names = list(self.outputs)
        # A GPU that cannot be used is left out without an error.
        if gpu is not None and "CUDAExecutionProvider" not in self._session.get_providers():
            raise EngineError(f"onnxruntime {onnxruntime.__version__} cannot use GPU {gpu}")
        where = f"CPU, {options.intra_op_num_threads} threads" if gpu is None else f"GPU {gpu}"
        self.description = f"onnxruntime {onnxruntime.__version__}, {where}, {graph.name}"

    def run(self, targets: Sequence[NamedArrays]) -> list[NamedArrays]:
        """Run the network once; see `Engine.run`."""
        outputs = self._session.run(self._names, stacked(targets))
        return unstacked(dict(zip(self._names, outputs, strict=True)), len(targets))


def load_onnx_engines(variant: Variant, graph: Path, threads: int = 0, gpu: int | None = None) -> Engines:
    """The graph, and the template graph beside it for families that keep template features.

    Raises:
        EngineError: a file is missing or refused, is of another variant, or was exported from other weights than
            those that lie in its place.

    """
    check_origin(variant, graph, read_metadata(graph))
    engine = OnnxRuntimeEngine(graph, threads, gpu)
    loaded = [engine]
    if "template" not in engine.inputs:
        beside = template_graph(graph)
        if not beside.is_file():
            raise EngineError(f"{graph} needs the template graph {beside}, which does not exist: export both again")
        check_origin(variant, graph, read_metadata(beside))
        loaded.append(OnnxRuntimeEngine(beside, threads, gpu))
    return Engines(*loaded)


def _shape(node: object) -> tuple[int | None, ...]:
    """A graph's input or output shape; None for a free dimension."""
    return tuple(side if isinstance(side, int) else None for side in node.shape)  # type: ignore[attr-defined]
