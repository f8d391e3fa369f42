"""The node under test in a process of its own, and a ROS node of the test's own that talks to it over DDS."""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import rclpy
import scene
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PolygonStamped, Vector3Stamped
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from numpy.typing import NDArray
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from ros2_tracker.msg import TrackEvent, TrackStatus
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header, String
from std_srvs.srv import Trigger
from vision_msgs.msg import Detection2D, Detection2DArray

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 30.0
"""Upper bound of one wait: generous, because a loaded machine may stall; a wait ends as soon as it is fulfilled."""

_PATIENCE_S = 10.0
"""After which a service that has not answered is asked again."""
# As `python -m ros2_tracker.node`; SIGUSR1 makes it print where each of its threads is.
_NODE = """
import faulthandler, runpy, signal
faulthandler.register(signal.SIGUSR1)
runpy.run_module("ros2_tracker.node", run_name="__main__", alter_sys=True)
"""

_PRIMARY_STATES = (
    State.PRIMARY_STATE_UNCONFIGURED,
    State.PRIMARY_STATE_INACTIVE,
    State.PRIMARY_STATE_ACTIVE,
    State.PRIMARY_STATE_FINALIZED,
)
_KEEP = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1000, reliability=ReliabilityPolicy.RELIABLE)
_IMAGE = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.RELIABLE)


