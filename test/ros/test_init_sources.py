"""Targets picked in RViz, rqt_image_view, image_view2 and MAVLink's ground stations, with the real node over DDS."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not there")
pytest.importorskip("vision_msgs.msg", reason="vision_msgs is not there")
pytest.importorskip("ros2_tracker.msg", reason="the messages of ros2_tracker are not built")

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import (
    Point,
    Point32,
    PointStamped,
    Polygon,
    PolygonStamped,
    Quaternion,
    Transform,
    TransformStamped,
    Vector3,
)
from lifecycle_msgs.msg import Transition
from node_process import Client, stamp_ns
from rclpy.publisher import Publisher
from ros2_tracker.msg import TrackEvent, TrackStatus
from scene import FRAME_ID, SIDE, XYWH, box_at, iou, render, time_of
from sensor_msgs.msg import CameraInfo, RegionOfInterest
from std_msgs.msg import Header

from ros2_tracker.ros.qos import COMMAND, EVENT

HAS_TF2 = importlib.util.find_spec("tf2_ros") is not None
HAS_MAVROS = importlib.util.find_spec("mavros_msgs") is not None
PARAMETERS = {
    "init_point.topic": "/clicked_point",
    "init_point.object_size": 0.8,
    "init_click.topic": "/image_mouse_left",
    "init_click.default_size": 0.2,
    "init_click.time_budget": 10.0,
    "init_normalized.topic": "~/init_normalized",
    # The test machine's patience.
    "max_image_age": 30.0,
    "frame_buffer_duration": 30.0,
}
AT = (100, 90)
FOCAL = 300.0
SECOND_NS = 1_000_000_000
NAN, INF = math.nan, math.inf


def calibration(frame_id: str = FRAME_ID, focal: float = FOCAL) -> CameraInfo:
    k = [focal, 0.0, 159.5, 0.0, focal, 119.5, 0.0, 0.0, 1.0]
    return CameraInfo(
        header=Header(frame_id=frame_id), width=320, height=240, distortion_model="plumb_bob", d=[0.0] * 5, k=k
    )


def space(x: float, y: float, depth: float = 6.0) -> tuple[float, float, float]:
    """Where a pixel lies in the optical frame, metres."""
    return ((x - 160.0) / FOCAL * depth, (y - 120.0) / FOCAL * depth, depth)


ON_TARGET = space(AT[0] + SIDE / 2, AT[1] + SIDE / 2)
"""At 6 m, where 0.8 m look as large as the target."""


class Picker:
    """The node with all sources on, and everybody who points."""

    def __init__(self, client: Client) -> None:
        self.client = client
        node = client.node
        self.points = node.create_publisher(PointStamped, "/clicked_point", COMMAND)
        self.clicks = node.create_publisher(Point, "/image_mouse_left", COMMAND)
        self.normalized = node.create_publisher(PolygonStamped, "tracker/init_normalized", COMMAND)
        for publisher in (self.points, self.clicks, self.normalized):
            client.wait(f"a subscription to {publisher.topic}", lambda p=publisher: p.get_subscription_count() > 0)

    def calibrate(self) -> None:
        """Send camera_info, best effort as cameras do, until the node knows it: a target has a bearing then."""
        client = self.client
        client.start(render(AT), box_at(*AT), "calibration")

        def known() -> bool:
            client.camera_info.publish(calibration())
            return client.follow(render(AT), "calibration").bearing_valid

        client.wait("the calibration", known)
        client.cancel()

    def show(self, at: tuple[float, float] = AT) -> int:
        """An image of the target; its stamp."""
        return stamp_ns(self.client.show(render(at)).header)

    def point(self, point: tuple[float, float, float], frame_id: str = FRAME_ID, stamp: int = 0) -> None:
        x, y, z = point
        header = Header(frame_id=frame_id, stamp=time_of(stamp))
        self.points.publish(PointStamped(header=header, point=Point(x=x, y=y, z=z)))

    def polygon(self, publisher: Publisher, points: list[tuple[float, float]], stamp: int = 0) -> None:
        polygon = Polygon(points=[Point32(x=x, y=y) for x, y in points])
        publisher.publish(PolygonStamped(header=Header(stamp=time_of(stamp)), polygon=polygon))

    def started(self, mark: int) -> TrackEvent:
        return self.client.event(TrackEvent.INITIALIZED, "selected", mark)

    def rejected(self, mark: int) -> TrackEvent:
        return self.client.event(TrackEvent.REJECTED, "selected", mark)

    def followed(self, at: tuple[float, float] = AT) -> XYWH:
        """Where the target is in one more image."""
        status: TrackStatus = self.client.follow(render(at), "selected")
        x, y, w, h = (float(value) for value in status.box)
        return (x - w / 2, y - h / 2, w, h)


@pytest.fixture(scope="module")
def shared_picker(start_module_node: Any) -> Picker:
    picker = Picker(start_module_node(PARAMETERS))
    picker.calibrate()
    return picker


@pytest.fixture
def picker(shared_picker: Picker) -> Iterator[Picker]:
    """All sources, an image in the node's buffer, nothing followed."""
    shared_picker.client.cancel()
    shared_picker.show()
    yield shared_picker
    assert shared_picker.client.process.alive


