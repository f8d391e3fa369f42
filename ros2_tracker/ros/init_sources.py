"""Boxes from where people point: what RViz, rqt_image_view, image_view2 and MAVLink's ground stations send.

Each source ends in the same request as ~/init. ~/init_roi and ~/init_polygon are always there; the others only with
their topic or service set as a parameter (docs/pick_a_target.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from geometry_msgs.msg import Point, PointStamped, PolygonStamped
from rclpy.exceptions import NameValidationException
from rclpy.node import Node
from sensor_msgs.msg import RegionOfInterest
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D

from ros2_tracker.ros import boxes, init_normalized, messages, qos
from ros2_tracker.ros.box_maker import BoxMaker, MakeBox
from ros2_tracker.ros.calibration import Calibration
from ros2_tracker.ros.click_proposal import propose
from ros2_tracker.ros.init_normalized import MavResult, TrackCommand, TrackMode, UnsupportedModeError
from ros2_tracker.ros.init_requests import NO_BOX, SELECTOR_ID, InitRequests
from ros2_tracker.ros.parameters import NodeSettings
from ros2_tracker.ros.projection import Refused, box_of_point
from ros2_tracker.ros.transforms import Transforms
from ros2_tracker.tracking.events import InitRequest, Reason
from ros2_tracker.tracking.frame_buffer import StampedFrame


class InitSources:
    """The subscriptions and services that boxes come from."""

    def __init__(
        self,
        node: Node,
        settings: NodeSettings,
        requests: InitRequests,
        calibration: Calibration,
        cancel: Callable[[], object],
    ) -> None:
        """Create what the parameters ask for.

        Args:
            node: lends its executor.
            settings: parameters.
            requests: where boxes go.
            calibration: the camera's.
            cancel: drops all targets, for MAVLink's STOP.

        Raises:
            ValueError: a topic's or service's name is not valid, or mavros_msgs is needed and not there.

        """
        self.settings = settings
        """May be replaced by newer ones at any time."""
        self.maker = BoxMaker(node, requests)
        """Wants to see every image that the session takes."""
        self._node = node
        self._requests = requests
        self._calibration = calibration
        self._cancel = cancel
        self._transforms = Transforms(node) if settings["init_point.topic"] else None
        self._service: Any = None
        self._subscriptions = [
            node.create_subscription(Detection2D, "~/init", self._on_init, qos.COMMAND),
            node.create_subscription(RegionOfInterest, "~/init_roi", self._on_roi, qos.COMMAND),
            node.create_subscription(PolygonStamped, "~/init_polygon", self._on_polygon, qos.COMMAND),
        ]
        try:
            self._subscribe("init_point.topic", PointStamped, self._on_point)
            self._subscribe("init_click.topic", Point, self._on_click)
            self._subscribe("init_normalized.topic", PolygonStamped, self._on_normalized)
            self._serve_mavlink("init_mavlink.service")
        except ValueError:
            self.close()
            raise

    def close(self) -> None:
        """Give up all topics and end the thread; returns when it has."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()
        if self._service is not None:
            self._node.destroy_service(self._service)
            self._service = None
        if self._transforms is not None:
            self._transforms.close()
        self.maker.stop()

    def _subscribe(self, parameter: str, kind: type, callback: Callable[[Any], None]) -> None:
        topic = self.settings[parameter]
        if not topic:
            return
        try:
            self._subscriptions.append(self._node.create_subscription(kind, topic, callback, qos.COMMAND))
        except NameValidationException as error:
            raise _misnamed(parameter, topic, error) from error

    def _serve_mavlink(self, parameter: str) -> None:
        name = self.settings[parameter]
        if not name:
            return
        try:
            from mavros_msgs.srv import GimbalManagerCameraTrack
        except ImportError as error:
            raise ValueError(
                f"{parameter} is {name!r}, but mavros_msgs is not there ({error}): install "
                "ros-$ROS_DISTRO-mavros-msgs, or use init_normalized.topic"
            ) from error
        try:
            self._service = self._node.create_service(GimbalManagerCameraTrack, name, self._on_camera_track)
        except NameValidationException as error:
            raise _misnamed(parameter, name, error) from error

    # -- boxes in pixels ----------------------------------------------------------------------------------------

    def _on_init(self, msg: Detection2D) -> None:
        stamped = boxes.from_detection(msg)
        self._requests.request(InitRequest(stamped.box, stamped.id, messages.stamp_ns(stamped.stamp), msg.header))

    def _on_roi(self, msg: RegionOfInterest) -> None:
        self._requests.request(InitRequest(boxes.from_roi(msg), SELECTOR_ID, 0, Header()))

    def _on_polygon(self, msg: PolygonStamped) -> None:
        request = _request(msg.header)
        try:
            box = boxes.from_polygon(msg)
        except ValueError as error:
            self._requests.refuse(request, Reason.BOX_INVALID, str(error))
            return
        self._requests.request(InitRequest(box, request.target_id, request.stamp_ns, request.tag))

    # -- what must be made a box first --------------------------------------------------------------------------

    def _on_point(self, msg: PointStamped) -> None:
        self._later(_request(msg.header), lambda source: self._projected(source, msg))

    def _on_click(self, msg: Point) -> None:
        self._later(_request(Header()), lambda source: self._proposed(source, msg.x, msg.y))

    def _on_normalized(self, msg: PolygonStamped) -> None:
        request = _request(msg.header)
        try:
            x, y, w, h = boxes.from_polygon(msg)
            share = init_normalized.from_corners(x, y, x + w, y + h)
        except ValueError as error:
            self._requests.refuse(request, Reason.BOX_INVALID, str(error))
            return
        self._later(request, lambda source: init_normalized.in_pixels(share, source.frame.width, source.frame.height))

    def _on_camera_track(self, msg: Any, response: Any) -> Any:
        result = self._camera_track(msg)
        response.success, response.result = result is MavResult.ACCEPTED, int(result)
        return response

    def _camera_track(self, msg: Any) -> MavResult:
        request = _request(Header())
        try:
            command = init_normalized.from_camera_track(msg)
        except ValueError as error:
            self._requests.refuse(request, Reason.BOX_INVALID, str(error))
            return MavResult.UNSUPPORTED if isinstance(error, UnsupportedModeError) else MavResult.DENIED
        if command.mode is TrackMode.STOP:
            self._cancel()
            return MavResult.ACCEPTED
        accepted = self._later(request, lambda source: self._commanded(source, command))
        return MavResult.ACCEPTED if accepted else MavResult.TEMPORARILY_REJECTED

    def _later(self, request: InitRequest, make_box: MakeBox) -> bool:
        return self.maker.later(request, make_box, self.settings["frame_buffer_duration"])

    # -- on the thread that makes boxes -------------------------------------------------------------------------

    def _projected(self, source: StampedFrame, msg: PointStamped) -> boxes.XYWH:
        """A box around a point in space."""
        model, transforms = self._calibration.model, self._transforms
        if model is None:
            raise Refused(Reason.BOX_INVALID, f"the point cannot be projected: {self._calibration.missing}")
        assert transforms is not None  # there is a topic for points
        named = source.tag.frame_id if isinstance(source.tag, Header) else ""
        point = transforms.to_frame(
            named or self._calibration.frame_id,
            msg.header.frame_id,
            (msg.point.x, msg.point.y, msg.point.z),
            source.stamp_ns,
        )
        frame = source.frame
        return box_of_point(model, point, self.settings["init_point.object_size"], frame.width, frame.height)

    def _proposed(self, source: StampedFrame, x: float, y: float) -> boxes.XYWH:
        """A box around a clicked pixel."""
        frame = source.frame
        if not (math.isfinite(x) and math.isfinite(y)):
            raise Refused(Reason.BOX_INVALID, f"the click ({x}, {y}) is not finite")
        # The last edge counts: rqt_image_view rounds.
        if not (0.0 <= x <= frame.width and 0.0 <= y <= frame.height):
            raise Refused(
                Reason.BOX_OUTSIDE_IMAGE,
                f"the click ({x:g}, {y:g}) is outside the image of {frame.width}x{frame.height} px",
            )
        settings = self.settings
        proposal = propose(frame, x, y, settings["init_click.default_size"], settings["init_click.time_budget"])
        how = "around the object found there" if proposal.found else "of the default size: no object found"
        box = ", ".join(f"{value:.0f}" for value in proposal.box)
        self._node.get_logger().info(f"click at ({x:g}, {y:g}): box ({box}) {how}")
        return proposal.box

    def _commanded(self, source: StampedFrame, command: TrackCommand) -> boxes.XYWH:
        """The box of a POINT or RECTANGLE."""
        width, height = source.frame.width, source.frame.height
        if command.mode is TrackMode.RECTANGLE:
            return init_normalized.in_pixels(command.box, width, height)
        x, y, radius = command.point[0] * width, command.point[1] * height, command.radius * width
        if radius == 0.0:
            return self._proposed(source, x, y)
        return (x - radius, y - radius, 2.0 * radius, 2.0 * radius)


def _request(header: Header) -> InitRequest:
    return InitRequest(NO_BOX, SELECTOR_ID, messages.stamp_ns(header.stamp), header)


def _misnamed(parameter: str, name: str, error: NameValidationException) -> ValueError:
    # The first line; the others draw an arrow to the place.
    return ValueError(f"{parameter} is {name!r}: {str(error).partition(chr(10))[0].rstrip(':')}")
