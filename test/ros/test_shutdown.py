"""How the node's process ends: by signals, at any moment, and when its parameters are not valid."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not there")
pytest.importorskip("vision_msgs.msg", reason="vision_msgs is not there")
pytest.importorskip("ros2_tracker.msg", reason="the messages of ros2_tracker are not built")

from node_process import WAIT_S, NodeProcess, free_domain

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 2.0


@pytest.mark.parametrize(
    ("active", "signals"),
    [
        pytest.param(True, [signal.SIGINT], id="SIGINT"),
        pytest.param(True, [signal.SIGINT], id="SIGINT, a second time"),
        pytest.param(True, [signal.SIGTERM], id="SIGTERM"),
        # Ctrl-C under `ros2 launch`: from the terminal and from launch.
        pytest.param(True, [signal.SIGINT, signal.SIGINT], id="SIGINT twice"),
        pytest.param(False, [signal.SIGINT] * 5, id="unconfigured, impatient"),
        pytest.param(False, [signal.SIGTERM], id="unconfigured, SIGTERM"),
    ],
)
def test_signal_ends_it_soon_with_status_zero_and_without_traceback(start_node: Any, active: bool, signals: list[int]):
    client = start_node({"autostart": active}, active=active)

    started = time.monotonic()
    assert client.process.stop(*signals) == 0
    took_s = time.monotonic() - started

    assert took_s < LIMIT_S
    assert "Traceback" not in client.process.output


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        (("max_targets", 0), "max_targets"),
        (("max_targets", "many"), "max_targets is 'many', must be of type int"),
        (("max_image_age", -1.0), "max_image_age"),
        (("autostart", 3), "autostart is 3, must be of type bool"),
        (("model", "vot2030"), "model is 'vot2030', must be one of default, "),
        (("reliability.lost_below", 0.9), "reliability thresholds must be ordered"),
        (("weights", "{"), "Couldn't parse parameter override rule"),
    ],
)
def test_invalid_parameter_is_named_in_one_line_and_the_status_is_one(
    tmp_path: Path, setting: tuple[str, Any], complaint: str
):
    with free_domain() as domain:
        process = NodeProcess(domain, tmp_path / "node.log", dict([setting]))
        process.start()
        deadline = time.monotonic() + WAIT_S
        while process.alive and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not process.alive
        assert process.stop() == 1

    # rcl adds a line of its own, without a reason, when it cannot read its arguments.
    lines = [line for line in process.output.splitlines() if "[rcl]" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("tracker_node: ")
    assert complaint in lines[0]


def test_executable_ends_quietly_while_it_still_imports():
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", str(ROOT / "scripts" / "tracker_node")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    # The first of the node's imports; rclpy and others are yet to come.
    assert any("numpy" in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=WAIT_S)

    assert process.returncode == 0, rest
    assert "Traceback" not in rest


def test_executable_hands_on_the_status():
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "tracker_node"), "--ros-args", "-p", "max_targets:=none"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert done.returncode == 1
    assert "max_targets" in done.stderr
