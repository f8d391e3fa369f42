"""Networks on the CPU through ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ros2_tracker.engines.base import EngineError

# More threads than this do not speed up one small network, and the camera driver needs cores too.
_MAX_THREADS = 4


class OnnxRuntimeEngine:
    """One ONNX graph in one CPU session."""

    def __init__(self, graph: Path, threads: int = 0) -> None:
        """Load `graph`; EngineError when onnxruntime is missing or refuses the file."""
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
        try:
            self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises classes of its own without a common public base
            raise EngineError(f"onnxruntime cannot load {graph}: {error}") from error
        self.outputs: Mapping[str, tuple[int, ...]] = {
            node.name: tuple(node.shape) for node in self._session.get_outputs()
        }
        self._names = list(self.outputs)
        threads = options.intra_op_num_threads
        self.description = f"onnxruntime {onnxruntime.__version__}, CPU, {threads} threads, {graph.name}"

    def run(self, inputs: Mapping[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.float32]]:
        """Run the network once; see `Engine.run`."""
        return dict(zip(self._names, self._session.run(self._names, dict(inputs)), strict=True))
