#!/usr/bin/env python3
"""Size of every variant's graphs, and the time of one frame in ONNX Runtime beside torch on this CPU, as JSON.

Weights are random: neither depends on them. Times are medians of runs that take turns, with two threads each.

Example: python scripts/export_table.py --runs 10 stark-lightning ostrack-b256
(needs `pip install 'ros2-tracker[export]'`)
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ros2_tracker.engines.base import Engines
from ros2_tracker.engines.export import EXPORT_PRECISIONS, export_onnx
from ros2_tracker.engines.onnxruntime import load_onnx_engines
from ros2_tracker.engines.torch import torch_engines
from ros2_tracker.models.build import FAMILIES, build_network
from ros2_tracker.models.variant import Variant, load_variant, variant_names

_THREADS = 2


def frame_inputs(variant: Variant, engines: Engines) -> dict[str, NDArray]:
    """What one target hands over in one frame: noise, and features of noise."""
    z, x = variant.template.size, variant.search.size
    rng = np.random.default_rng(0)
    crops = {name: rng.integers(0, 256, (s, s, 3), np.uint8) for name, s in (("template", z), ("search", x))}
    if engines.per_template is None:
        return crops
    masks = {f"{name}_padded": np.zeros(value.shape[:2], bool) for name, value in crops.items()}
    given = crops | masks
    made = engines.per_template.run([{name: given[name] for name in engines.per_template.inputs}])[0]
    kept = {f"template_{name}": np.concatenate([value] * variant.templates) for name, value in made.items()}
    return {name: (kept | given)[name] for name in engines.per_frame.inputs}


def row(variant: Variant, runs: int, folder: Path) -> dict[str, Any]:
    """One variant's sizes in bytes and times in ms."""
    torch.manual_seed(0)
    network = build_network(variant).requires_grad_(False)
    files = {p: export_onnx(network, variant, folder / f"{p}.onnx", precision=p) for p in EXPORT_PRECISIONS}
    both = {
        "torch": torch_engines(network, variant, "random weights"),
        "onnxruntime": load_onnx_engines(variant, files["fp32"][0], _THREADS),
    }
    inputs = {name: frame_inputs(variant, engines) for name, engines in both.items()}
    times: dict[str, list[float]] = {name: [] for name in both}
    for i in range(runs + 2):
        for name, engines in both.items():
            start = time.perf_counter()
            engines.per_frame.run([inputs[name]])
            if i >= 2:  # the first ones warm up
                times[name].append(1e3 * (time.perf_counter() - start))
    return {
        "model": variant.name,
        "bytes": {precision: [file.stat().st_size for file in each] for precision, each in files.items()},
        "fp32_ms": {name: round(statistics.median(each), 1) for name, each in times.items()},
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [name for name in variant_names() if load_variant(name).family in FAMILIES]
    parser.add_argument("models", nargs="*", default=known, help="(default: all with torch networks)")
    parser.add_argument("--runs", type=int, default=10, help="that are timed (default: 10)")
    arguments = parser.parse_args()
    torch.set_num_threads(_THREADS)
    rows = []
    for name in arguments.models:
        print(name, file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            rows.append(row(load_variant(name), arguments.runs, Path(folder)))
    print(json.dumps({"threads": _THREADS, "runs": arguments.runs, "models": rows}))


if __name__ == "__main__":
    main()