# -- RViz's Publish Point -------------------------------------------------------------------------------------------


def test_point_starts_the_target_there_as_large_as_it_is(picker: Picker):
    newest, mark = picker.show(), picker.client.events.mark
    picker.point(ON_TARGET)
    assert stamp_ns(picker.started(mark).header) == newest
    assert iou(picker.followed(), box_at(*AT)) > 0.7


def test_point_clicked_after_the_newest_image_is_applied_to_it(picker: Picker):
    # RViz stamps with the moment of the click, in simulations by the wrong clock.
    newest, mark = picker.show(), picker.client.events.mark
    picker.point(ON_TARGET, stamp=newest + 3600 * SECOND_NS)
    event = picker.started(mark)
    assert stamp_ns(event.header) == newest
    assert event.text == ""


def test_point_with_an_older_stamp_is_applied_to_the_image_of_that_time(picker: Picker):
    then = picker.show()
    for step in range(1, 4):
        picker.show((AT[0] + 8 * step, AT[1]))
    mark = picker.client.events.mark
    picker.point(ON_TARGET, stamp=then + 1)
    assert stamp_ns(picker.started(mark).header) == then
    assert iou(picker.followed((AT[0] + 30, AT[1])), box_at(AT[0] + 30, AT[1])) > 0.6


@pytest.mark.parametrize(
    ("point", "frame_id", "age_s", "reason", "text"),
    [
        ((0.0, 0.0, -6.0), FRAME_ID, 0, TrackEvent.BOX_OUTSIDE_IMAGE, "the point is behind the camera: (0, 0, -6) m"),
        ((0.0, 0.0, 0.0), FRAME_ID, 0, TrackEvent.BOX_OUTSIDE_IMAGE, "the point is behind the camera"),
        ((20.0, 0.0, 6.0), FRAME_ID, 0, TrackEvent.BOX_OUTSIDE_IMAGE, "the point is outside the image: at (1160.0, "),
        ((1e300, 0.0, 6.0), FRAME_ID, 0, TrackEvent.BOX_OUTSIDE_IMAGE, "the point is outside the image"),
        ((0.0, 0.0, 1e9), FRAME_ID, 0, TrackEvent.BOX_OUTSIDE_IMAGE, "2x2 px"),
        ((0.0, 0.0, 1e-300), FRAME_ID, 0, TrackEvent.BOX_INVALID, ""),
        ((NAN, 0.0, 6.0), FRAME_ID, 0, TrackEvent.BOX_INVALID, "the point (nan, 0, 6) is not finite"),
        ((0.0, 0.0, INF), FRAME_ID, 0, TrackEvent.BOX_INVALID, "the point (0, 0, inf) is not finite"),
        (ON_TARGET, "", 0, TrackEvent.BOX_INVALID, "the point's header has no frame_id"),
        (ON_TARGET, "moon", 0, TrackEvent.BOX_INVALID, "moon"),
        (ON_TARGET, "m" * 100_000, 0, TrackEvent.BOX_INVALID, "mmm"),
        (ON_TARGET, FRAME_ID, 3600, TrackEvent.STAMP_TOO_OLD, "s older than the newest image, but images are kept for"),
    ],
)
def test_point_that_is_no_target_is_rejected_with_the_reason(
    picker: Picker, point: tuple[float, float, float], frame_id: str, age_s: int, reason: int, text: str
):
    newest, mark = picker.show(), picker.client.events.mark
    picker.point(point, frame_id, newest - age_s * SECOND_NS)
    event = picker.rejected(mark)
    assert event.reason == reason
    assert text in event.text
    assert len(event.text) < 500


