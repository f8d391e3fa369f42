"""The ROS 2 node: a lifecycle node that follows targets in a camera's images.

Two threads matter. The executor's (single-threaded) takes messages, looks at an image's header and puts it into the
session; the worker runs the network on the newest image and publishes. A third draws ~/debug_image while somebody
looks, a fourth makes boxes of clicked points. docs/data_path.md follows one image through them.
"""

from __future__ import annotations

import functools
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.lifecycle.node import LifecycleNodeMixin
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.service import Service
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header, String
from std_srvs.srv import Trigger

from ros2_tracker.engines.base import EngineError
from ros2_tracker.engines.loading import Loading
from ros2_tracker.ros import diagnostics, messages, parameters, qos
from ros2_tracker.ros.background import run_serving
from ros2_tracker.ros.calibration import Calibration
from ros2_tracker.ros.image_view import ImageError, frame_from_compressed, frame_from_image
from ros2_tracker.ros.init_requests import InitRequests
from ros2_tracker.ros.init_sources import InitSources
from ros2_tracker.ros.memory import tune_malloc
from ros2_tracker.ros.output import Output
from ros2_tracker.ros.worker import Worker
from ros2_tracker.tracking.events import Counters
from ros2_tracker.tracking.frame import Frame
from ros2_tracker.tracking.frame_buffer import StampedFrame
from ros2_tracker.tracking.network import TrackingNetwork
from ros2_tracker.tracking.session import TrackingSession

try:
    from rclpy.event_handler import QoSRequestedIncompatibleQoSInfo, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import QoSRequestedIncompatibleQoSInfo, SubscriptionEventCallbacks

_DIAGNOSTICS_PERIOD_S = 1.0
_LOG_PERIOD_S = 5.0


_Transition = Callable[["TrackerNode", LifecycleState], TransitionCallbackReturn]


