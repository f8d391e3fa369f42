"""The follow-me example's node over DDS, and the closed loop with the real tracker."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS is not there")
pytest.importorskip("ros2_tracker.msg", reason="the messages of ros2_tracker are not built")

import contextlib

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist, TwistStamped
from node_process import ROOT, WAIT_S, free_domain
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from ros2_tracker.msg import TrackStatus
from scene import time_of
from sensor_msgs.msg import CameraInfo

PERIOD_S = 1.0 / 30.0
ZERO = (0.0, 0.0, 0.0)


class FollowMe:
    """The node in a process of its own, and what it hears and says."""

    def __init__(self, domain: int, log: Path, *parameters: str) -> None:
        """Start it and wait until it is connected."""
        self._log = log.open("w+")
        words = [word for parameter in parameters for word in ("-p", parameter)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "examples.follow_me", *(["--ros-args", *words] if words else [])],
            cwd=ROOT,
            env={**os.environ, "ROS_DOMAIN_ID": str(domain), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        self._context = Context()
        rclpy.init(args=[], context=self._context, domain_id=domain)
        self.node = rclpy.create_node("test_follow_me", context=self._context)
        self.commands: list[TwistStamped] = []
        self.unstamped: list[Twist] = []
        self.diagnostics: list[dict[str, str]] = []
        self.counters: dict[str, str] = {}
        self.node.create_subscription(TwistStamped, "cmd_vel", self.commands.append, 100)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._status = self.node.create_publisher(TrackStatus, "tracker/status", 10)
        self._info = self.node.create_publisher(CameraInfo, "camera_info", 10)
        self._set = self.node.create_client(SetParameters, "follow_me/set_parameters")
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        self.wait("its subscriptions", lambda: self._status.get_subscription_count() > 0)
        self.wait("the camera_info", lambda: self._info.get_subscription_count() > 0)
        self.wait("its first command", lambda: self.commands)

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        values = {value.key: value.value for value in msg.status[0].values}
        self.diagnostics.append({"message": msg.status[0].message, **values})

    def close(self) -> None:
        """End the process and leave the domain."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._context.try_shutdown()
        self._thread.join(WAIT_S)
        self._executor.shutdown()
        self.node.destroy_node()
        self._log.close()

    @property
    def output(self) -> str:
        """What the node printed."""
        return Path(self._log.name).read_text()

    def wait(self, what: str, condition: Callable[[], Any]) -> Any:
        """What the condition returns once it is true."""
        deadline = time.monotonic() + WAIT_S
        while not (result := condition()):
            assert self.process.poll() is None, f"the node has ended:\n{self.output}"
            assert time.monotonic() < deadline, f"waited in vain for {what}:\n{self.output}"
            time.sleep(0.01)
        return result

    def camera(self) -> None:
        """Publish a camera_info of 500 px focal length until it is used; TRACKING statuses go with it."""
        info = CameraInfo(width=640, height=480, distortion_model="plumb_bob")
        info.d, info.k = [0.0] * 5, [500.0, 0.0, 320.0, 0.0, 500.0, 240.0, 0.0, 0.0, 1.0]
        for _ in range(3):
            self._info.publish(info)
            time.sleep(0.05)

    def say(self, state: int = TrackStatus.TRACKING, *, ahead_s: float = 0.0, **changes: Any) -> None:
        """Publish the status of a target to the left and above, taken now or `ahead_s` later."""
        now_ns = time.time_ns() + round(ahead_s * 1e9)
        msg = TrackStatus(id="me", session=1, state=state, bearing_valid=True)
        msg.header.stamp = time_of(now_ns)
        msg.box, msg.velocity = [220.0, 200.0, 50.0, 50.0], [0.0, 0.0]
        length = math.sqrt(0.2**2 + 0.08**2 + 1.0)
        msg.bearing.x, msg.bearing.y, msg.bearing.z = -0.2 / length, -0.08 / length, 1.0 / length
        for name, value in changes.items():
            setattr(msg, name, value)
        self._status.publish(msg)

    def go(self, seconds: float = 0.6, **changes: Any) -> tuple[float, float, float]:
        """Say the same at the camera's rate until the command is not zero, and for some time; the last command."""
        until = time.monotonic() + seconds
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < until or (self.last == ZERO and time.monotonic() < deadline):
            self.say(**changes)
            time.sleep(PERIOD_S)
        assert self.last != ZERO, self.output
        return self.last

    @property
    def last(self) -> tuple[float, float, float]:
        """Forward, climb and yaw rate of the last command."""
        return values_of(self.commands[-1].twist)

    def wait_zero(self) -> float:
        """Wait for a zero from now on; after how many seconds it came."""
        mark, begin = len(self.commands), time.monotonic()
        self.wait("a zero", lambda: any(values_of(c.twist) == ZERO for c in self.commands[mark:]))
        return time.monotonic() - begin

    def diagnosis(self) -> dict[str, str]:
        """The next diagnostics."""
        mark = len(self.diagnostics)
        self.wait("diagnostics", lambda: len(self.diagnostics) > mark)
        return self.diagnostics[-1]

    def counted(self, name: str) -> None:
        """Wait until the diagnostics count one more than at the start."""
        before = int(self.counters.get(name, 0))
        self.wait(name, lambda: self.diagnostics and int(self.diagnostics[-1][name]) > before)

    def set(self, name: str, value: Any) -> Any:
        """Set a parameter; the result."""
        self.wait("the parameter service", self._set.service_is_ready)
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        future = self._set.call_async(request)
        self.wait("the parameter service", future.done)
        return future.result().results[0]