def test_rejections_are_counted_in_diagnostics(picker: Picker):
    before = picker.client.counters()["inits_rejected"]
    sends = (
        lambda: picker.point((0.0, 0.0, -1.0)),
        lambda: picker.clicks.publish(Point(x=-1.0)),
        lambda: picker.polygon(picker.normalized, []),
        lambda: picker.polygon(picker.client.init_polygons, []),
        lambda: picker.client.init_rois.publish(RegionOfInterest()),
    )
    for send in sends:
        mark = picker.client.events.mark
        send()
        picker.rejected(mark)
    assert picker.client.counters()["inits_rejected"] == before + len(sends)


@pytest.mark.skipif(HAS_TF2, reason="tf2_ros is there")
def test_without_tf2_a_point_of_another_frame_is_rejected_with_the_cure(picker: Picker):
    mark = picker.client.events.mark
    picker.point(ON_TARGET, "map")
    text = picker.rejected(mark).text
    assert "in frame 'map'" in text
    assert "without tf2_ros" in text
    assert f"the image's optical frame, '{FRAME_ID}'" in text


@pytest.mark.skipif(not HAS_TF2, reason="tf2_ros is not there")
def test_point_of_another_frame_goes_through_tf2(picker: Picker):
    from tf2_msgs.msg import TFMessage

    # The camera looks along the map's x, 2 m above it: z forward is x, x right is -y, y down is -z.
    transform = Transform(translation=Vector3(z=2.0), rotation=Quaternion(x=-0.5, y=0.5, z=-0.5, w=0.5))
    publisher = picker.client.node.create_publisher(TFMessage, "/tf_static", EVENT)
    fixed = TransformStamped(header=Header(frame_id="map"), child_frame_id=FRAME_ID, transform=transform)
    publisher.publish(TFMessage(transforms=[fixed]))
    x, y, z = ON_TARGET
    mark = picker.client.events.mark
    picker.point((z, -x, 2.0 - y), "map")
    picker.started(mark)
    assert iou(picker.followed(), box_at(*AT)) > 0.7
    mark = picker.client.events.mark
    picker.point((-5.0, 0.0, 2.0), "map")
    assert "behind the camera" in picker.rejected(mark).text


def test_point_before_camera_info_is_rejected_and_taken_after_it(start_node: Any):
    picker = Picker(start_node(PARAMETERS))
    mark = picker.client.events.mark
    picker.point(ON_TARGET)
    event = picker.rejected(mark)
    assert (event.reason, event.text) == (TrackEvent.IMAGE_INVALID, "no image has come yet")

    picker.show()
    mark = picker.client.events.mark
    picker.point(ON_TARGET)
    event = picker.rejected(mark)
    assert (event.reason, event.text) == (
        TrackEvent.BOX_INVALID,
        "the point cannot be projected: no camera_info has come yet",
    )

    picker.client.camera_info.publish(calibration(focal=0.0))
    picker.client.diagnosis("input", lambda d: {v.key: v.value for v in d.values}["camera_infos_unusable"] != "0")
    mark = picker.client.events.mark
    picker.point(ON_TARGET)
    assert "cannot be projected: the camera is not calibrated" in picker.rejected(mark).text

    picker.calibrate()
    picker.show()
    mark = picker.client.events.mark
    picker.point(ON_TARGET)
    picker.started(mark)


# -- rqt_image_view's click -----------------------------------------------------------------------------------------


def test_click_starts_the_object_under_it(picker: Picker):
    newest, mark = picker.show(), picker.client.events.mark
    picker.clicks.publish(Point(x=AT[0] + SIDE / 2, y=AT[1] + SIDE / 2))
    assert stamp_ns(picker.started(mark).header) == newest
    assert iou(picker.followed(), box_at(*AT)) > 0.6


@pytest.mark.parametrize(
    ("x", "y", "reason", "text"),
    [
        (NAN, 100.0, TrackEvent.BOX_INVALID, "the click (nan, 100.0) is not finite"),
        (100.0, -INF, TrackEvent.BOX_INVALID, "is not finite"),
        (-1.0, 100.0, TrackEvent.BOX_OUTSIDE_IMAGE, "the click (-1, 100) is outside the image of 320x240 px"),
        (321.0, 100.0, TrackEvent.BOX_OUTSIDE_IMAGE, "the click (321, 100) is outside the image"),
        (1e300, 1e300, TrackEvent.BOX_OUTSIDE_IMAGE, "is outside the image"),
    ],
)
def test_click_on_nothing_is_rejected(picker: Picker, x: float, y: float, reason: int, text: str):
    mark = picker.client.events.mark
    picker.clicks.publish(Point(x=x, y=y))
    event = picker.rejected(mark)
    assert event.reason == reason
    assert text in event.text