def _reported(transition: _Transition) -> _Transition:
    """Log what a transition raises: rclpy takes it for ERROR without a word."""

    @functools.wraps(transition)
    def wrapper(node: TrackerNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except Exception as error:
            node.get_logger().error(f"{transition.__name__} failed: {error!r}\n{traceback.format_exc()}")
            return TransitionCallbackReturn.ERROR

    return wrapper


class TrackerNode(LifecycleNode):
    """Follows targets in `image`; topics and parameters are listed in README.md."""

    def __init__(self) -> None:
        """Declare parameters; ValueError or ParameterException when one of them is not valid."""
        # As LifecycleNode does it, but transitions have a callback group of their own, which its constructor does not
        # pass on: all else is answered while `configure` loads the network.
        Node.__init__(self, "tracker")
        LifecycleNodeMixin.__init__(self, callback_group=MutuallyExclusiveCallbackGroup())
        self._settings = parameters.declare(self)
        for text in parameters.misspelt(self):
            self.get_logger().warning(f"{text}; it is ignored")
        if self._settings["tune_malloc"]:
            tune_malloc()
        self._counters = Counters()
        self._session: TrackingSession | None = None
        self._worker: Worker | None = None
        self._images: Subscription | None = None
        self._network: TrackingNetwork | None = None
        self._output: Output | None = None
        self._sources: InitSources | None = None
        self._requests: InitRequests | None = None
        self._inputs: list[Subscription] = []
        self._cancel_service: Service | None = None
        self._failure = ""
        self._loading: Loading | None = None
        self._calibration = Calibration(self, self._counters)
        self._last_image_s = 0.0
        self._active_since_s = 0.0
        self._reporter = diagnostics.Reporter(self.get_name(), self.get_fully_qualified_name())
        self.add_on_set_parameters_callback(self._on_parameters)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # Steady, so that a paused simulation still reports.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(_DIAGNOSTICS_PERIOD_S, self._publish_diagnostics, clock=steady)

    @property
    def autostart(self) -> bool:
        """Whether to configure and activate without waiting for a lifecycle manager."""
        return bool(self._settings["autostart"])

    # -- lifecycle ----------------------------------------------------------------------------------------------

    @_reported
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Create all topics but the image, load and warm up the network; answers everything else meanwhile."""
        self._failure = ""
        self._loading = Loading(self.get_logger(), self._settings["model"])
        try:
            self._create_topics()
            network = run_serving(self, self._loaded_network)
        except ExternalShutdownException:
            return TransitionCallbackReturn.FAILURE
        except (ValueError, OSError, EngineError) as error:
            self._failure = str(error)
            self.get_logger().error(f"cannot configure: {error}")
            self._release()
            return TransitionCallbackReturn.FAILURE
        finally:
            took_s, self._loading = self._loading.elapsed_s, None
        self._network = network
        what = f"model {network.variant.name} on {network.engine.description}"
        self.get_logger().info(f"{what}, ready after {took_s:.2f} s; {network.reason}")
        return super().on_configure(state)

    def _create_topics(self) -> None:
        self._output = Output(self, self._settings, self._calibration, self._reporter)
        self._requests = InitRequests(self._counters, self._output.on_event)
        self._inputs = [
            self.create_subscription(CameraInfo, "camera_info", self._calibration.take, qos.SENSOR),
            self.create_subscription(String, "~/cancel_target", self._on_cancel_target, qos.COMMAND),
        ]
        self._sources = InitSources(self, self._settings, self._requests, self._calibration, self._cancel_all)
        self._cancel_service = self.create_service(Trigger, "~/cancel", self._on_cancel)

    def _loaded_network(self, cancelled: threading.Event) -> TrackingNetwork:
        """On a thread of its own."""
        assert self._loading is not None  # as long as this thread runs
        return TrackingNetwork.load(
            self._settings["model"], self._settings.engine, self._loading.report, cancelled
        )

    @_reported
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin a session and subscribe to images."""
        assert self._network is not None  # configure has succeeded
        assert self._output is not None
        assert self._requests is not None
        result = super().on_activate(state)
        settings = self._settings
        topic, kind, callback = self.resolve_topic_name("image"), Image, self._on_image
        if settings["image_transport"] == "compressed":
            topic, kind, callback = f"{topic}/compressed", CompressedImage, self._on_compressed_image
        self._images = self.create_subscription(
            kind,
            topic,
            callback,
            qos.image_qos(settings["qos.image.reliability"]),
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=self._on_incompatible_qos),
        )
        self._active_since_s = time.monotonic()
        self._last_image_s = 0.0
        self._output.open(self._network.reliability.calibrated)
        self._session = TrackingSession(
            self._network, settings.session, self._output, lambda: self.get_clock().now().nanoseconds, self._counters
        )
        self._requests.session = self._session
        self._worker = Worker(self._session, self._output.on_failure)
        init_topic = self.resolve_topic_name("~/init")
        self.get_logger().info(f"active: images from {self._images.topic_name}, boxes from {init_topic}")
        return result

    @_reported
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Drop all targets and stop taking images."""
        self._end_session()
        return super().on_deactivate(state)

    @_reported
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give up the network and all topics."""
        self._release()
        return super().on_cleanup(state)

    @_reported
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As deactivate and cleanup."""
        self._end_session()
        self._release()
        return super().on_shutdown(state)

    @_reported
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured after a transition that raised."""
        self._end_session()
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """End the threads; for when the process ends without a lifecycle transition."""
        self._end_session(announce=False)
        if self._sources is not None:
            self._sources.maker.stop()

    def _end_session(self, announce: bool = True) -> None:
        if self._images is not None and announce:
            self.destroy_subscription(self._images)
        if self._session is not None and announce:
            self._cancel_all()
        if self._requests is not None:
            self._requests.session = None
        if self._sources is not None:
            self._sources.maker.forget()
        if self._worker is not None:
            self._worker.stop()
        if self._output is not None:
            self._output.shut()
        self._images = self._session = self._worker = None

    def _release(self) -> None:
        self._network = None
        if self._sources is not None:
            self._sources.close()
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        if self._output is not None:
            self._output.close()
        if self._cancel_service is not None:
            self.destroy_service(self._cancel_service)
        self._inputs = []
        self._sources = self._requests = self._output = self._cancel_service = None

    # -- input --------------------------------------------------------------------------------------------------

    def _on_image(self, msg: Image) -> None:
        try:
            frame = frame_from_image(msg)
        except ImageError as error:
            self._refuse_image(error)
            return
        self._push(frame, len(msg.data), msg.header)

    def _on_compressed_image(self, msg: CompressedImage) -> None:
        try:
            frame = frame_from_compressed(msg)
        except ImageError as error:
            self._refuse_image(error)
            return
        self._push(frame, len(msg.data), msg.header)

    def _push(self, frame: Frame, n_bytes: int, header: Header) -> None:
        if self._session is None or self._sources is None:
            return
        self._last_image_s = time.monotonic()
        stamp_ns = messages.stamp_ns(header.stamp)
        if stamp_ns == 0:
            # A driver that does not stamp: the arrival is the best there is.
            self._reporter.images_unstamped += 1
            stamp_ns = self.get_clock().now().nanoseconds
        self._reporter.latencies["transport"].add((self.get_clock().now().nanoseconds - stamp_ns) / 1e9)
        too_old, out_of_order = self._counters.images_too_old, self._counters.images_out_of_order
        stamped = StampedFrame(stamp_ns, frame, n_bytes, header)
        self._session.push(stamped)
        if self._counters.images_out_of_order > out_of_order:
            self.get_logger().warning(
                f"image with stamp {stamp_ns / 1e9:.6f} s is not newer than the one before: dropped",
                throttle_duration_sec=_LOG_PERIOD_S,
            )
        if self._counters.images_too_old > too_old:
            age_s = (self.get_clock().now().nanoseconds - stamp_ns) / 1e9
            self.get_logger().warning(
                f"image of {age_s:.3f} s is older than max_image_age ({self._settings['max_image_age']:g} s): dropped. "
                "A bag needs use_sim_time, a camera on another computer a synchronised clock",
                throttle_duration_sec=_LOG_PERIOD_S,
            )
        if (self._counters.images_too_old, self._counters.images_out_of_order) == (too_old, out_of_order):
            self._sources.maker.see(stamped)

    def _refuse_image(self, error: ImageError) -> None:
        if self._session is not None and self._output is not None:
            self._last_image_s = time.monotonic()
            self._session.count_broken()
            self._output.on_failure("image refused", error)

    def _on_cancel(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        dropped = self._cancel_all()
        response.success = True
        response.message = f"dropped: {', '.join(dropped)}" if dropped else "there was no target"
        return response

    def _cancel_all(self) -> list[str]:
        """Drop all targets, and whatever is about to become one; the ids of those that were followed."""
        if self._sources is not None:
            self._sources.maker.cancel()
        return self._session.cancel() if self._session is not None else []

    def _on_cancel_target(self, msg: String) -> None:
        if self._session is None or not msg.data or not self._session.cancel(msg.data):
            self._counters.cancels_unknown += 1
            self.get_logger().warning(
                f"cancel_target: no target has the id {msg.data[:80]!r}", throttle_duration_sec=_LOG_PERIOD_S
            )

    def _on_incompatible_qos(self, event: QoSRequestedIncompatibleQoSInfo) -> None:
        self.get_logger().error(
            f"a publisher of {self._images.topic_name} offers a QoS that does not match ours "
            f"({event.last_policy_kind!s}): set qos.image.reliability to best_effort"
        )

    def _on_parameters(self, changes: Sequence[Parameter]) -> SetParametersResult:
        configured = self._network is not None or self._loading is not None
        result, settings = parameters.judge_change(self._settings, changes, configured)
        if not result.successful:
            self.get_logger().warning(f"parameters not changed: {result.reason}")
            return result
        self._settings = settings
        if self._session is not None:
            self._session.apply_settings(settings.session)
        if self._output is not None:
            self._output.apply_settings(settings)
        if self._sources is not None:
            self._sources.settings = settings
        return result

    # -- diagnostics --------------------------------------------------------------------------------------------

    def _publish_diagnostics(self) -> None:
        images = self._input_health()
        if images is not None and images.silence:
            self.get_logger().warning(images.silence, throttle_duration_sec=_LOG_PERIOD_S)
        targets = self._session.target_ids if self._session is not None else []
        drawn = self._output.drawn if self._output is not None else 0
        array = DiagnosticArray()
        array.header.stamp = self.get_clock().now().to_msg()
        array.status = [
            self._reporter.input_status(self._counters, images),
            self._reporter.tracking_status(self._counters, targets, drawn),
            self._reporter.engine_status(self._engine_health()),
        ]
        self._diagnostics.publish(array)

    def _input_health(self) -> diagnostics.Input | None:
        if self._session is None or self._images is None:
            return None
        topic = self._images.topic_name
        return diagnostics.Input(
            topic=topic,
            publishers=self.count_publishers(topic),
            silent_s=time.monotonic() - max(self._last_image_s, self._active_since_s),
            timeout_s=self._settings["image_timeout"],
            buffered=self._session.buffered,
        )

    def _engine_health(self) -> diagnostics.Engine:
        if self._failure or self._network is None:
            return diagnostics.Engine(failure=self._failure, loading=self._loading.text if self._loading else "")
        network = self._network
        return diagnostics.Engine(network.variant.name, network.engine.description, network.reliability.calibrated)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; exit status 1 when a parameter is not valid."""
    try:
        rclpy.init(args=None if args is None else list(args))
    except RuntimeError as error:  # rcl cannot read a parameter file, or what follows --ros-args
        print(f"tracker_node: {error}", file=sys.stderr)
        return 1
    try:
        return _run()
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    except Exception:
        # A signal while the node is being made shuts ROS down under it, and whatever it makes next fails.
        if rclpy.ok():
            raise
        return 0
    finally:
        rclpy.try_shutdown()
        _ignore_sigint()  # rclpy has put back the handler that it found


def _run() -> int:
    try:
        node = TrackerNode()
    except (ValueError, ParameterException) as error:
        print(f"tracker_node: {error}", file=sys.stderr)
        return 1
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        if node.autostart and node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            node.trigger_activate()
        executor.spin()
    finally:
        _ignore_sigint()
        node.close()
        executor.shutdown()
        node.destroy_node()
    return 0


def _ignore_sigint() -> None:
    """Ctrl-C under `ros2 launch` comes twice, from the terminal and from launch; the first is being obeyed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
