#!/usr/bin/env python3
"""What the operator's page costs the tracker: latency from an image's stamp to its track, with and without it, as JSON.

The real node follows a target in a camera process's images; the latency is taken where the track arrives, here. Rounds
without and with the page take turns. "With" is the page's process, a browser's stand-in that takes every frame (a
process of its own), one that connects and never reads, and half of the time 50 more, of which most are refused.
`ratio_p99` is the median over pairs of neighbouring rounds of p99 with the page / p99 without; `ratio_p50` alike. A
pair counts when other programs used less than a quarter of a core in both; `quiet_pairs` says how many did, and with
none of them all count. `spread_p99_without` is the ratio of the rounds without, each to the one before: what the
machine alone does to the number.

Example: python scripts/operator_bench.py --rounds 5 --seconds 4 --size 1280x720
(needs ROS 2, this package's messages and aiohttp, as the page does)
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from vision_msgs.msg import Detection2D, Detection2DArray

from ros2_tracker.evaluation.bench import machine_description
from ros2_tracker.operator.protocol import unpack_frame
from ros2_tracker.ros import boxes, processes, qos
from ros2_tracker.ros.camera import parse_size, scene_box
from ros2_tracker.ros.environment import isolate, use_large_image_profile
from ros2_tracker.ros.messages import stamp_ns

_TIMEOUT_S = 30.0
_START_S = 120.0
"""Of the node and the camera together, and of the page: a loaded machine takes its time."""
_SETTLE_S = 1.0
_CROWD = 50
_QUIET_CORES = 0.25


class Timer(Node):
    """Draws the box on the first answered image, then times what comes back."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__("operator_bench")
        self._size = size
        self._sent_s = 0.0
        self.latencies: list[float] = []
        self.tracked = threading.Event()
        self._init = self.create_publisher(Detection2D, "tracker/init", qos.COMMAND)
        self.create_subscription(Detection2DArray, "tracker/tracks", self._on_tracks, qos.RESULT)

    def _on_tracks(self, msg: Detection2DArray) -> None:
        self.latencies.append((self.get_clock().now().nanoseconds - stamp_ns(msg.header.stamp)) / 1e6)
        if msg.detections:
            self.tracked.set()
        elif not self.tracked.is_set() and time.monotonic() - self._sent_s > 1.0:
            self._sent_s = time.monotonic()
            box = scene_box(int(msg.header.frame_id), *self._size)
            self._init.publish(boxes.detection(box, "bench", 1.0, msg.header))


def main() -> int:
    """Measure and print; exit status 1 when the node does not track."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="pairs of rounds without and with")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each round")
    parser.add_argument("--size", type=parse_size, default=(1280, 720))
    parser.add_argument("--rate", type=float, default=30.0)
    parser.add_argument("--view", metavar="URL", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.view:
        asyncio.run(view(arguments.view))
        return 0
    signal.signal(signal.SIGTERM, ENDING.on_signal)
    environment = dict(os.environ)
    isolate(environment)
    use_large_image_profile(environment)
    os.environ.update(environment)
    with contextlib.ExitStack() as stack:
        ours = {os.getpid()}
        for module, words in (
            ("ros2_tracker.node", ["--ros-args", "--log-level", "warn", "-p", "reliability.frozen_after:=0.0"]),
            ("ros2_tracker.ros.camera", ["--size", "{}x{}".format(*arguments.size), "--rate", str(arguments.rate)]),
        ):
            with ENDING.held():
                process = processes.start(module, words, environment)
                stack.callback(processes.stop, process)
            ours.add(process.pid)
        # ROS's own handler of SIGTERM would end ROS and let the rest go on.
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        stack.callback(rclpy.try_shutdown)
        timer = Timer(arguments.size)
        executor = SingleThreadedExecutor()
        executor.add_node(timer)
        threading.Thread(target=spin, args=(executor,), daemon=True).start()
        if not timer.tracked.wait(_START_S):
            print("operator_bench: the node does not track", file=sys.stderr)
            return 1
        rounds: dict[str, list[dict[str, float]]] = {"without": [], "with": []}
        for _ in range(arguments.rounds):
            rounds["without"].append(measured(timer, arguments.seconds, ours))
            with watched(environment) as page:
                rounds["with"].append({**measured(timer, arguments.seconds, ours, page), **page.state()})
    print(json.dumps(summary(arguments, rounds), indent=2))
    return 0


class Ending:
    """SIGTERM ends us as an exception does, so that all processes are ended, too."""

    def __init__(self) -> None:
        self._is_held = False
        self._number = 0

    def on_signal(self, number: int, _: object) -> None:
        """End, or remember it."""
        self._number = number
        if not self._is_held:
            self._end()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Not within this: an exception out of a start would leave its process behind."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        if self._number:
            self._end()

    def _end(self) -> None:
        # From now on signals are late.
        for late in (signal.SIGINT, signal.SIGTERM):
            signal.signal(late, signal.SIG_IGN)
        sys.exit(128 + self._number)


ENDING = Ending()


def spin(executor: SingleThreadedExecutor) -> None:
    """Until ROS is shut down."""
    with contextlib.suppress(ExternalShutdownException):
        executor.spin()


class WatchedPage:
    """The page's process and its browsers; the stack ends them."""

    def __init__(self, environment: Mapping[str, str], output: Path, stack: contextlib.ExitStack) -> None:
        with output.open("w") as log, ENDING.held():
            self.process = processes.start(
                "ros2_tracker.ros.operator_bridge", ["--ros-args", "-p", "port:=0"], environment, log
            )
            stack.callback(processes.stop, self.process)
        deadline = time.monotonic() + _START_S
        while not (found := re.search(r"serving (http://\S+:(\d+)/)", output.read_text())):
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(f"the page does not come up:\n{output.read_text()}")
            time.sleep(0.05)
        self.url, self.port = found[1], int(found[2])
        command = [sys.executable, __file__, "--view", self.url]
        with ENDING.held():
            self.viewer = subprocess.Popen(command, env=dict(environment), stdout=subprocess.PIPE, text=True)
            stack.callback(self.viewer.wait)
            stack.callback(self.viewer.kill)
        assert self.viewer.stdout is not None
        self.viewer.stdout.readline()  # it has got a frame
        self.silent = silent_browser(self.port)
        self._seen: dict[str, Any] = {}

    @contextlib.contextmanager
    def crowd(self) -> Iterator[None]:
        """Fifty that want in as well; there is room for some, who do not read either."""
        with contextlib.ExitStack() as stack:
            for _ in range(_CROWD):
                stack.enter_context(silent_browser(self.port))
            yield

    def stop(self) -> None:
        """End it all."""
        self.silent.close()
        self.viewer.send_signal(signal.SIGTERM)
        text, _ = self.viewer.communicate(timeout=_TIMEOUT_S)
        self._seen = json.loads(text.strip().splitlines()[-1])
        processes.stop(self.process)

    def state(self) -> dict[str, float]:
        """What the viewer had seen when it ended."""
        self.stop()
        return self._seen


