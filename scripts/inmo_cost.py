#!/usr/bin/env python3
"""What InMo's interaction in the paper's mode costs against the size of the image, as JSON.

    python scripts/inmo_cost.py [--rounds N] > inmo_cost.json

Maps of a stage of width 96, as of images of 256 to 1024 px, with and without the window process: time of one search
pass on one thread (median of rounds that take the sizes in turns), operations, and the largest memory. `growth` is the
exponent by which a figure follows the image's area from one size to the next: 1 is linear, 2 is quadratic.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from itertools import pairwise

WIDTH, HEADS, STRIDE = 96, 3, 4
SIDES = {True: (64, 128, 192, 256), False: (64, 96, 128)}
"""Of the search map, by whether there is a window process; without it more would take gigabytes."""


def measured(window_process: bool, rounds: int) -> list[dict[str, float]]:
    """A row a size, in this process."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from ros2_tracker.models.inmo_attention import InteractionModeler, Interactions
    from ros2_tracker.models.inmo_swin import Memory

    torch.set_num_threads(1)
    module = InteractionModeler(WIDTH, WIDTH, HEADS, Interactions("paper", window_process=window_process)).eval()
    cases = {}
    with torch.inference_mode():
        for side in SIDES[window_process]:
            _, keys, values = module.template(torch.randn(1, side // 2, side // 2, WIDTH))
            cases[side] = torch.randn(1, side, side, WIDTH), Memory(keys, values)
        times: dict[int, list[float]] = {side: [] for side in cases}
        rows = []
        # Attention as products, so that what is between tokens is counted and kept, as on hardware without a kernel.
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for side, case in cases.items():
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                module.search(*case)
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            # The largest of all so far, and sizes ascend.
            rows.append({"image_px": STRIDE * side, "gmacs": counter.get_total_flops() / 2e9, "peak_mb": grown / 1024})
        for _ in range(rounds):
            for side, case in cases.items():
                started = time.perf_counter()
                module.search(*case)
                times[side].append(time.perf_counter() - started)
    return [{**row, "ms": 1e3 * statistics.median(own)} for row, own in zip(rows, times.values(), strict=True)]


def with_growth(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """Exponents against the row before."""
    for small, large in pairwise(rows):
        area = 2.0 * math.log(large["image_px"] / small["image_px"])
        large |= {f"growth_{name}": math.log(large[name] / small[name]) / area for name in ("gmacs", "peak_mb", "ms")}
    return rows


def main() -> None:
    """Each kind in a process of its own, for its memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("windows", "global"), help="measure one kind in this process")
    given = parser.parse_args()
    if given.only:
        print(json.dumps(with_growth(measured(given.only == "windows", given.rounds))))
        return
    found = {}
    for kind in ("windows", "global"):
        command = [sys.executable, __file__, "--only", kind, "--rounds", str(given.rounds)]
        found[kind] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
