"""The operator's page as a process: what needs no browser."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not there")
pytest.importorskip("vision_msgs.msg", reason="vision_msgs is not there")
pytest.importorskip("ros2_tracker.msg", reason="the messages of ros2_tracker are not built")
pytest.importorskip("aiohttp", reason="aiohttp is not there")

import aiohttp
from node_process import Client, free_domain
from operator_process import PATIENT_NODE, ROOT, WAIT_S, Camera, OperatorProcess
from ros2_tracker.msg import TrackEvent
from scene import XYWH

from ros2_tracker.operator.protocol import unpack_frame


@pytest.fixture
def ending() -> Iterator[ExitStack]:
    """What is to be called when the test ends."""
    with ExitStack() as stack:
        yield stack


def send_box_on_first_image(operator: OperatorProcess, box: XYWH) -> tuple[dict[str, Any], float]:
    """Connect, and send a box on the first image that comes; the reply, and how long it took, s."""

    async def send() -> tuple[dict[str, Any], float]:
        origin = operator.address[:-1]
        opening = {"url": f"{origin}/socket", "headers": {"Origin": origin}}
        async with aiohttp.ClientSession() as http, http.ws_connect(**opening) as ws:
            sent = None
            while True:
                message = await ws.receive()
                if message.type is aiohttp.WSMsgType.BINARY and sent is None:
                    stamp = unpack_frame(message.data)[0]["stamp"]
                    sent = time.monotonic()
                    await ws.send_json({"type": "follow", "number": 1, "stamp": stamp, "box": box, "id": ""})
                elif message.type is aiohttp.WSMsgType.TEXT and sent is not None:
                    reply = message.json()
                    if reply["type"] == "reply":
                        return reply, time.monotonic() - sent

    return asyncio.run(asyncio.wait_for(send(), WAIT_S))


def test_a_box_waits_until_ros_has_found_the_tracker(
    start_node: Callable[..., Client], tmp_path: Path, ending: ExitStack
):
    """A new page may show images before its process knows of the tracker."""
    client = start_node(PATIENT_NODE)
    camera = Camera(client)
    ending.callback(camera.stop)
    camera.still = True
    operator = OperatorProcess(client.node.context.get_domain_id(), tmp_path / "operator.log")
    ending.callback(operator.stop)
    client.wait("an image", lambda: camera.stamps)
    reply, waited_s = send_box_on_first_image(operator, camera.truth[camera.stamps[-1]])
    # On a machine that stands still the tracker is found later; then the operator draws again.
    while not reply["ok"]:
        assert "nobody listens on /tracker/init" in reply["text"]
        assert waited_s > 1.9
        reply, waited_s = send_box_on_first_image(operator, camera.truth[camera.stamps[-1]])
    client.event(TrackEvent.INITIALIZED)


@pytest.mark.parametrize(
    ("parameter", "complaint"),
    [
        ("host:=0.0.0.0", "host is '0.0.0.0', which others can reach: that needs a token"),
        ("image_transport:=theora", "image_transport is 'theora', must be one of raw, compressed"),
    ],
)
def test_a_wrong_parameter_is_named_in_one_line_and_the_status_is_one(parameter: str, complaint: str):
    with free_domain() as domain:
        environment: dict[str, Any] = {**os.environ, "ROS_DOMAIN_ID": str(domain)}
        command = [sys.executable, str(ROOT / "scripts" / "operator"), "--ros-args", "-p", parameter]
        child = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert child.returncode == 1
    (line,) = child.stderr.strip().splitlines()
    assert line.startswith("operator: ")
    assert complaint in line


@pytest.mark.timeout(300)
def test_the_benchmark_ends_on_sigterm_with_all_its_processes(ending: ExitStack):
    # So few and small images that a loaded machine keeps up: the target moves by images, not by time.
    scene = ["--size", "320x240", "--rate", "5"]
    command = [sys.executable, str(ROOT / "scripts" / "operator_bench.py"), "--seconds", "2", *scene]
    environment = {**os.environ, "ROS_DOMAIN_ID": str(ending.enter_context(free_domain()))}
    bench = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 8 * WAIT_S
        # Itself, node, camera, page and viewer.
        while len(session_of(bench.pid)) < 5:
            assert bench.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        bench.send_signal(signal.SIGTERM)
        assert bench.wait(4 * WAIT_S) == 128 + signal.SIGTERM
        assert session_of(bench.pid) == []
    finally:
        for pid in session_of(bench.pid):
            os.kill(pid, signal.SIGKILL)
        bench.wait()


def session_of(leader: int) -> list[int]:
    """The processes of a session that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                found.append(int(stat.parent.name))
    return found