@contextmanager
def free_domain() -> Iterator[int]:
    """A ROS_DOMAIN_ID that no process of this machine uses, and no other test takes until this one ends."""
    # A node that an earlier test left in a reference cycle is still in its domain, with services that nobody serves.
    gc.collect()
    # Above 101, Fast DDS's ports collide with Linux's ephemeral ones.
    for offset in range(100):
        domain = 1 + (os.getpid() * 13 + offset) % 100
        with open(Path(tempfile.gettempdir()) / f"ros2_tracker_test_domain_{domain}.lock", "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            if _is_silent(domain):
                yield domain
                return
    raise RuntimeError("all ROS domains of this machine are in use")


def _is_silent(domain: int) -> bool:
    """Whether nobody listens where the domain's first participant does (DDSI-RTPS 2.5, section 9.6.2.3)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", 7400 + 250 * domain + 10))
        except OSError:
            return False
    return True


class NodeProcess:
    """`python -m ros2_tracker.node` with parameters, its output in a file."""

    def __init__(self, domain: int, log: Path, parameters: Mapping[str, object] | None = None) -> None:
        """Prepare; `start` starts it."""
        self._domain = domain
        self._log = log
        # Most scenes of the tests are still and without noise, as from a camera that is stuck.
        given = {"reliability.frozen_after": 0.0, **(parameters or {})}
        self._arguments = [f"{name}:={_yaml(value)}" for name, value in given.items()]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process; it needs a second or two until it answers."""
        environment = {**os.environ, "ROS_DOMAIN_ID": str(self._domain), "PYTHONUNBUFFERED": "1"}
        parameters = [word for argument in self._arguments for word in ("-p", argument)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _NODE, "--ros-args", *parameters],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A test run in the background of a shell ignores SIGINT, and children would inherit that.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    def stop(self, *signals: int) -> int:
        """End it as Ctrl-C does, or by these signals in short succession; its exit status."""
        assert self._process is not None
        for number in signals or (signal.SIGINT,):
            if self._process.poll() is None:
                self._process.send_signal(number)
                if signals:
                    time.sleep(0.02)
        try:
            return self._process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            text = f"the node did not end within {WAIT_S:g} s of a signal:\n{self.output[-4000:]}"
            raise AssertionError(text) from None

    def print_threads(self) -> None:
        """Have it print where each of its threads is."""
        if self.alive:
            self._process.send_signal(signal.SIGUSR1)
            time.sleep(0.2)

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def output(self) -> str:
        """What it printed so far."""
        return self._log.read_text(errors="replace")


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class _Arrivals:
    """How many messages have come, of all collectors together, and a way to wait for the next."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.count = 0

    def add(self) -> None:
        """One more."""
        with self._changed:
            self.count += 1
            self._changed.notify_all()

    def wait(self, seen: int, timeout_s: float) -> None:
        """Return when there are more than were `seen`, or after the timeout."""
        with self._changed:
            self._changed.wait_for(lambda: self.count != seen, timeout_s)


class Collector:
    """Messages of one topic in the order of their arrival."""

    def __init__(self, arrivals: _Arrivals, fits: Callable[[Any], bool] = lambda _: True) -> None:
        """Nothing yet; messages that do not fit are not kept."""
        self._arrivals = arrivals
        self._fits = fits
        self._messages: list[Any] = []
        self.subscription: Subscription | None = None

    def __call__(self, message: Any) -> None:
        """Take a message; the subscription's callback."""
        if self._fits(message):
            self._messages.append(message)
            self._arrivals.add()

    @property
    def mark(self) -> int:
        """Number of messages so far, for `since`."""
        return len(self._messages)

    def since(self, mark: int = 0) -> list[Any]:
        """The messages after a mark."""
        return self._messages[mark:]


class Client:
    """Publishes what the node takes, collects what it says."""

    events_qos = QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=1000,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )
    """Gets the events of the past as well."""

    def __init__(self, domain: int, process: NodeProcess, compressed: bool = False) -> None:
        """Create all publishers and subscriptions and spin them in the background; `close` ends it.

        Args:
            domain: the node's ROS_DOMAIN_ID.
            process: the node; what it printed is shown when a wait fails.
            compressed: publish images as `image/compressed`.

        """
        self.process = process
        self._context = Context()
        rclpy.init(args=[], context=self._context, domain_id=domain)
        self.node = rclpy.create_node("test_client", context=self._context)
        self._last_stamp_ns = 0
        self._arrivals = _Arrivals()
        if compressed:
            self.images = self.node.create_publisher(CompressedImage, "image/compressed", _IMAGE)
        else:
            self.images = self.node.create_publisher(Image, "image", _IMAGE)
        self.camera_info = self.node.create_publisher(CameraInfo, "camera_info", _KEEP)
        self.inits = self.node.create_publisher(Detection2D, "tracker/init", _KEEP)
        self.init_rois = self.node.create_publisher(RegionOfInterest, "tracker/init_roi", _KEEP)
        self.init_polygons = self.node.create_publisher(PolygonStamped, "tracker/init_polygon", _KEEP)
        self.cancel_targets = self.node.create_publisher(String, "tracker/cancel_target", _KEEP)
        self._cancel = self.node.create_client(Trigger, "tracker/cancel")
        self._get_state = self.node.create_client(GetState, "tracker/get_state")
        self._change_state = self.node.create_client(ChangeState, "tracker/change_state")
        self._set_parameters = self.node.create_client(SetParameters, "tracker/set_parameters")
        self.tracks = self.collect(Detection2DArray, "tracker/tracks")
        self.status = self.collect(TrackStatus, "tracker/status", fits=lambda m: not m.predicted)
        self.predicted = self.collect(TrackStatus, "tracker/status", fits=lambda m: m.predicted)
        self.events = self.collect(TrackEvent, "tracker/events", self.events_qos)
        self.bearings = self.collect(Vector3Stamped, "tracker/bearing")
        self.diagnostics = self.collect(DiagnosticArray, "/diagnostics")
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, name="test_client", daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            self._executor.spin()

    def close(self) -> None:
        """End the thread and leave the domain."""
        self._context.try_shutdown()
        self._thread.join(WAIT_S)
        self._executor.shutdown()
        self.node.destroy_node()

    def collect(
        self, kind: type, topic: str, qos: QoSProfile = _KEEP, fits: Callable[[Any], bool] = lambda _: True
    ) -> Collector:
        """Subscribe to a topic, for the messages that fit."""
        collector = Collector(self._arrivals, fits)
        collector.subscription = self.node.create_subscription(kind, topic, collector, qos)
        return collector

    def drop(self, collector: Collector) -> None:
        """Unsubscribe."""
        self.node.destroy_subscription(collector.subscription)

    # -- waiting ------------------------------------------------------------------------------------------------

    def wait(self, what: str, fulfilled: Callable[[], Any], timeout_s: float = WAIT_S) -> Any:
        """Wait until `fulfilled` returns something true, and return it; AssertionError saying `what` did not come."""
        deadline = time.monotonic() + timeout_s
        while True:
            seen = self._arrivals.count
            # Without the lock, because it may call a service, whose answer comes through the spinning thread.
            result = fulfilled()
            if result:
                return result
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
            # Short, for conditions that no message announces.
            self._arrivals.wait(seen, min(left_s, 0.1))
        raise AssertionError(f"waited {timeout_s:g} s in vain for {what}; {self._node_output()}")

    def wait_message(
        self,
        what: str,
        collector: Collector,
        fits: Callable[[Any], bool] = lambda _: True,
        mark: int = 0,
        timeout_s: float = WAIT_S,
    ) -> Any:
        """The first message after `mark` that fits."""
        return self.wait(what, lambda: next((m for m in collector.since(mark) if fits(m)), None), timeout_s)

    def event(self, kind: int, target_id: str | None = None, mark: int = 0) -> TrackEvent:
        """The first event of a kind, of a target if one is named, after `mark`."""
        return self.wait_message(
            f"event {kind} of {target_id!r}",
            self.events,
            lambda e: e.type == kind and target_id in (None, e.id),
            mark,
        )

    def diagnosis(self, name: str, fits: Callable[[DiagnosticStatus], bool] = lambda _: True) -> DiagnosticStatus:
        """The first diagnostics status of this name that fits, out of those that begin to be made from now on."""
        # The one under way may have been filled before what the caller has just done.
        now_ns = time.time_ns()

        def found() -> DiagnosticStatus | None:
            for array in self.diagnostics.since():
                if stamp_ns(array.header) >= now_ns:
                    for status in array.status:
                        if status.name == f"tracker: {name}" and fits(status):
                            return status
            return None

        return self.wait(f"diagnostics of {name}", found)

    def counters(self) -> dict[str, int]:
        """The node's counters, as they are now."""
        return numbers(self.diagnosis("input"))

    # -- services -----------------------------------------------------------------------------------------------

    def call(self, client: Any, request: Any) -> Any:
        """The answer of a service that may be asked again when none comes."""
        futures = []
        for _ in range(round(WAIT_S / _PATIENCE_S)):
            futures.append(client.call_async(request))
            if self._answered(client, futures[-1]):
                if futures[:-1]:
                    # Tells a request that never came from one that the node did not wake up for.
                    late = sum(future.done() for future in futures[:-1])
                    warnings.warn(f"{late} of {len(futures) - 1} unanswered requests were answered late", stacklevel=2)
                return futures[-1].result()
        raise AssertionError(f"no answer of {client.srv_name} in {WAIT_S:g} s; {self._node_output()}")

    def _answered(self, client: Any, future: Any) -> bool:
        """Whether an answer comes in time; where none does, a warning that shows the node's threads and who is there.

        A second node of that name in the domain, which an earlier test left behind, is asked in its place.
        """
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        if done.wait(_PATIENCE_S):
            return True
        self.process.print_threads()
        there = ", ".join(sorted(self.node.get_node_names()))
        text = f"no answer of {client.srv_name} in {_PATIENCE_S:g} s, nodes are {there}; {self._node_output()}"
        warnings.warn(text, stacklevel=4)
        return False

    def cancel(self) -> Trigger.Response:
        """Call ~/cancel."""
        return self.call(self._cancel, Trigger.Request())

    def state(self) -> int:
        """The lifecycle state."""
        return self.call(self._get_state, GetState.Request()).current_state.id

    def settle(self) -> None:
        """Wait until the node has taken the image that was published last, and all else that came before."""
        if not self.images.wait_for_all_acked(Duration(seconds=WAIT_S)):
            raise AssertionError(f"the node did not take an image in {WAIT_S:g} s; {self._node_output()}")
        # The node's executor takes messages before it answers services. Twice, because it may be looking for work at
        # the very moment the message arrives, and then see the first request only: measured, once in 2,000.
        self.state()
        self.state()

    def change_state(self, transition: int) -> bool:
        """Ask for a lifecycle transition; whether it succeeded."""
        before = self.state()
        request = ChangeState.Request(transition=Transition(id=transition))
        future = self._change_state.call_async(request)
        if self._answered(self._change_state, future):
            return future.result().success
        now = self.wait("the end of a transition", lambda: (state := self.state()) in _PRIMARY_STATES and state)
        if now != before:
            return True
        return self.call(self._change_state, request).success

    def set_parameter(self, name: str, value: float | str) -> None:
        """Change a parameter that can be changed live."""
        parameter = Parameter(name, value=value).to_parameter_msg()
        result = self.call(self._set_parameters, SetParameters.Request(parameters=[parameter])).results[0]
        assert result.successful, result.reason

    def wait_connected(self, active: bool = True) -> None:
        """Wait until the node answers; with `active`, also until it is and both sides know each other's topics."""
        self.wait("the node's services", lambda: self._check_alive() and self._get_state.service_is_ready())
        self.wait("the node's transitions", self._change_state.service_is_ready)
        if not active:
            return
        self.wait("the active state", lambda: self._check_alive() and self.state() == State.PRIMARY_STATE_ACTIVE)
        inputs = (self.images, self.camera_info, self.inits, self.init_rois, self.init_polygons, self.cancel_targets)
        for publisher in inputs:
            self.wait(f"a subscription to {publisher.topic}", lambda p=publisher: p.get_subscription_count() > 0)
        for collector in (self.tracks, self.status, self.predicted, self.events, self.bearings):
            topic = collector.subscription.topic_name
            self.wait(f"the node's publisher of {topic}", lambda t=topic: self.node.count_publishers(t) > 0)
        self.wait("the cancel service", self._cancel.service_is_ready)
        self.wait("the parameter service", self._set_parameters.service_is_ready)

    def _check_alive(self) -> bool:
        assert self.process.alive, f"the node has ended; {self._node_output()}"
        return True

    def _node_output(self) -> str:
        return f"the node printed:\n{self.process.output[-4000:]}"

    # -- images and boxes ---------------------------------------------------------------------------------------

    def new_stamp(self) -> int:
        """Now, in nanoseconds, and newer than all stamps given out before."""
        self._last_stamp_ns = max(time.time_ns(), self._last_stamp_ns + 1)
        return self._last_stamp_ns

    def publish(self, pixels: NDArray[Any], encoding: str = "bgr8", stamp: int | None = None) -> int:
        """Publish an image once; its stamp in nanoseconds, now unless given.

        Args:
            pixels: as `scene.encode` gives them; BGR when images are compressed.
            encoding: what they are.
            stamp: nanoseconds.

        """
        stamp = self.new_stamp() if stamp is None else stamp
        if self.images.msg_type is CompressedImage:
            self.images.publish(scene.compressed_message(pixels, stamp))
        else:
            self.images.publish(scene.image_message(pixels, encoding, stamp))
        return stamp

    def show(self, pixels: NDArray[Any], encoding: str = "bgr8") -> Detection2DArray:
        """Publish an image until the node answers it, each time with a new stamp; the answer."""
        return self._publish_until_answered(pixels, encoding, self.tracks, lambda _: True)

    def follow(self, pixels: NDArray[Any], target_id: str, encoding: str = "bgr8") -> TrackStatus:
        """Publish an image until the node has looked for a target in it; the target's status."""
        return self._publish_until_answered(pixels, encoding, self.status, lambda m: m.id == target_id)

    def _publish_until_answered(
        self, pixels: NDArray[Any], encoding: str, answers: Collector, fits: Callable[[Any], bool]
    ) -> Any:
        deadline = time.monotonic() + WAIT_S
        patience_s = 0.5
        while True:
            mark = answers.mark
            stamp = self.publish(pixels, encoding)

            def is_answer(message: Any, stamp: int = stamp) -> bool:
                return stamp_ns(message.header) == stamp and fits(message)

            try:
                return self.wait_message("an answer to an image", answers, is_answer, mark, patience_s)
            except AssertionError:
                # A best-effort image may get lost, above all before both sides know each other.
                if time.monotonic() > deadline:
                    raise
                patience_s *= 2

    def init(self, box: scene.XYWH, target_id: str = "", stamp: int = 0) -> None:
        """Publish a box on ~/init, drawn on the image with this stamp; 0: on the newest."""
        x, y, w, h = box
        msg = Detection2D(header=Header(stamp=scene.time_of(stamp), frame_id="operator"), id=target_id)
        msg.bbox.center.position.x, msg.bbox.center.position.y = x + w / 2, y + h / 2
        msg.bbox.size_x, msg.bbox.size_y = w, h
        self.inits.publish(msg)

    def start(self, pixels: NDArray[Any], box: scene.XYWH, target_id: str = "", encoding: str = "bgr8") -> TrackEvent:
        """Show an image and begin to follow the box in it; the INITIALIZED event."""
        stamp = stamp_ns(self.show(pixels, encoding).header)
        mark = self.events.mark
        self.init(box, target_id, stamp)
        return self.event(TrackEvent.INITIALIZED, target_id or None, mark)


def stamp_ns(header: Header) -> int:
    """A header's stamp in nanoseconds."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


def numbers(status: DiagnosticStatus) -> dict[str, int]:
    """The whole numbers among a diagnostics status's values."""
    return {v.key: int(v.value) for v in status.values if v.value.isdecimal()}


def box_of(detection: Detection2D) -> scene.XYWH:
    """(x, y, w, h) of a detection."""
    box = detection.bbox
    x, y = box.center.position.x - box.size_x / 2, box.center.position.y - box.size_y / 2
    return (x, y, box.size_x, box.size_y)