@contextlib.contextmanager
def watched(environment: Mapping[str, str]) -> Iterator[WatchedPage]:
    """A page that is being watched."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        yield WatchedPage(environment, folder / "log", stack)


def cpu_s(pid: int) -> float:
    """Processor time of a process so far."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def others_cpu_s(ours: set[int]) -> float:
    """Processor time of all other processes so far."""
    user, nice, system, _, _, irq, softirq = Path("/proc/stat").read_text().split()[1:8]
    busy_s = sum(map(int, (user, nice, system, irq, softirq))) / os.sysconf("SC_CLK_TCK")
    return busy_s - sum(map(cpu_s, ours))


def measured(timer: Timer, seconds: float, ours: set[int], page: WatchedPage | None = None) -> dict[str, float]:
    """Percentiles of the latency, ms, over some seconds."""
    time.sleep(_SETTLE_S)
    if page:
        ours = {*ours, page.process.pid, page.viewer.pid}
    page_s, others_s = cpu_s(page.process.pid) if page else 0.0, others_cpu_s(ours)
    timer.latencies = []
    time.sleep(seconds / 2)
    with page.crowd() if page else contextlib.nullcontext():
        time.sleep(seconds / 2)
    latencies = timer.latencies
    if not latencies:
        raise RuntimeError(f"no track came for {seconds:g} s")
    p50, p99 = np.percentile(latencies, [50, 99])
    result = {"tracks": len(latencies), "p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2)}
    result["others_cores"] = round((others_cpu_s(ours) - others_s) / seconds, 2)
    if page:
        result["page_cores"] = round((cpu_s(page.process.pid) - page_s) / seconds, 3)
    return result


def silent_browser(port: int) -> socket.socket:
    """A WebSocket that nobody reads from."""
    connection = socket.create_connection(("127.0.0.1", port), _TIMEOUT_S)
    connection.sendall(
        f"GET /socket HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: http://127.0.0.1:{port}\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
    )
    return connection


async def view(url: str) -> None:
    """Take every frame until SIGTERM or the page's end, then print how many they were and what the server counted."""
    # A browser would be on another computer.
    os.nice(19)
    watching = asyncio.current_task()
    assert watching is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, watching.cancel)
    frames, n_bytes, state = 0, 0, {}
    opening = {"url": f"{url}socket", "headers": {"Origin": url[:-1]}, "receive_timeout": _TIMEOUT_S}
    with contextlib.suppress(asyncio.CancelledError):
        async with aiohttp.ClientSession() as http, http.ws_connect(**opening) as ws:
            # receive() would answer at once on a connection that has ended, and no signal would be seen.
            async for message in ws:
                if message.type is aiohttp.WSMsgType.BINARY:
                    frames, n_bytes = frames + 1, n_bytes + len(message.data)
                    await ws.send_json({"type": "shown", "sequence": unpack_frame(message.data)[0]["sequence"]})
                    if frames == 1:
                        print("watching", flush=True)
                elif message.type is aiohttp.WSMsgType.TEXT and '"type":"state"' in message.data:
                    state = json.loads(message.data)
    counters = {name: state["counters"][name] for name in ("clients_refused", "clients_dropped")}
    size = round(n_bytes / frames / 1e3)
    print(json.dumps({"frames_per_s": state["rates"]["shown"], "kb_per_frame": size, **counters}))


def summary(arguments: argparse.Namespace, rounds: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """All rounds, and the ratios."""
    pairs = list(zip(rounds["without"], rounds["with"], strict=True))
    quiet = [pair for pair in pairs if max(entry["others_cores"] for entry in pair) < _QUIET_CORES]
    pairs = quiet or pairs
    spread = [later["p99_ms"] / earlier["p99_ms"] for earlier, later in pairwise(rounds["without"])]
    return {
        "machine": machine_description(),
        "image": "{}x{} bgr8 at {:g} Hz".format(*arguments.size, arguments.rate),
        "quiet_pairs": len(quiet),
        "ratio_p50": round(statistics.median(b["p50_ms"] / a["p50_ms"] for a, b in pairs), 3),
        "ratio_p99": round(statistics.median(b["p99_ms"] / a["p99_ms"] for a, b in pairs), 3),
        "spread_p99_without": [round(value, 2) for value in spread],
        **rounds,
    }


if __name__ == "__main__":
    sys.exit(main())
