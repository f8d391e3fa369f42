"""The closed loop: rendered images to the real tracker node, its status to the real follow-me node, and back.

Time is the simulation's own, on /clock, so its pace is free.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import rclpy
from geometry_msgs.msg import TwistStamped
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from ros2_tracker.msg import TrackEvent, TrackStatus
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D

from ros2_tracker.ros import boxes, processes, qos
from ros2_tracker.ros.environment import isolate, use_large_image_profile
from ros2_tracker.ros.image_view import image_message
from ros2_tracker.ros.messages import stamp_ns, time_message
from ros2_tracker.tracking.result import TrackState

from ..control import STOP, Command, FollowSettings
from .render import Renderer
from .score import Answer, Run, Step
from .world import DISTANCE_M, LAW, Pinhole, Scenario, Vehicle, see

TARGET_ID = "person"
RATE_HZ = 30.0
_PERIOD_S = 1.0 / RATE_HZ
# Of the vehicle between two images.
_SUBSTEPS = 6
# /clock begins here: a stamp of zero would mean the newest image.
_BEGIN_S = 100.0
_READY_TIMEOUT_S = 60.0
_INIT_TIMEOUT_S = 20.0
# Of one image, in lock-step; so many in a row are too many.
_ANSWER_TIMEOUT_S = 2.0
_MOST_UNANSWERED = 60
_COMMAND_TIMEOUT_S = 0.05
_LONGEST_TIMEOUT_S = 5.0


class SimulationError(RuntimeError):
    """The simulation cannot go on; the text says why."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast simulated time goes."""

    of_wall_clock: float = 0.0
    """Seconds of simulated time for each second, at most; 0: in lock-step, the next image when the last is answered."""
    delay: float = 0.05
    """s of simulated time that a command takes to the motors; in lock-step, which knows no other delay."""

    def __post_init__(self) -> None:
        """Check; ValueError names the value."""
        if not (self.of_wall_clock == 0.0 or 0.01 <= self.of_wall_clock <= 10.0):
            raise ValueError(f"pace is {self.of_wall_clock!r}, must be 0 (lock-step) or within [0.01, 10]")
        if not 0.0 <= self.delay <= 1.0:
            raise ValueError(f"delay is {self.delay!r} s, must be within [0, 1]")

    @property
    def status_timeout(self) -> float:
        """For follow_me, whose watchdog goes by steady time: in lock-step a slow machine is no silent tracker."""
        default = FollowSettings().status_timeout
        return min(default / self.of_wall_clock, _LONGEST_TIMEOUT_S) if self.of_wall_clock else _LONGEST_TIMEOUT_S