def values_of(twist: Twist) -> tuple[float, float, float]:
    assert (twist.linear.y, twist.angular.x, twist.angular.y) == ZERO
    return twist.linear.x, twist.linear.z, twist.angular.z


@contextlib.contextmanager
def running(folder: Path) -> Iterator[FollowMe]:
    with free_domain() as domain:
        node = FollowMe(domain, folder / "follow_me.log")
        try:
            yield node
        finally:
            node.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FollowMe]:
    """A node that has heard a camera_info."""
    with running(tmp_path_factory.mktemp("follow_me")) as node:
        node.camera()
        yield node


@pytest.fixture
def follow(shared: FollowMe) -> FollowMe:
    """The shared node, standing still because nothing has come for a while, with its counters as they are then."""
    shared.wait_zero()
    shared.wait("silence", lambda: shared.last == ZERO and shared.diagnosis()["message"].endswith("no status"))
    shared.counters = shared.diagnosis()
    return shared


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[FollowMe]:
    """A node of the test's own, without camera_info."""
    with running(tmp_path) as node:
        yield node


def test_it_stands_still_until_there_are_status_and_camera_info_and_says_why(fresh: FollowMe):
    fresh.wait("commands", lambda: len(fresh.commands) > 5)
    for _ in range(10):
        fresh.say()
        time.sleep(PERIOD_S)
    fresh.counted("statuses_without_bearing")
    assert {values_of(c.twist) for c in fresh.commands} == {ZERO}
    assert fresh.commands[-1].header.frame_id == "base_link"
    assert "camera_info" in fresh.output


def test_it_follows_and_stops_when_lost_and_when_nothing_comes(follow: FollowMe):
    forward, climb, yaw_rate = follow.go()
    assert yaw_rate > 0.0
    assert climb > 0.0
    assert abs(forward) < 0.2 * climb  # the box has its first size
    follow.say(TrackStatus.LOST, box=[math.nan] * 4)
    follow.wait_zero()
    # And goes on again with a ramp.
    mark = len(follow.commands)
    follow.go()
    moving = [abs(values_of(c.twist)[2]) for c in follow.commands[mark:] if values_of(c.twist) != ZERO]
    assert moving[0] < 0.3 * moving[-1]
    # Silence: the watchdog's time is short; a machine that stalls may add to it.
    mark = len(follow.commands)
    silent_s = follow.wait_zero()
    assert silent_s < 2.0
    stamps = [c.header.stamp.sec + c.header.stamp.nanosec / 1e9 for c in follow.commands]
    zero = next(i for i in range(mark, len(stamps)) if values_of(follow.commands[i].twist) == ZERO)
    assert stamps[zero] - stamps[zero - 1] >= 0.2  # not before its time either
    follow.counted("timeouts")


def test_predictions_alone_do_not_keep_it_going(follow: FollowMe):
    follow.go()
    deadline = time.monotonic() + WAIT_S
    while follow.last != ZERO and time.monotonic() < deadline:
        follow.say(predicted=True)
        time.sleep(PERIOD_S)
    assert follow.last == ZERO
    follow.counted("timeouts")


