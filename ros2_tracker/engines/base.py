"""What every engine can do, and the choice between them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

ENGINES = ("auto", "onnxruntime")
PRECISIONS = ("auto", "fp32", "int8")


class EngineError(RuntimeError):
    """An engine cannot be had or cannot load the network; the text says why and what to do."""


class Engine(Protocol):
    """A loaded network. Not thread-safe: one thread runs it.

    Inputs and outputs are named arrays with a leading batch axis. All networks of this package take `template`
    and `search`, (N, S, S, 3) uint8 RGB, and normalise inside the graph; outputs are float32.
    """

    description: str
    """For people: the run time, its version, the device."""
    outputs: Mapping[str, tuple[int, ...]]
    """Name -> shape of each output."""

    def run(self, inputs: Mapping[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.float32]]:
        """Run the network once. The returned arrays belong to the caller."""
        ...


def load_engine(engine: str, precision: str, graph: Path, threads: int = 0) -> Engine:
    """Load an ONNX graph with the named engine.

    Args:
        engine: one of ENGINES; `auto` takes the fastest that is there.
        precision: one of PRECISIONS.
        graph: the ONNX file.
        threads: CPU threads; 0 lets the engine choose.

    Raises:
        ValueError: an unknown engine or precision.
        EngineError: the engine is not installed, or refuses the file.

    """
    if engine not in ENGINES:
        raise ValueError(f"engine is {engine!r}, must be one of {', '.join(ENGINES)}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}, must be one of {', '.join(PRECISIONS)}")
    from ros2_tracker.engines.onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(graph, threads)