class _Bench(Node):
    """Camera, operator and vehicle in one: publishes images, the box and the time, collects answers and commands."""

    def __init__(self, camera: Pinhole, context: rclpy.Context) -> None:
        super().__init__("follow_me_simulation", context=context)
        self.changed = threading.Condition()
        self.answers: dict[int, Answer] = {}
        """By stamp in ns, measured ones."""
        self.commands: list[tuple[float, float, Command]] = []
        """(simulated s, wall s, command) in the order of arrival."""
        self.sent: dict[int, float] = {}
        """Wall s by stamp in ns."""
        self.initialized, self.rejection = False, ""
        self.now_s = _BEGIN_S
        self._info = CameraInfo(width=camera.width, height=camera.height, distortion_model="plumb_bob")
        self._info.d = [0.0] * 5
        self._info.k = camera.matrix().ravel().tolist()
        self._clock = self.create_publisher(Clock, "/clock", 10)
        self._images = self.create_publisher(Image, "image", qos.image_qos("reliable"))
        self._infos = self.create_publisher(CameraInfo, "camera_info", qos.COMMAND)
        self._init = self.create_publisher(Detection2D, "tracker/init", qos.COMMAND)
        self.create_subscription(TrackEvent, "tracker/events", self._on_event, qos.EVENT)
        self.create_subscription(TrackStatus, "tracker/status", self._on_status, qos.STATUS)
        self.create_subscription(TwistStamped, "cmd_vel", self._on_command, qos.STATUS)

    def connected(self) -> bool:
        """Whether both nodes listen, and are heard."""
        heard = (self._images, self._init, self._infos)
        return (
            all(publisher.get_subscription_count() > 0 for publisher in heard)
            and self._infos.get_subscription_count() > 1
            and self.count_subscribers("tracker/status") > 1
            and self.count_publishers("cmd_vel") > 0
            and self.count_subscribers("/clock") > 1
        )

    def tick(self, now_s: float) -> None:
        """Set the time."""
        self.now_s = now_s
        self._clock.publish(Clock(clock=time_message(round(now_s * 1e9))))

    def show(self, pixels: object) -> Header:
        """Publish an image taken now; returns its header."""
        header = Header(stamp=time_message(round(self.now_s * 1e9)), frame_id="camera_optical_frame")
        self._info.header = header
        self._infos.publish(self._info)
        message = image_message(pixels, header)  # type: ignore[arg-type]
        self.sent[stamp_ns(header.stamp)] = time.monotonic()
        self._images.publish(message)
        return header

    def choose(self, box: tuple[float, float, float, float], header: Header) -> None:
        """Publish the box to follow."""
        self._init.publish(boxes.detection(box, TARGET_ID, 1.0, header))

    def wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Whether the condition held before the timeout."""
        with self.changed:
            return self.changed.wait_for(condition, timeout_s)

    def _on_event(self, msg: TrackEvent) -> None:
        with self.changed:
            if msg.type == TrackEvent.INITIALIZED:
                self.initialized = True
            elif msg.type == TrackEvent.REJECTED:
                self.rejection = msg.text
            self.changed.notify_all()

    def _on_status(self, msg: TrackStatus) -> None:
        if msg.predicted:
            return
        arrived_s = time.monotonic()
        stamp = stamp_ns(msg.header.stamp)
        state = TrackState(msg.state)
        cx, cy, w, h = (float(v) for v in msg.box)
        box = None if state is TrackState.LOST else (cx - w / 2, cy - h / 2, w, h)
        with self.changed:
            latency_s = arrived_s - self.sent.get(stamp, arrived_s)
            self.answers[stamp] = Answer(state, box, float(msg.reliability), arrived_s, self.now_s, latency_s)
            self.changed.notify_all()

    def _on_command(self, msg: TwistStamped) -> None:
        twist = msg.twist
        command = Command(twist.linear.x, twist.linear.z, twist.angular.z)
        with self.changed:
            self.commands.append((max(stamp_ns(msg.header.stamp) / 1e9, 0.0), time.monotonic(), command))
            self.changed.notify_all()


def simulate(
    scenario: Scenario,
    renderer: Renderer,
    camera: Pinhole,
    pace: Pace,
    tracker: tuple[str, ...] = (),
    progress: Callable[[float], None] = lambda _: None,
) -> Run:
    """One run of a scenario with both nodes started for it and ended after it.

    Args:
        scenario: the world.
        renderer: of the same scenario and camera.
        camera: of the vehicle.
        pace: of the simulated time.
        tracker: further parameters of the tracker node, name:=value.
        progress: called with the simulated time, s.

    Raises:
        SimulationError: a node did not come up, did not take the box, or ended.

    """
    environment = dict(os.environ)
    isolate(environment)
    use_large_image_profile(environment)
    os.environ.update(environment)
    with _running(environment, camera, pace, tracker) as (bench, check):
        _wait_until(bench.connected, check, _READY_TIMEOUT_S, "the nodes did not come up")
        vehicle = camera.start(scenario.target(0.0), DISTANCE_M)
        frame = _begin(bench, scenario, renderer, camera, vehicle, check)
        steps = _drive(bench, scenario, renderer, camera, vehicle, frame, pace, check, progress)
        bench.wait(lambda: len(bench.answers) >= len(bench.sent), _COMMAND_TIMEOUT_S)
        return Run(scenario, camera, steps, list(bench.commands))


def _drive(
    bench: _Bench,
    scenario: Scenario,
    renderer: Renderer,
    camera: Pinhole,
    vehicle: Vehicle,
    frame: int,
    pace: Pace,
    check: Callable[[], None],
    progress: Callable[[float], None],
) -> list[Step]:
    """All images of a run; `frame` and `bench.now_s` are those of the last image before it."""
    steps: list[Step] = []
    begin_s = bench.now_s + _PERIOD_S
    motors = _Motors(bench, pace)
    due = time.monotonic()
    for index in range(round(scenario.duration * RATE_HZ)):
        t = index * _PERIOD_S
        frame += 1
        pixels = renderer.render(vehicle, t, frame)
        bench.tick(begin_s + t)
        stamp = stamp_ns(bench.show(pixels).stamp)
        if not pace.of_wall_clock:
            _await_answer(bench, stamp, check)
        step = Step(
            t, frame, stamp, vehicle,
            see(scenario.target(t), vehicle, camera, scenario),
            see(scenario.look_alike(t), vehicle, camera, scenario),
        )  # fmt: skip
        steps.append(step)
        for part in range(_SUBSTEPS):
            if pace.of_wall_clock:
                due = max(due + _PERIOD_S / _SUBSTEPS / pace.of_wall_clock, time.monotonic() - 0.05)
                time.sleep(max(due - time.monotonic(), 0.0))
                bench.tick(begin_s + t + (part + 1) * _PERIOD_S / _SUBSTEPS)
            command = motors.at(begin_s + t + part * _PERIOD_S / _SUBSTEPS)
            vehicle = vehicle.after(
                command.forward, command.climb, command.yaw_rate, t, _PERIOD_S / _SUBSTEPS
            )
        if index % 30 == 0:
            check()
            progress(t)
    for step in steps:
        step.answer = bench.answers.get(step.stamp_ns)
    return steps


class _Motors:
    """Which command holds when: the newest that has come through."""

    def __init__(self, bench: _Bench, pace: Pace) -> None:
        self._bench, self._delay_s = bench, 0.0 if pace.of_wall_clock else pace.delay
        self._held, self._next = STOP, 0

    def at(self, now_s: float) -> Command:
        commands = self._bench.commands
        while self._next < len(commands) and commands[self._next][0] + self._delay_s <= now_s + 1e-6:
            self._held = commands[self._next][2]
            self._next += 1
        return self._held


def _await_answer(bench: _Bench, stamp: int, check: Callable[[], None]) -> None:
    """Lock-step: until the image was measured, and a command has followed."""
    if not bench.wait(lambda: stamp in bench.answers, _ANSWER_TIMEOUT_S):
        # A machine that was suspended: the nodes must find each other again.
        _wait_until(bench.connected, check, _READY_TIMEOUT_S, "the nodes did not come back")
        if not bench.answers.keys() & set(list(bench.sent)[-_MOST_UNANSWERED:]):
            raise SimulationError(f"the tracker has not answered {_MOST_UNANSWERED} images in a row")
    bench.wait(lambda: bool(bench.commands) and bench.commands[-1][0] * 1e9 >= stamp - 1000, _COMMAND_TIMEOUT_S)


def _begin(
    bench: _Bench,
    scenario: Scenario,
    renderer: Renderer,
    camera: Pinhole,
    vehicle: Vehicle,
    check: Callable[[], None],
) -> int:
    """Show the first moment, with fresh noise, and the box until it is followed; the number of the last image."""
    seen = see(scenario.target(0.0), vehicle, camera, scenario)
    assert seen is not None  # the camera begins behind the target
    deadline = time.monotonic() + _INIT_TIMEOUT_S
    frame = 0
    while not bench.initialized:
        check()
        if time.monotonic() > deadline:
            raise SimulationError(f"the box was not accepted: {bench.rejection or 'no answer'}")
        bench.tick(_BEGIN_S + frame * _PERIOD_S)
        header = bench.show(renderer.render(vehicle, 0.0, frame))
        frame += 1
        # Time for both nodes to hear of /clock.
        if frame > 15 and frame % 15 == 0:
            bench.choose(seen.box, header)
        bench.wait(lambda: bench.initialized, 2.0 * _PERIOD_S)
    bench.sent.clear()
    return frame


@contextlib.contextmanager
def _running(
    environment: dict[str, str], camera: Pinhole, pace: Pace, tracker: tuple[str, ...]
) -> Iterator[tuple[_Bench, Callable[[], None]]]:
    """Both nodes and ours; with a function that raises SimulationError once a node has ended."""
    module = __package__.removesuffix(".simulation")
    root = Path(__file__).resolve().parents[module.count(".") + 2]
    environment["PYTHONPATH"] = os.pathsep.join([str(root), environment.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    law = {**LAW, "camera_pitch": camera.pitch, "status_timeout": pace.status_timeout}
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(tempfile.NamedTemporaryFile("w+", suffix=".log", prefix="follow_me_"))
        started = [
            processes.start(
                name,
                ["--ros-args", "-p", "use_sim_time:=true", *(word for each in given for word in ("-p", each))],
                environment,
                log,
            )
            for name, given in (
                ("ros2_tracker.node", tracker),
                (module, tuple(f"{key}:={value}" for key, value in law.items())),
            )
        ]
        for process in started:
            stack.callback(processes.stop, process)

        def check() -> None:
            if any(process.poll() is not None for process in started):
                raise SimulationError(f"a node has ended:\n{_tail(log)}")

        context = rclpy.Context()
        rclpy.init(context=context)
        stack.callback(context.try_shutdown)
        bench = _Bench(camera, context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(bench)
        spinner = threading.Thread(target=_spin, args=(executor,), daemon=True)
        spinner.start()
        try:
            yield bench, check
        except SimulationError as error:
            raise SimulationError(f"{error}\n--- what the nodes printed ---\n{_tail(log)}") from None
        finally:
            executor.shutdown()
            spinner.join(2.0)
            bench.destroy_node()


def _spin(executor: SingleThreadedExecutor) -> None:
    with contextlib.suppress(ExternalShutdownException):
        executor.spin()


def _tail(log: IO[str]) -> str:
    return Path(log.name).read_text(errors="replace")[-4000:]


def _wait_until(condition: Callable[[], bool], check: Callable[[], None], timeout_s: float, failure: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        check()
        if time.monotonic() > deadline:
            raise SimulationError(f"{failure} within {timeout_s:g} s")
        time.sleep(0.05)
