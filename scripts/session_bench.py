#!/usr/bin/env python3
"""Our ONNX Runtime session beside a plain `InferenceSession(graph)` with default options, as JSON.

The two take turns in short blocks, in random order, in two situations:

* `alone`: one run after the other, as fast as they go;
* `paced`: images arrive at 30 Hz on a thread that copies each, as the node's does; a run starts when one is there. The
  time is from when the image was due to the answer, so that a late receiver counts. `late_ms` is the receiver's share.

For every block it is noted how many cores other programs used meanwhile. `quiet` has the rounds in which that was less
than a quarter of a core for both, `disturbed` the others: on a shared machine only the two apart say anything. A ratio
below 1 means that ours is faster. `load_ms` is what making a session takes: ours, and ours of the graph as ONNX Runtime
had optimised it before, which is what a cache of optimised graphs would save.

Example: python scripts/session_bench.py --seconds 60 ros2_tracker/weights/onestream-192.int8.onnx
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ros2_tracker.engines.onnxruntime import OnnxRuntimeEngine, session_options
from ros2_tracker.evaluation.bench import machine_description
from ros2_tracker.models.variant import WEIGHTS_DIR

_RUNS = 6
"""Of a block."""
_PERIOD_S = 1.0 / 30.0
_IMAGE = (720, 1280, 3)
_QUIET_CORES = 0.25
_SPUN_OUT_S = 0.05
"""By then the threads of the other session have gone to sleep."""
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

Run = Callable[[], object]


class Block(NamedTuple):
    """A few runs of one session in a row."""

    seconds: float
    """Median of a run."""
    late_s: float
    """Median of how late the receiver woke; 0 where there is none."""
    cpu_s: float
    """Processor time of this process for each run."""
    others: float
    """Cores that other programs used meanwhile."""


def alone(run: Run) -> tuple[list[float], list[float]]:
    """Seconds of each run, and no receiver."""
    seconds = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return seconds, [0.0]


def paced(run: Run) -> tuple[list[float], list[float]]:
    """Seconds from when each image was due to its answer, and those by which the receiver was late."""
    image = np.zeros(_IMAGE, np.uint8)
    first = time.perf_counter() + _PERIOD_S
    due = [first + i * _PERIOD_S for i in range(_RUNS)]
    woke: list[float] = []
    arrived = threading.Semaphore(0)

    def receive() -> None:
        for when in due:
            time.sleep(max(0.0, when - time.perf_counter()))
            woke.append(time.perf_counter())
            image.copy()
            arrived.release()

    receiver = threading.Thread(target=receive)
    receiver.start()
    answered = []
    for _ in due:
        arrived.acquire()
        run()
        answered.append(time.perf_counter())
    receiver.join()
    return [b - a for a, b in zip(due, answered, strict=True)], [b - a for a, b in zip(due, woke, strict=True)]


SITUATIONS = {"alone": alone, "paced": paced}


def measured(run: Run, situation: Callable[[Run], tuple[list[float], list[float]]]) -> Block:
    """One block, after one run that is not timed."""
    time.sleep(_SPUN_OUT_S)
    run()
    busy, cpu, started = _busy_s(), time.process_time(), time.perf_counter()
    seconds, late = situation(run)
    cpu, elapsed = time.process_time() - cpu, time.perf_counter() - started
    others = (_busy_s() - busy - cpu) / elapsed
    return Block(statistics.median(seconds), statistics.median(late), cpu / _RUNS, max(0.0, others))


def compared(rounds: list[dict[str, Block]]) -> dict[str, Any] | None:
    """Ours against the default; None for no rounds."""
    if not rounds:
        return None
    ratios = [each["ours"].seconds / each["default"].seconds for each in rounds]
    shown: dict[str, Any] = {
        "rounds": len(rounds),
        "ratio": dict(zip(("p25", "p50", "p75"), np.percentile(ratios, (25, 50, 75)).round(3).tolist(), strict=True)),
    }
    for name in ("ours", "default"):
        blocks = [each[name] for each in rounds]
        shown[name] = {
            "ms": _ms(block.seconds for block in blocks),
            "late_ms": _ms(block.late_s for block in blocks),
            "cpu_ms_per_run": _ms(block.cpu_s for block in blocks),
        }
    return shown


def load_times(graph: Path, rounds: int = 7) -> dict[str, float]:
    """Median ms of making a session, from the graph and from the optimised graph."""
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / graph.name
        saving = session_options()
        saving.optimized_model_filepath = str(optimised)
        _session(graph, saving)
        cached = session_options()
        cached.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        cases = {"graph": (graph, session_options()), "optimised_graph": (optimised, cached)}
        seconds: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(rounds):
            for name, (file, options) in cases.items():
                started = time.perf_counter()
                _session(file, options)
                seconds[name].append(time.perf_counter() - started)
    return {name: _ms(values) for name, values in seconds.items()}


def bench(graph: Path, seconds: float) -> dict[str, Any]:
    """One graph, `seconds` long in each situation."""
    loading = load_times(graph)
    ours, default = OnnxRuntimeEngine(graph), onnxruntime.InferenceSession(str(graph))
    rng = np.random.default_rng(0)
    crops = {node.name for node in default.get_inputs() if node.type == "tensor(uint8)"}
    inputs: dict[str, NDArray] = {
        name: rng.integers(0, 256, shape[1:], np.uint8) if name in crops else rng.random(shape[1:], np.float32)
        for name, shape in ours.inputs.items()
    }
    batch = {name: value[None] for name, value in inputs.items()}
    runs: dict[str, Run] = {"ours": lambda: ours.run([inputs]), "default": lambda: default.run(None, batch)}
    for run in (*runs.values(), *runs.values()):
        run()
    report: dict[str, Any] = {"graph": graph.name, "ours": ours.description, "load_ms": loading}
    for name, situation in SITUATIONS.items():
        rounds = []
        end = time.monotonic() + seconds
        while not rounds or time.monotonic() < end:
            order = random.sample(sorted(runs), len(runs))
            rounds.append({each: measured(runs[each], situation) for each in order})
        quiet = [r for r in rounds if max(block.others for block in r.values()) < _QUIET_CORES]
        report[name] = {"quiet": compared(quiet), "disturbed": compared([r for r in rounds if r not in quiet])}
    return report


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shipped = [WEIGHTS_DIR / f"onestream-192{end}.onnx" for end in (".int8", "")]
    parser.add_argument("graphs", nargs="*", type=Path, default=shipped, help="(default: the shipped ones)")
    parser.add_argument("--seconds", type=float, default=30.0, help="for each graph and situation (default: 30)")
    arguments = parser.parse_args()
    graphs = [bench(graph, arguments.seconds) for graph in arguments.graphs]
    machine = machine_description() | {"onnxruntime": onnxruntime.__version__}
    print(json.dumps({"machine": machine, "graphs": graphs}))


def _session(graph: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def _busy_s() -> float:
    """Processor seconds that all programs together have used since the machine started."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_S


def _ms(seconds: Any) -> float:
    return round(1e3 * statistics.median(seconds), 2)


if __name__ == "__main__":
    main()
