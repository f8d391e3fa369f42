"""`ros2-tracker bench --node`: the real node between a camera process and a client process.

The camera stamps and publishes, the node answers, this process receives the tracks: latency is from the image's
stamp to the track's arrival here, so both transports are in it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from tqdm import tqdm
from vision_msgs.msg import Detection2D, Detection2DArray

from ros2_tracker.msg import TrackStatus
from ros2_tracker.ros import boxes, processes, qos
from ros2_tracker.ros.camera import scene_box
from ros2_tracker.ros.environment import isolate, use_large_image_profile
from ros2_tracker.ros.messages import stamp_ns
from ros2_tracker.tracking.result import TrackState

_START_TIMEOUT_S = 60.0
# A box that is sent again starts its target again, and some networks take seconds for that.
_SEND_AGAIN_S = 15.0
_TARGET_ID = "bench"


@dataclass(slots=True)
class _Answers:
    """What came back, a row an image."""

    index: list[int] = field(default_factory=list)
    tracked: list[bool] = field(default_factory=list)
    latency_s: list[float] = field(default_factory=list)
    taken_age_s: list[float] = field(default_factory=list)
    processing_s: dict[int, list[float]] = field(default_factory=dict)
    """By state, as TrackStatus numbers them."""
    latency_by_state_s: dict[int, list[float]] = field(default_factory=dict)
    """From the image's stamp to the status."""


class _Client(Node):
    """Draws the box on the first answered image, then times what comes back."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__("bench")
        self._size = size
        self._box_sent_s = -_SEND_AGAIN_S
        self.answers = _Answers()
        self.diagnostics: dict[str, str] = {}
        self._init = self.create_publisher(Detection2D, "tracker/init", qos.COMMAND)
        self.create_subscription(Detection2DArray, "tracker/tracks", self._on_tracks, qos.RESULT)
        self.create_subscription(TrackStatus, "tracker/status", self._on_status, qos.STATUS)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _on_tracks(self, msg: Detection2DArray) -> None:
        arrived_ns = self.get_clock().now().nanoseconds
        index = int(msg.header.frame_id)
        if not self.answers.index and not msg.detections:
            due = time.monotonic() - self._box_sent_s > _SEND_AGAIN_S
            if due and self._init.get_subscription_count():
                self._box_sent_s = time.monotonic()
                self._init.publish(boxes.detection(scene_box(index, *self._size), _TARGET_ID, 1.0, msg.header))
            return
        self.answers.index.append(index)
        self.answers.tracked.append(bool(msg.detections))
        self.answers.latency_s.append((arrived_ns - stamp_ns(msg.header.stamp)) / 1e9)

    def _on_status(self, msg: TrackStatus) -> None:
        if msg.predicted:
            return
        arrived_ns = self.get_clock().now().nanoseconds
        self.answers.taken_age_s.append(msg.image_age - msg.processing_time)
        self.answers.processing_s.setdefault(msg.state, []).append(msg.processing_time)
        latency_s = (arrived_ns - stamp_ns(msg.header.stamp)) / 1e9
        self.answers.latency_by_state_s.setdefault(msg.state, []).append(latency_s)

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        for status in msg.status:
            self.diagnostics.update({value.key: value.value for value in status.values})


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; exit status 1 when no track came.

    Reads from `arguments`: size (width, height), rate (Hz), duration (s), absent (s), encoding, reliability, model,
    engine, precision, weights, json, parameter (list of name:=value for the node).
    """
    environment = dict(os.environ)
    isolate(environment)
    use_large_image_profile(environment)
    os.environ.update(environment)
    width, height = arguments.size
    node = processes.start(
        "ros2_tracker.node",
        ["--ros-args", "--log-level", "warn", "-p", f"model:={arguments.model}", "-p", f"engine:={arguments.engine}",
         "-p", f"precision:={arguments.precision}",
         *(("-p", f"weights:={arguments.weights}") if arguments.weights else ()),
         "-p", f"qos.image.reliability:={arguments.reliability}",
         *(word for parameter in arguments.parameter for word in ("-p", parameter))],
        environment,
    )  # fmt: skip
    camera = processes.start(
        "ros2_tracker.ros.camera",
        ["--size", f"{width}x{height}", "--rate", str(arguments.rate), "--encoding", arguments.encoding,
         "--reliability", arguments.reliability, "--absent", str(arguments.absent)],
        environment,
    )  # fmt: skip
    rclpy.init()
    client = _Client(arguments.size)
    executor = SingleThreadedExecutor()
    executor.add_node(client)
    spinner = threading.Thread(target=_spin, args=(executor,), daemon=True)
    spinner.start()
    try:
        resident = _measure(client, node.pid, arguments.duration, lambda: node.poll() is None)
    finally:
        processes.stop(camera)
        status = processes.stop(node)
        rclpy.try_shutdown()
        spinner.join(2.0)
    summary = _summary(client, arguments, resident)
    summary["node_exit_status"] = status
    print(json.dumps(summary, indent=None if arguments.json else 2))
    return 0 if summary["tracks"] else 1