def test_clicks_in_a_burst_are_answered_each(picker: Picker):
    client, mark = picker.client, picker.client.events.mark
    # As many as the subscription's queue holds.
    for _ in range(COMMAND.depth):
        picker.clicks.publish(Point(x=AT[0] + SIDE / 2, y=AT[1] + SIDE / 2))
    answers = (TrackEvent.INITIALIZED, TrackEvent.REJECTED)
    client.wait("an answer to each", lambda: sum(e.type in answers for e in client.events.since(mark)) >= COMMAND.depth)
    rejected = [e.text for e in client.events.since(mark) if e.type == TrackEvent.REJECTED]
    assert all("wait already" in text for text in rejected)
    assert client.follow(render(AT), "selected")


def test_cancel_drops_clicks_that_are_no_boxes_yet(picker: Picker):
    client, mark = picker.client, picker.client.events.mark
    for _ in range(4):
        picker.clicks.publish(Point(x=AT[0] + SIDE / 2, y=AT[1] + SIDE / 2))
    # Its answer comes after the clicks have been taken.
    client.settle()
    client.cancel()
    ended = (TrackEvent.INITIALIZED, TrackEvent.CANCELLED, TrackEvent.REJECTED)
    client.wait("an answer to each click", lambda: sum(e.type in ended for e in client.events.since(mark)) >= 4)
    assert client.show(render(AT)).detections == []


# -- rectangles -----------------------------------------------------------------------------------------------------

X0, Y0, X1, Y1 = AT[0], AT[1], AT[0] + SIDE, AT[1] + SIDE


@pytest.mark.parametrize(
    "corners",
    [
        [(X0, Y0), (X1, Y1)],
        [(X1, Y1), (X0, Y0)],
        [(X1, Y0), (X0, Y1)],
        [(X0, Y0), (X1, Y0), (X1, Y1), (X0, Y1)],
    ],
)
def test_polygon_of_two_or_four_corners_in_any_order_and_the_same_as_shares(
    picker: Picker, corners: list[tuple[float, float]]
):
    client = picker.client
    shares = [(x / 320, y / 240) for x, y in corners]
    for publisher, points in ((client.init_polygons, corners), (picker.normalized, shares)):
        drawn, mark = picker.show(), client.events.mark
        picker.show((AT[0] + 8, AT[1]))
        picker.polygon(publisher, [(float(x), float(y)) for x, y in points], drawn)
        assert stamp_ns(picker.started(mark).header) == drawn
        assert iou(picker.followed((AT[0] + 16, AT[1])), box_at(AT[0] + 16, AT[1])) > 0.6


@pytest.mark.parametrize(
    ("points", "text"),
    [
        ([], "a polygon of 0 points encloses nothing"),
        ([(0.5, 0.5)], "a polygon of 1 points encloses nothing"),
        ([(0.3, 0.3), (0.3, 0.3)], "is not to the right of and below"),
        ([(0.3, NAN), (0.5, 0.5)], "is not within 0 to 1"),
        ([(100.0, 90.0), (140.0, 130.0)], "(100, 90) is not within 0 to 1: corners are shares of the image"),
        ([(-3e38, 0.0), (3e38, 1.0)], "is not within 0 to 1"),
    ],
)
def test_shares_that_are_no_rectangle_are_rejected(picker: Picker, points: list[tuple[float, float]], text: str):
    mark = picker.client.events.mark
    picker.polygon(picker.normalized, points)
    event = picker.rejected(mark)
    assert event.reason == TrackEvent.BOX_INVALID
    assert text in event.text


@pytest.mark.parametrize(
    ("roi", "reason"),
    [
        (RegionOfInterest(), TrackEvent.BOX_INVALID),
        (RegionOfInterest(x_offset=10, y_offset=10, width=0, height=40), TrackEvent.BOX_INVALID),
        (RegionOfInterest(x_offset=2**32 - 1, y_offset=10, width=40, height=40), TrackEvent.BOX_OUTSIDE_IMAGE),
        (RegionOfInterest(width=2**32 - 1, height=2**32 - 1), TrackEvent.BOX_INVALID),
    ],
)
def test_region_that_is_none_is_rejected(picker: Picker, roi: RegionOfInterest, reason: int):
    mark = picker.client.events.mark
    picker.client.init_rois.publish(roi)
    assert picker.rejected(mark).reason == reason


