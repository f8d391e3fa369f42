#!/usr/bin/env python3
"""How long the node takes from the start of its process until it is active, and how much of that are imports, as JSON.

`imports_s` is a process of its own that only imports what the node imports, from its start to its end, so Python's own
start is in it. `active_s` is from the start of the node's process to its log line that says `active`; what that leaves,
`rest_s`, is DDS, parameters, reading the network and warming it up. The two take turns; medians of all rounds are
printed, and each round. The first round may read from the disk what the others find in memory, and is left out.

Example: python scripts/node_start.py --rounds 10 -p model:=default -p engine:=onnxruntime
(needs ROS 2 and this package's messages, as the node does)
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time

from ros2_tracker.evaluation.bench import machine_description
from ros2_tracker.ros import processes
from ros2_tracker.ros.environment import isolate, use_large_image_profile

_IMPORTS = ("ros2_tracker.node", "ros2_tracker.tracking.network", "onnxruntime")
_ACTIVE = "active: images from"
_TIMEOUT_S = 120.0


def import_time(environment: dict[str, str], modules: list[str]) -> float:
    """Seconds of a process that imports the modules; CalledProcessError when it cannot."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", f"import {', '.join(modules)}"], env=environment, check=True)
    return time.monotonic() - started


def active_time(environment: dict[str, str], parameters: list[str]) -> float:
    """Seconds from the start of the node's process until it says that it is active; RuntimeError with its log."""
    read_end, write_end = os.pipe()
    with os.fdopen(read_end) as log:
        started = time.monotonic()
        with os.fdopen(write_end, "w") as output:
            node = processes.start("ros2_tracker.node", ["--ros-args", *parameters], environment, output)
        # A node that hangs is ended, which ends its log.
        watchdog = threading.Timer(_TIMEOUT_S, node.kill)
        watchdog.start()
        try:
            said = []
            for line in log:
                if _ACTIVE in line:
                    return time.monotonic() - started
                said.append(line)
            raise RuntimeError(f"the node did not become active:\n{''.join(said[-20:])}")
        finally:
            watchdog.cancel()
            processes.stop(node)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="that count (default: 5)")
    parser.add_argument("-p", dest="parameters", action="append", default=[], metavar="NAME:=VALUE", help="of the node")
    parser.add_argument(
        "--import", dest="modules", nargs="+", default=_IMPORTS, metavar="MODULE", help="what the node imports"
    )
    arguments = parser.parse_args()
    environment = dict(os.environ)
    isolate(environment)
    use_large_image_profile(environment)
    parameters = [word for parameter in arguments.parameters for word in ("-p", parameter)]
    rounds = []
    for _ in range(arguments.rounds + 1):
        imports, active = import_time(environment, list(arguments.modules)), active_time(environment, parameters)
        rounds.append({"imports_s": imports, "active_s": active, "rest_s": active - imports})
    counted = rounds[1:]
    medians = {name: round(statistics.median(each[name] for each in counted), 2) for name in counted[0]}
    shown = [{name: round(value, 2) for name, value in each.items()} for each in counted]
    report = {"machine": machine_description(), "parameters": arguments.parameters, **medians, "rounds": shown}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