def _spin(executor: SingleThreadedExecutor) -> None:
    with contextlib.suppress(ExternalShutdownException):
        executor.spin()


def _measure(client: _Client, pid: int, duration_s: float, alive: Callable[[], bool]) -> list[tuple[float, float]]:
    """Wait for the first track, then `duration_s`; returns (s, MiB resident) of the node, one a second."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not client.answers.index and alive() and time.monotonic() < deadline:
        time.sleep(0.1)
    # What came while the node was still catching up is not part of the measurement.
    client.answers = _Answers()
    resident = []
    started = time.monotonic()
    with tqdm(total=round(duration_s), unit="s", desc="measuring", leave=False) as bar:
        while (elapsed := time.monotonic() - started) < duration_s and alive():
            resident.append((elapsed, _resident_mib(pid)))
            bar.update(int(elapsed) - bar.n)
            time.sleep(1.0)
    return resident


def _resident_mib(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return float("nan")
    return next((int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmRSS")), float("nan"))


def _summary(
    client: _Client, arguments: argparse.Namespace, resident: list[tuple[float, float]]
) -> dict[str, object]:
    answers = client.answers
    tracked = sum(answers.tracked)
    # `frame_id` counts the camera's images, so gaps show what was not answered.
    sent = answers.index[-1] - answers.index[0] + 1 if answers.index else 0
    after_minute = [mib for seconds, mib in resident if seconds >= 60.0]
    return {
        "machine": f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "image": f"{arguments.size[0]}x{arguments.size[1]} {arguments.encoding} at {arguments.rate:g} Hz, "
        f"{arguments.reliability}",
        "duration_s": arguments.duration,
        "images": sent,
        "answers": len(answers.index),
        "tracks": tracked,
        "tracks_per_image": round(tracked / sent, 4) if sent else 0.0,
        "stamp_to_track_ms": _percentiles(answers.latency_s),
        "image_age_when_taken_up_ms": _percentiles(answers.taken_age_s),
        "by_state": {
            TrackState(state).name: {
                "answers": len(answers.processing_s[state]),
                "stamp_to_status_ms": _percentiles(answers.latency_by_state_s[state]),
                "processing_ms": _percentiles(answers.processing_s[state]),
            }
            for state in sorted(answers.processing_s)
        },
        "node": {
            key: client.diagnostics.get(key)
            for key in ("transport_p50_ms", "transport_p99_ms", "network_p50_ms", "network_p99_ms",
                        "processing_p50_ms", "processing_p99_ms",
                        "images_received", "images_superseded", "images_predicted", "images_too_old", "images_broken")
        },
        "node_resident_mib": {
            "start": round(resident[0][1], 1),
            "after_1_min": round(after_minute[0], 1) if after_minute else None,
            "end": round(resident[-1][1], 1),
        }
        if resident
        else None,
    }  # fmt: skip


def _percentiles(seconds: list[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    p50, p99, worst = np.percentile(seconds, [50, 99, 100]) * 1e3
    return {"p50": round(float(p50), 2), "p99": round(float(p99), 2), "max": round(float(worst), 2)}