# -- switching them on ----------------------------------------------------------------------------------------------


def test_inactive_node_rejects_whatever_is_picked(start_node: Any):
    picker = Picker(start_node(PARAMETERS))
    picker.show()
    client = picker.client
    assert client.change_state(Transition.TRANSITION_DEACTIVATE)
    picker_sends = (
        lambda: picker.point(ON_TARGET),
        lambda: picker.clicks.publish(Point(x=10.0, y=10.0)),
        lambda: picker.polygon(picker.normalized, [(0.1, 0.1), (0.5, 0.5)]),
    )
    for send in picker_sends:
        mark = client.events.mark
        send()
        assert picker.rejected(mark).reason == TrackEvent.NOT_ACTIVE
    # An image of the session before is not this one's.
    assert client.change_state(Transition.TRANSITION_ACTIVATE)
    mark = client.events.mark
    picker.clicks.publish(Point(x=10.0, y=10.0))
    assert picker.rejected(mark).text == "no image has come yet"
    assert client.change_state(Transition.TRANSITION_DEACTIVATE)
    assert client.change_state(Transition.TRANSITION_CLEANUP)
    assert picker.points.get_subscription_count() == 0


def test_all_are_off_by_default(start_node: Any):
    node = start_node().node
    topics = {name for name, _ in node.get_subscriber_names_and_types_by_node("tracker", "/")}
    assert {"/tracker/init", "/tracker/init_roi", "/tracker/init_polygon"} <= topics
    assert not {t for t in topics if "click" in t or "mouse" in t or "normal" in t or t.startswith("/tf")}


def configuring_fails(start_node: Any, parameters: dict[str, Any]) -> str:
    """Why it does, as diagnostics say."""
    client = start_node(parameters, active=False)
    return client.diagnosis("engine", lambda d: d.level == DiagnosticStatus.ERROR).message


def test_wrong_topic_names_the_parameter(start_node: Any):
    text = configuring_fails(start_node, {"init_click.topic": "bad//topic"})
    assert text == "init_click.topic is 'bad//topic': Invalid topic name: topic name must not contain repeated '/'"


@pytest.mark.skipif(HAS_MAVROS, reason="mavros_msgs is there")
def test_mavlink_without_its_messages_says_what_to_install(start_node: Any):
    text = configuring_fails(start_node, {"init_mavlink.service": "~/camera_track"})
    assert "init_mavlink.service is '~/camera_track', but mavros_msgs is not there" in text
    assert "ros-$ROS_DISTRO-mavros-msgs" in text


@pytest.mark.skipif(not HAS_MAVROS, reason="mavros_msgs is not there")
def test_mavlink_commands(start_node: Any):
    from mavros_msgs.srv import GimbalManagerCameraTrack

    picker = Picker(start_node({**PARAMETERS, "init_mavlink.service": "~/camera_track"}))
    picker.show()
    client = picker.client
    service = client.node.create_client(GimbalManagerCameraTrack, "tracker/camera_track")
    client.wait("the service", service.service_is_ready)

    def command(**values: Any) -> tuple[bool, int]:
        answer = client.call(service, GimbalManagerCameraTrack.Request(**values))
        return answer.success, answer.result

    shares = {"top_left_x": X0 / 320, "top_left_y": Y0 / 240, "bottom_right_x": X1 / 320, "bottom_right_y": Y1 / 240}
    for values in (
        {"mode": 1, **shares},
        {"mode": 0, "x": (X0 + X1) / 640, "y": (Y0 + Y1) / 480, "radius": SIDE / 640},
        {"mode": 0, "x": (X0 + X1) / 640, "y": (Y0 + Y1) / 480},
    ):
        mark = client.events.mark
        assert command(**values) == (True, 0)
        picker.started(mark)
        assert iou(picker.followed(), box_at(*AT)) > 0.6
    mark = client.events.mark
    assert command(mode=2) == (True, 0)
    client.event(TrackEvent.CANCELLED, "selected", mark)
    assert command(mode=1, bottom_right_x=320.0, bottom_right_y=240.0) == (False, 2)
    assert "not pixels" in picker.rejected(mark).text
    assert command(mode=9) == (False, 3)
