"""What the node publishes of its targets: the session's observer."""

from __future__ import annotations

from geometry_msgs.msg import Vector3, Vector3Stamped
from rclpy.lifecycle.node import LifecycleNodeMixin
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray

from ros2_tracker.msg import TrackEvent, TrackStatus
from ros2_tracker.ros import messages, qos
from ros2_tracker.ros.calibration import Calibration
from ros2_tracker.ros.debug_image import DebugImagePublisher
from ros2_tracker.ros.diagnostics import Reporter
from ros2_tracker.ros.parameters import NodeSettings
from ros2_tracker.tracking.events import EventType, FramePrediction, FrameReport, TargetEvent
from ros2_tracker.tracking.result import TrackState

_LOG_PERIOD_S = 5.0


class Output:
    """Publishers of tracks, status, bearing, events and the debug image.

    A SessionObserver: called on the worker thread, `on_prediction` on the executor's.
    """

    def __init__(
        self, node: LifecycleNodeMixin, settings: NodeSettings, calibration: Calibration, reporter: Reporter
    ) -> None:
        """Create the topics of a node; `open` before a session begins."""
        self.settings = settings
        """May be replaced by newer ones at any time."""
        self.calibrated = False
        """Whether the network's reliability is."""
        self._node = node
        self._calibration = calibration
        self._reporter = reporter
        self._debug: DebugImagePublisher | None = None
        self._tracks = node.create_lifecycle_publisher(Detection2DArray, "~/tracks", qos.RESULT)
        self._status = node.create_lifecycle_publisher(TrackStatus, "~/status", qos.STATUS)
        self._bearings = node.create_lifecycle_publisher(Vector3Stamped, "~/bearing", qos.RESULT)
        self._debug_images = node.create_lifecycle_publisher(Image, "~/debug_image", qos.DEBUG_IMAGE)
        self._events = node.create_publisher(TrackEvent, "~/events", qos.EVENT)

    @property
    def drawn(self) -> int:
        """Debug images of this session so far."""
        return self._debug.drawn if self._debug is not None else 0

    def apply_settings(self, settings: NodeSettings) -> None:
        """Use other parameters from now on."""
        self.settings = settings
        if self._debug is not None:
            self._debug.max_rate = settings["debug.max_rate"]

    def open(self, calibrated: bool) -> None:
        """A session begins; `calibrated`: whether its network's reliability is."""
        self.calibrated = calibrated
        self._debug = DebugImagePublisher(self._debug_images, self.settings["debug.max_rate"], self.on_failure)

    def shut(self) -> None:
        """The session has ended; returns when the drawing thread has."""
        if self._debug is not None:
            self._debug.stop()
            self._debug = None

    def close(self) -> None:
        """Give up all topics."""
        for publisher in (self._tracks, self._status, self._bearings, self._debug_images, self._events):
            self._node.destroy_publisher(publisher)

    # -- SessionObserver ----------------------------------------------------------------------------------------

    def on_report(self, report: FrameReport) -> None:
        """Publish tracks first, then everything else."""
        header: Header = report.source.tag
        self._tracks.publish(messages.tracks_message(report, header))
        if not report.targets:
            self._offer_debug(report)
            return
        now_ns = self._node.get_clock().now().nanoseconds
        self._reporter.latencies["image_age"].add((now_ns - report.source.stamp_ns) / 1e9)
        self._reporter.latencies["processing"].add(report.processing_s)
        self._reporter.latencies["network"].add(sum(target.result.network_s for target in report.targets))
        pointed = False
        for target in report.targets:
            bearing = self._bearing_of(report, target.result.box)
            if bearing is not None and not pointed:
                pointed = True
                self._bearings.publish(
                    Vector3Stamped(header=header, vector=Vector3(x=bearing[0], y=bearing[1], z=bearing[2]))
                )
            self._status.publish(
                messages.status_message(
                    report,
                    target,
                    header,
                    now_ns,
                    bearing,
                    self.settings.session.target.motion,
                    self.calibrated,
                )
            )
        self._offer_debug(report)

    def on_prediction(self, prediction: FramePrediction) -> None:
        """Publish one status a target, and tracks where they are asked for; measured answers may follow."""
        header: Header = prediction.source.tag
        if self.settings["prediction.in_tracks"]:
            self._tracks.publish(messages.predicted_tracks_message(prediction, header))
        now_ns = self._node.get_clock().now().nanoseconds
        for target in prediction.targets:
            box = None if target.state is TrackState.LOST else target.estimate.box.as_tuple()
            self._status.publish(
                messages.predicted_status_message(
                    prediction,
                    target,
                    header,
                    now_ns,
                    self._bearing_of(prediction, box),
                    self.settings.session.target.motion,
                    self.calibrated,
                )
            )

    def on_event(self, event: TargetEvent) -> None:
        """Publish and log."""
        header = event.tag if isinstance(event.tag, Header) else Header(stamp=messages.time_message(event.stamp_ns))
        self._events.publish(messages.event_message(event, header))
        text = f"{event.type.name} {event.target_id!r}"
        if event.type is EventType.REJECTED:
            self._node.get_logger().warning(f"{text}: {event.reason.name}: {event.text}", throttle_duration_sec=1.0)
        else:
            self._node.get_logger().info(f"{text} (session {event.session}) {event.text}".rstrip())

    def on_failure(self, what: str, error: Exception) -> None:
        """Log, at most once in a while."""
        self._node.get_logger().error(f"{what}: {error!s:.500}", throttle_duration_sec=_LOG_PERIOD_S)

    def _offer_debug(self, report: FrameReport) -> None:
        if self._debug is not None:
            self._debug.offer(report)

    def _bearing_of(
        self, report: FrameReport | FramePrediction, box: tuple[float, float, float, float] | None
    ) -> tuple[float, float, float] | None:
        model = self._calibration.model
        if model is None or box is None:
            return None
        x, y, w, h = box
        frame = report.source.frame
        return model.bearing(x + w / 2, y + h / 2, frame.width, frame.height)
