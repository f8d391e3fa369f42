"""The operator's page under test: its process, and a camera that shows a target to it and to the tracker."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from node_process import Client
from scene import XYWH

from ros2_tracker.evaluation.synthetic import SyntheticClip
from ros2_tracker.ros import processes

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 30.0
SIZE = (640, 480)
"""Of the camera's images, px."""
# A loaded machine takes its time: neither old images nor old boxes are refused.
PATIENT_NODE = {"frame_buffer_duration": 120.0, "frame_buffer_megabytes": 1024, "max_image_age": 0.0, "max_targets": 1}
_RATE = 15.0
_START_S = 60.0
"""A start is a second of computing, which takes long on a loaded machine; one that fails is seen at once."""


class OperatorProcess:
    """`scripts/operator` with parameters, on a port of the system's choice, its output in a file."""

    def __init__(self, domain: int, log: Path, parameters: Mapping[str, object] | None = None, token: str = "") -> None:
        """Start it in a ROS domain, and wait until it serves."""
        environment = {**os.environ, "ROS_DOMAIN_ID": str(domain), "PYTHONUNBUFFERED": "1"}
        if token:
            environment["ROS2_TRACKER_OPERATOR_TOKEN"] = token
        given = {"port": 0, **(parameters or {})}
        words = [word for name, value in given.items() for word in ("-p", f"{name}:={value}")]
        self._log = log
        with log.open("w") as output:
            self.process = processes.start(
                "ros2_tracker.ros.operator_bridge", ["--ros-args", *words], environment, output
            )
        self.port = self._wait_port()

    @property
    def output(self) -> str:
        """What it printed so far."""
        return self._log.read_text(errors="replace")

    @property
    def address(self) -> str:
        """Of the page."""
        return f"http://127.0.0.1:{self.port}/"

    def stop(self) -> int:
        """End it; its exit status."""
        return processes.stop(self.process, WAIT_S)

    def _wait_port(self) -> int:
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            if found := re.search(r"serving http://\S+:(\d+)/", self.output):
                return int(found[1])
            time.sleep(0.05)
        self.stop()
        raise AssertionError(f"the operator does not serve; it printed:\n{self.output}")


class Camera:
    """Publishes the demo's clip to and fro, so that the target comes and goes, or keeps still, or has no target."""

    def __init__(self, client: Client) -> None:
        clip = SyntheticClip(150, *SIZE, fps=15.0)
        # Before the look-alike comes near.
        self._frames = [clip.render(index) for index in range(33)]
        self._client = client
        self.still = False
        self.empty = False
        self.truth: dict[int, XYWH] = {}
        """Box by stamp."""
        self.stamps: list[int] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="camera", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def newer_than(self, stamp: int) -> int:
        """How many images have come since."""
        return sum(other > stamp for other in self.stamps)

    def _run(self) -> None:
        rng = np.random.default_rng(3)
        tick = 0
        while not self._stopping.wait(1 / _RATE):
            tick += not self.still
            turn = tick % (2 * len(self._frames) - 2)
            frame = self._frames[min(turn, 2 * len(self._frames) - 2 - turn)]
            stamp = self._client.new_stamp()
            self.truth[stamp] = frame.box.as_tuple()
            self.stamps.append(stamp)
            noise = rng.integers(90, 110, frame.image.shape, np.uint8)
            self._client.publish(noise if self.empty else frame.image, stamp=stamp)