@pytest.mark.parametrize(
    ("changes", "counter"),
    [
        ({"box": [math.nan, 200.0, 50.0, 50.0]}, "statuses_not_finite"),
        ({"box": [220.0, 200.0, -50.0, 50.0]}, "statuses_bad_size"),
        ({"bearing_valid": False}, "statuses_without_bearing"),
        ({"state": 9}, "statuses_bad_state"),
        ({"ahead_s": -0.1}, "time_jumps"),
        ({"ahead_s": 5.0}, "time_jumps"),
    ],
)
def test_a_bad_status_commands_zero_and_is_counted(follow: FollowMe, changes: dict[str, Any], counter: str):
    follow.go()
    follow.say(**changes)
    follow.wait_zero()
    follow.counted(counter)
    # Nothing has to be restarted.
    follow.go()


def test_the_first_target_is_followed_until_it_is_silent(follow: FollowMe):
    follow.go()
    mark = len(follow.commands)
    for _ in range(10):
        follow.say()
        # Another target, to the right.
        follow.say(id="other", velocity=[500.0, 0.0])
        time.sleep(PERIOD_S)
    assert all(values_of(c.twist)[2] >= 0.0 for c in follow.commands[mark:])
    follow.wait_zero()
    follow.go(id="other")


def test_disabling_commands_zero_and_wrong_values_are_refused(follow: FollowMe):
    follow.go()
    refused = follow.set("max_yaw_rate", -1.0)
    assert not refused.successful
    assert "max_yaw_rate" in refused.reason
    assert follow.set("enabled", False).successful
    for _ in range(5):
        follow.say()
        time.sleep(PERIOD_S)
    assert follow.last == ZERO
    assert follow.set("enabled", True).successful
    follow.go()


def test_twist_without_stamp_is_published_for_those_who_listen(follow: FollowMe):
    follow.node.create_subscription(Twist, "cmd_vel_unstamped", follow.unstamped.append, 10)
    follow.wait("a Twist", lambda: follow.unstamped)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_its_last_command_is_zero(fresh: FollowMe, number: int):
    fresh.camera()
    fresh.go()
    fresh.say()
    fresh.process.send_signal(number)
    assert fresh.process.wait(WAIT_S) == 0
    deadline = time.monotonic() + WAIT_S
    while fresh.last != ZERO and time.monotonic() < deadline:
        time.sleep(0.01)
    assert fresh.last == ZERO


@pytest.mark.parametrize("parameter", ["yaw_gain:=1000.0", "distance:=far"])
def test_a_wrong_parameter_ends_it_with_a_line_that_names_it(parameter: str):
    result = subprocess.run(
        [sys.executable, "-m", "examples.follow_me", "--ros-args", "-p", parameter],
        cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert parameter.split(":=")[0] in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.timeout(300)
def test_closed_loop(tmp_path: Path):
    """Real tracker, real follow-me: the target stays in the middle, disappears, the camera stops."""
    with free_domain() as domain:
        result = subprocess.run(
            [sys.executable, "-m", "examples.follow_me.simulation", "--duration", "12", "--json", "--no-film",
             "--likeness", "0", "--output", str(tmp_path)],
            cwd=ROOT, env={**os.environ, "ROS_DOMAIN_ID": str(domain)},
            capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip
    assert "Traceback" not in result.stderr, result.stderr
    summary = json.loads(result.stdout)
    run = summary["runs"][0]
    assert run["answered"] >= 0.9 * run["images"]
    assert run["losses"], "the target was hidden, and nothing was said"
    for loss in run["losses"]:
        assert loss["zero_after_s"] <= 0.3
        assert loss["commands_other_than_zero"] == 0
    assert run["mean_iou_while_tracking"] > 0.5
    with (tmp_path / "follow.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == run["images"]
    # While the camera stands still the target may leave the middle: it must have been there before, and be there again.
    before = [row for row in rows if float(row["t"]) < run["losses"][0]["at_s"]]
    assert sum(row["central"] == "1" for row in before) > 0.95 * len(before)
    assert run["taken_up_after_s"] is not None
    assert run["on_target_at_end"]
    assert rows[-1]["central"] == "1"
    assert json.loads((tmp_path / "follow.json").read_text()) == summary
