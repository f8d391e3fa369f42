"""A node that is still loading its network answers everything else."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not there")
pytest.importorskip("vision_msgs.msg", reason="vision_msgs is not there")
pytest.importorskip("ros2_tracker.msg", reason="the messages of ros2_tracker are not built")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from node_process import WAIT_S, free_domain
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from ros2_tracker.msg import TrackEvent
from std_srvs.srv import Trigger
from vision_msgs.msg import Detection2D

from ros2_tracker.engines.base import EngineError
from ros2_tracker.node import TrackerNode
from ros2_tracker.ros import qos
from ros2_tracker.tracking.network import TrackingNetwork


class SlowNode(TrackerNode):
    """The node with a network that takes until the test lets it: as the building of an engine takes minutes."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.cancelled = False
        self.fails = False
        super().__init__()

    def _loaded_network(self, cancelled: threading.Event) -> TrackingNetwork:
        self._loading.report("building the engine", 0.25)
        while not self.go_on.wait(0.02):
            if cancelled.is_set():
                self.cancelled = True
                raise EngineError("cancelled")
        if self.fails:
            raise EngineError("the engine is not to be had")
        return super()._loaded_network(cancelled)


class Bench:
    """The slow node on an executor of its own, and a client."""

    def __init__(self) -> None:
        self.node = SlowNode()
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self._spin, daemon=True)
        self.thread.start()
        self.client = rclpy.create_node("client")
        self.events: list[TrackEvent] = []
        self.messages: list[str] = []
        self.client.create_subscription(TrackEvent, "/tracker/events", self.events.append, qos.EVENT)
        self.client.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _spin(self) -> None:
        try:
            self.executor.spin()
        except Exception:  # as in node.main: after a shutdown anything may fail
            if rclpy.ok():
                raise

    def close(self) -> None:
        """Leave the domain: who comes next would ask this node's services, and get no answer."""
        self.node.close()
        self.executor.shutdown()
        self.node.destroy_node()
        self.client.destroy_node()

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        self.messages += [s.message for s in array.status if s.name.endswith("engine")]
        self.levels = {s.name: s.level for s in array.status}

    def call(self, kind: type, name: str, request: object, wait: bool = True):
        """Call a service of the node; its response, or the future."""
        service = self.client.create_client(kind, f"/tracker/{name}")
        assert service.wait_for_service(WAIT_S)
        future = service.call_async(request)
        if not wait:
            return future
        self.until(future.done)
        return future.result()

    def until(self, condition) -> None:
        """Spin the client until something holds."""
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, self.messages
            rclpy.spin_once(self.client, timeout_sec=0.05)

    def configure(self):
        """Begin to configure; the future of the response."""
        request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))
        future = self.call(ChangeState, "change_state", request, wait=False)
        self.until(lambda: any("building the engine 25%" in m for m in self.messages))
        return future

    def set_parameter(self, name: str, value: ParameterValue):
        """Set one; the result."""
        request = SetParameters.Request(parameters=[Parameter(name=name, value=value)])
        return self.call(SetParameters, "set_parameters", request).results[0]


@pytest.fixture
def bench() -> Iterator[Bench]:
    with free_domain() as domain:
        rclpy.init(args=["--ros-args", "-p", "autostart:=false"], domain_id=domain)
        bench = Bench()
        yield bench
        bench.node.go_on.set()
        rclpy.try_shutdown()
        bench.thread.join(WAIT_S)
        bench.close()
        assert not bench.thread.is_alive()


def test_parameters_cancel_and_boxes_are_answered_meanwhile(bench: Bench):
    configured = bench.configure()
    assert bench.levels["tracker: engine"] == DiagnosticStatus.WARN
    double = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=0.3)
    assert bench.set_parameter("max_image_age", double).successful
    text = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value="stark-s50")
    refused = bench.set_parameter("model", text)
    assert not refused.successful
    assert "model is read by configure" in refused.reason
    assert bench.call(Trigger, "cancel", Trigger.Request()).message == "there was no target"
    boxes = bench.client.create_publisher(Detection2D, "/tracker/init", qos.COMMAND)
    bench.until(lambda: boxes.get_subscription_count() == 1)
    boxes.publish(Detection2D(id="early"))
    bench.until(lambda: bench.events)
    assert bench.events[0].type == TrackEvent.REJECTED
    assert "not active" in bench.events[0].text
    assert not configured.done()

    bench.node.go_on.set()
    bench.until(configured.done)
    assert configured.result().success
    assert bench.call(GetState, "get_state", GetState.Request()).current_state.id == State.PRIMARY_STATE_INACTIVE
    bench.until(lambda: bench.messages[-1] == "ready")


def test_failure_is_told_and_can_be_tried_again(bench: Bench):
    bench.node.fails = True
    configured = bench.configure()
    bench.node.go_on.set()
    bench.until(configured.done)
    assert not configured.result().success
    bench.until(lambda: bench.messages[-1] == "the engine is not to be had")
    bench.node.fails = False
    request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))
    assert bench.call(ChangeState, "change_state", request).success


def test_shutdown_ends_the_loading(bench: Bench):
    bench.configure()
    rclpy.try_shutdown()
    bench.thread.join(WAIT_S)
    assert bench.node.cancelled


def test_loading_before_there_is_an_executor(bench: Bench):
    """As with autostart; the diagnostics come from inside the transition."""
    bench.executor.remove_node(bench.node)
    answers: list[TransitionCallbackReturn] = []
    thread = threading.Thread(target=lambda: answers.append(bench.node.trigger_configure()))
    thread.start()
    bench.until(lambda: any("building the engine 25%" in m for m in bench.messages))
    bench.node.go_on.set()
    thread.join(WAIT_S)
    assert answers == [TransitionCallbackReturn.SUCCESS]
