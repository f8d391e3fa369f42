"""The real node in a process of its own, over DDS: what goes in, what comes out, and when."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not there")
pytest.importorskip("vision_msgs.msg", reason="vision_msgs is not there")
pytest.importorskip("ros2_tracker.msg", reason="the messages of ros2_tracker are not built")

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Point32, PolygonStamped
from lifecycle_msgs.msg import State, Transition
from node_process import Client, box_of, numbers, stamp_ns
from ros2_tracker.msg import TrackEvent, TrackStatus
from scene import FRAME_ID, SIDE, box_at, encode, iou, render, time_of, with_noise
from sensor_msgs.msg import CameraInfo, Image, RegionOfInterest
from std_msgs.msg import Header, String

from ros2_tracker.models.variant import load_variant
from ros2_tracker.tracking.reliability import ReliabilityModel

MAX_TARGETS = 3
AT = (100, 90)
"""Where the target stands in tests that need no other place."""


@pytest.fixture(scope="module")
def shared_node(start_module_node) -> Client:
    # max_image_age is the test machine's patience, not what is tested.
    return start_module_node({"max_targets": MAX_TARGETS, "max_image_age": 10.0})


@pytest.fixture
def node(shared_node: Client) -> Client:
    """The running node, following nothing."""
    shared_node.cancel()
    return shared_node


@contextmanager
def camera(node: Client, pixels: np.ndarray, rate: float = 60.0) -> Iterator[None]:
    """Publish an image again and again in the background."""
    stopping = threading.Event()

    def run() -> None:
        while not stopping.wait(1.0 / rate):
            node.publish(pixels)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def walk(node: Client, target_id: str, steps: int = 8, x: float = AT[0], y: float = AT[1]) -> TrackStatus:
    """Move the target by (4, 1) px an image, from its place on; the last status."""
    for step in range(1, steps + 1):
        status = node.follow(render((x + 4 * step, y + step)), target_id)
    return status


def fitted_reliability() -> ReliabilityModel:
    """What the default model's file says."""
    return ReliabilityModel.load(load_variant("default").reliability)


def detection_of(node: Client, target_id: str, stamp: int):
    """The detection of a target in ~/tracks for the image with this stamp."""
    tracks = node.wait_message(
        f"{target_id} in ~/tracks",
        node.tracks,
        lambda m: stamp_ns(m.header) == stamp and any(d.id == target_id for d in m.detections),
    )
    return next(d for d in tracks.detections if d.id == target_id)


# -- boxes in, tracks out -----------------------------------------------------------------------------------------


def test_target_is_tracked_under_the_images_header(node):
    node.start(render(AT), box_at(*AT), "car")
    status = walk(node, "car")
    stamp = stamp_ns(status.header)
    detection = detection_of(node, "car", stamp)
    assert iou(box_of(detection), box_at(AT[0] + 32, AT[1] + 8)) >= 0.7
    assert [len(detection.results), detection.header] == [1, status.header]
    assert 0.5 < detection.results[0].hypothesis.score <= 1.0
    tracks = next(m for m in node.tracks.since() if stamp_ns(m.header) == stamp)
    assert tracks.header.frame_id == detection.header.frame_id == FRAME_ID


def test_image_without_targets_is_answered_with_no_tracks(node):
    stamp = node.new_stamp()
    answer = node.show(render(AT))
    assert answer.detections == []
    assert stamp_ns(answer.header) > stamp
    assert answer.header.frame_id == FRAME_ID


def test_empty_id_gets_one(node):
    pixels = render(AT, (200, 40))
    first = node.start(pixels, box_at(*AT)).id
    second = node.start(pixels, box_at(200, 40)).id
    assert first
    assert second
    assert first != second
    stamp = stamp_ns(node.follow(pixels, second).header)
    assert iou(box_of(detection_of(node, first, stamp)), box_at(*AT)) >= 0.7
    assert iou(box_of(detection_of(node, second, stamp)), box_at(200, 40)) >= 0.7


def test_same_id_starts_the_target_anew_under_the_next_session(node):
    pixels = render(AT, (200, 40))
    first = node.start(pixels, box_at(*AT), "car")
    assert node.follow(pixels, "car").session == first.session
    second = node.start(pixels, box_at(200, 40), "car")
    assert (second.id, second.session) == ("car", first.session + 1)
    status = node.follow(pixels, "car")
    assert status.session == second.session
    stamp = stamp_ns(status.header)
    detection = detection_of(node, "car", stamp)
    assert iou(box_of(detection), box_at(200, 40)) >= 0.7
    tracks = [m for m in node.tracks.since() if stamp_ns(m.header) == stamp]
    assert [d.id for m in tracks for d in m.detections] == ["car"]


def test_status_says_what_is_known(node):
    event = node.start(render(AT), box_at(*AT), "car")
    before_ns = time.time_ns()
    status = walk(node, "car", steps=12)
    place = (AT[0] + 48, AT[1] + 12)
    assert (status.id, status.session, status.state) == ("car", event.session, TrackStatus.TRACKING)
    cx, cy, w, h = status.box
    # The centre, not the corner, in the corner-of-pixel coordinates of the box that was sent.
    assert (cx, cy) == pytest.approx((place[0] + SIDE / 2, place[1] + SIDE / 2), abs=4.0)
    assert (w, h) == pytest.approx((SIDE, SIDE), abs=6.0)
    assert 0.5 < status.reliability <= 1.0
    assert status.reliability_calibrated is fitted_reliability().calibrated
    assert 0.0 < status.peak <= 1.0
    assert status.psr > 0.0
    assert status.apce > 0.0
    assert 0.0 <= status.motion_distance < math.inf
    # It went right and a little down; how fast depends on this machine.
    assert status.velocity[0] > 0.0
    for name in ("covariance", "predicted_covariance"):
        matrix = getattr(status, name).reshape(4, 4)
        np.testing.assert_allclose(matrix, matrix.T, rtol=1e-9, err_msg=name)
        assert np.linalg.eigvalsh(matrix).min() > 0.0, name
    image_ns = stamp_ns(status.header)
    predicted_ns = stamp_ns(Header(stamp=status.prediction_stamp))
    assert max(before_ns, image_ns) <= predicted_ns <= time.time_ns()
    assert status.image_age == pytest.approx((predicted_ns - image_ns) / 1e9, abs=1e-4)
    assert 0.0 < status.processing_time < status.image_age
    assert status.predicted_box[0] >= status.box[0] - 2.0
    assert np.isfinite(status.predicted_box).all()
    assert status.predicted_covariance.reshape(4, 4)[0, 0] > 0.0
    assert not status.bearing_valid
    assert not status.predicted


def test_hidden_target_becomes_uncertain_then_lost_then_recovers(node):
    node.start(render(AT), box_at(*AT), "car")
    node.follow(render(AT), "car")
    mark, rng = node.events.mark, np.random.default_rng(0)

    def show_until(pixels, kind):
        deadline = time.monotonic() + 60.0
        while not any(e.type == kind for e in node.events.since(mark)):
            assert time.monotonic() < deadline, f"no event {kind}: {node.events.since(mark)}"
            status = node.follow(with_noise(pixels, rng), "car")
        return status

    show_until(render(), TrackEvent.LOST)
    assert [e.type for e in node.events.since(mark)] == [TrackEvent.UNCERTAIN, TrackEvent.LOST]
    status = node.follow(with_noise(render(), rng), "car")
    assert status.state == TrackStatus.LOST
    assert np.isnan(status.box).all()
    answers = [m for m in node.tracks.since() if m.header == status.header]
    assert [m.detections for m in answers] == [[]]
    show_until(render(AT), TrackEvent.RECOVERED)
    recovered = node.event(TrackEvent.RECOVERED, "car", mark)
    uncertain = node.event(TrackEvent.UNCERTAIN, "car", mark)
    between_s = (stamp_ns(recovered.header) - stamp_ns(uncertain.header)) / 1e9
    # UNCERTAIN counts from the last frame that was TRACKING, which is the one before the event's.
    assert between_s <= recovered.duration < between_s + 5.0
    assert node.follow(with_noise(render(AT), rng), "car").state == TrackStatus.TRACKING


def test_late_subscriber_gets_the_past_events(node):
    node.start(render(AT), box_at(*AT), "early bird")
    late = node.collect(TrackEvent, "tracker/events", node.events_qos)
    try:
        event = node.wait_message("an event of the past", late, lambda e: e.id == "early bird")
        assert event.type == TrackEvent.INITIALIZED
        assert event.header.frame_id == FRAME_ID
    finally:
        node.drop(late)


def test_targets_up_to_the_limit_then_rejected(node):
    places = [(20, 20), (150, 30), (60, 150), (220, 160)]
    pixels = render(*places)
    ids = [f"t{i}" for i in range(MAX_TARGETS)]
    for target_id, place in zip(ids, places, strict=False):
        node.start(pixels, box_at(*place), target_id)
    mark = node.events.mark
    node.init(box_at(*places[-1]), "one too many")
    refusal = node.event(TrackEvent.REJECTED, "one too many", mark)
    assert refusal.reason == TrackEvent.TOO_MANY_TARGETS
    assert str(MAX_TARGETS) in refusal.text
    stamp = stamp_ns(node.follow(pixels, ids[-1]).header)
    for target_id, place in zip(ids, places, strict=False):
        assert iou(box_of(detection_of(node, target_id, stamp)), box_at(*place)) >= 0.7
    # A known id needs no room.
    node.start(pixels, box_at(*places[-1]), ids[0])
    node.cancel_targets.publish(String(data=ids[1]))
    node.event(TrackEvent.CANCELLED, ids[1], mark)
    node.start(pixels, box_at(*places[1]), "room again")


def test_selectors_without_ids_share_one_target(node):
    pixels = render(AT, (200, 40))
    stamp = stamp_ns(node.show(pixels).header)
    mark = node.events.mark
    node.init_rois.publish(RegionOfInterest(x_offset=AT[0], y_offset=AT[1], width=SIDE, height=SIDE))
    first = node.event(TrackEvent.INITIALIZED, mark=mark)
    status = node.follow(pixels, first.id)
    assert iou(box_of(detection_of(node, first.id, stamp_ns(status.header))), box_at(*AT)) >= 0.7
    polygon = PolygonStamped(header=Header(stamp=time_of(stamp)))
    polygon.polygon.points = [
        Point32(x=200.0, y=40.0), Point32(x=240.0, y=42.0), Point32(x=238.0, y=80.0), Point32(x=201.0, y=79.0),
    ]  # fmt: skip
    mark = node.events.mark
    node.init_polygons.publish(polygon)
    second = node.event(TrackEvent.INITIALIZED, mark=mark)
    assert (second.id, second.session) == (first.id, first.session + 1)
    assert stamp_ns(second.header) == stamp
    status = node.follow(pixels, second.id)
    assert iou(box_of(detection_of(node, second.id, stamp_ns(status.header))), box_at(200, 40)) >= 0.7


# -- cancelling -----------------------------------------------------------------------------------------------------


def test_after_cancel_nothing_more_is_reported(node):
    pixels = render(AT, (200, 40))
    for _ in range(8):
        node.start(pixels, box_at(*AT), "a")
        node.start(pixels, box_at(200, 40), "b")
        mark = node.status.mark
        with camera(node, pixels):
            # In the middle of work, at another moment each time.
            node.wait_message("a status", node.status, lambda m: m.id == "b", mark)
            response = node.cancel()
            cancelled_ns = time.time_ns()
            assert response.success
            assert "a" in response.message
            assert "b" in response.message
            node.wait_message(
                "answers to images taken afterwards",
                node.tracks,
                lambda m, after_ns=cancelled_ns: stamp_ns(m.header) > after_ns + 100_000_000,
            )
        statuses = node.status.since() + node.predicted.since()
        late = [m for m in statuses if stamp_ns(Header(stamp=m.prediction_stamp)) > cancelled_ns]
        assert late == []
        assert [m for m in node.tracks.since() if stamp_ns(m.header) > cancelled_ns and m.detections] == []
    assert node.cancel().message == "there was no target"


def test_cancel_target_drops_only_that_one(node):
    pixels = render(AT, (200, 40))
    first, second = node.start(pixels, box_at(*AT), "a"), node.start(pixels, box_at(200, 40), "b")
    mark = node.events.mark
    node.cancel_targets.publish(String(data="a"))
    cancelled = node.event(TrackEvent.CANCELLED, mark=mark)
    assert (cancelled.id, cancelled.session) == ("a", first.session)
    stamp = stamp_ns(node.follow(pixels, "b").header)
    assert detection_of(node, "b", stamp)
    assert [m.session for m in node.status.since() if stamp_ns(m.header) == stamp] == [second.session]


def test_cancelling_an_unknown_target_is_counted(node):
    before = node.counters()["cancels_unknown"]
    node.cancel_targets.publish(String(data="nobody"))
    node.settle()
    assert node.counters()["cancels_unknown"] == before + 1


# -- images ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "encoding",
    ["bgr8", "rgb8", "mono8", "bgra8", "rgba8", "yuv422", "yuv422_yuy2", "nv12", "16UC1", "bayer_rggb8"],
)
def test_every_encoding_gives_a_track(node, encoding):
    node.start(encode(render(AT), encoding), box_at(*AT), encoding, encoding)
    for step in range(1, 4):
        place = (AT[0] + 5 * step, AT[1] + 2 * step)
        status = node.follow(encode(render(place), encoding), encoding, encoding)
    detection = detection_of(node, encoding, stamp_ns(status.header))
    assert iou(box_of(detection), box_at(*place)) >= 0.6


def test_images_without_stamp_are_tracked(node):
    before = node.counters()["images_unstamped"]
    pixels = render(AT)

    def publish_unstamped(answers, fits):
        mark = answers.mark
        node.publish(pixels, stamp=0)
        return node.wait_message("an answer", answers, lambda m: stamp_ns(m.header) == 0 and fits(m), mark)

    publish_unstamped(node.tracks, lambda _: True)
    node.init(box_at(*AT), "timeless")
    node.event(TrackEvent.INITIALIZED, "timeless")
    status = publish_unstamped(node.status, lambda m: m.id == "timeless")
    assert iou((*(status.box[:2] - status.box[2:] / 2), *status.box[2:]), box_at(*AT)) >= 0.7
    # Its arrival is its time.
    assert 0.0 <= status.image_age < 10.0
    assert status.header.frame_id == FRAME_ID
    assert node.counters()["images_unstamped"] == before + 2


def test_old_images_are_dropped_and_counted(node):
    node.start(render(AT), box_at(*AT), "car")
    before = node.counters()
    old = node.publish(render(AT), stamp=time.time_ns() - 20_000_000_000)
    node.settle()
    node.follow(render(AT), "car")
    after = node.counters()
    assert after["images_too_old"] == before["images_too_old"] + 1
    assert after["time_jumps"] == before["time_jumps"]
    assert [m for m in node.tracks.since() if stamp_ns(m.header) == old] == []


def test_compressed_images_are_tracked(start_node):
    node = start_node({"image_transport": "compressed"}, compressed=True)
    node.start(render(AT), box_at(*AT), "car")
    status = walk(node, "car", steps=4)
    detection = detection_of(node, "car", stamp_ns(status.header))
    assert iou(box_of(detection), box_at(AT[0] + 16, AT[1] + 4)) >= 0.7
    assert detection.header.frame_id == FRAME_ID


# -- bearing, debug image, diagnostics ------------------------------------------------------------------------------


def test_bearing_only_with_a_calibrated_camera(node):
    pixels = render(AT)
    node.start(pixels, box_at(*AT), "car")
    mark = node.bearings.mark
    assert not node.follow(pixels, "car").bearing_valid

    info = CameraInfo(width=320, height=240, distortion_model="plumb_bob", d=[0.0] * 5)
    f, cx, cy = 250.0, 200.0, 60.0
    info.k = np.array([f, 0.0, cx, 0.0, f, cy, 0.0, 0.0, 1.0])
    node.camera_info.publish(info)
    node.settle()
    status = node.follow(pixels, "car")
    assert status.bearing_valid
    message = node.wait_message("a bearing", node.bearings, lambda m: m.header == status.header, mark)
    vector = np.array([message.vector.x, message.vector.y, message.vector.z])
    assert vector == pytest.approx([status.bearing.x, status.bearing.y, status.bearing.z])
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-9)
    # K counts from the centre of the top-left pixel, boxes from its corner.
    expected = np.array([(status.box[0] - 0.5 - cx) / f, (status.box[1] - 0.5 - cy) / f, 1.0])
    assert vector == pytest.approx(expected / np.linalg.norm(expected), abs=1e-6)
    assert vector[0] < 0.0 < vector[1]  # left of the axis and below it: y points down

    # Uncalibrated, as drivers say it: no bearing any more.
    node.camera_info.publish(CameraInfo(width=320, height=240))
    node.settle()
    mark = node.bearings.mark
    status = node.follow(pixels, "car")
    assert not status.bearing_valid
    node.follow(pixels, "car")
    assert node.bearings.since(mark) == []


def test_debug_image_only_while_somebody_looks(node):
    pixels = render(AT)
    node.start(pixels, box_at(*AT), "car")

    def drawn():
        return numbers(node.diagnosis("tracking"))["debug_images"]

    before = drawn()
    for _ in range(10):
        node.follow(pixels, "car")
    assert drawn() == before
    images = node.collect(Image, "tracker/debug_image")
    try:
        shown = None
        deadline = time.monotonic() + 30.0
        while shown is None:
            assert time.monotonic() < deadline, "no debug image"
            node.follow(pixels, "car")
            shown = next(iter(images.since()), None)
    finally:
        node.drop(images)
    assert any(m.header == shown.header for m in node.tracks.since())
    assert (shown.width, shown.height, shown.encoding, shown.header.frame_id) == (320, 240, "bgr8", FRAME_ID)
    changed = np.frombuffer(shown.data, np.uint8).reshape(240, 320, 3) != pixels
    assert 0.01 < changed.any(axis=-1).mean() < 0.5  # the box and the label, not another picture
    assert drawn() > before
    node.wait("the node to see that nobody looks", lambda: node.node.count_subscribers("tracker/debug_image") == 0)
    node.follow(pixels, "car")
    before = drawn()
    for _ in range(10):
        node.follow(pixels, "car")
    assert drawn() == before


def test_diagnostics_count_and_name_the_engine(node):
    node.start(render(AT), box_at(*AT), "car")
    before = node.counters()
    for _ in range(3):
        node.follow(render(AT), "car")
    after = node.counters()
    # `follow` publishes once more when an image gets lost.
    assert after["images_received"] >= before["images_received"] + 3
    assert after["images_answered"] >= before["images_answered"] + 3
    assert after["inits_accepted"] == before["inits_accepted"]
    engine = node.diagnosis("engine")
    assert engine.level == DiagnosticStatus.OK
    values = {v.key: v.value for v in engine.values}
    assert "onnxruntime" in values["engine"]
    assert values["reliability_calibrated"] == str(fitted_reliability().calibrated)
    tracking = node.diagnosis("tracking")
    assert {v.key: v.value for v in tracking.values}["targets"] == "car"
    assert tracking.hardware_id == "/tracker"


# -- lifecycle ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lifecycle_node(start_module_node) -> Client:
    return start_module_node({"image_timeout": 0.5, "max_image_age": 10.0})


def test_silence_is_a_warning_until_images_arrive(lifecycle_node):
    node = lifecycle_node
    warning = node.diagnosis("input", lambda s: s.level == DiagnosticStatus.WARN)
    assert "no image" in warning.message
    assert "/image" in warning.message
    with camera(node, render(AT), rate=20.0):
        assert node.diagnosis("input", lambda s: s.level == DiagnosticStatus.OK).message == "images arrive"


def test_inactive_node_refuses_boxes_and_active_again_it_works(lifecycle_node):
    node = lifecycle_node
    pixels = render(AT)
    first = node.start(pixels, box_at(*AT), "car")
    node.follow(pixels, "car")

    mark = node.events.mark
    assert node.change_state(Transition.TRANSITION_DEACTIVATE)
    assert node.state() == State.PRIMARY_STATE_INACTIVE
    assert node.event(TrackEvent.CANCELLED, "car", mark).session == first.session
    deactivated_ns = time.time_ns()
    answered = node.tracks.mark
    for _ in range(5):
        node.publish(pixels)
        node.settle()
    node.init(box_at(*AT), "too early")
    refusal = node.event(TrackEvent.REJECTED, "too early", mark)
    assert refusal.reason == TrackEvent.NOT_ACTIVE
    assert "active" in refusal.text
    assert node.cancel().success
    assert [m for m in node.tracks.since(answered) if stamp_ns(m.header) > deactivated_ns] == []
    assert node.diagnosis("input").message == "not active"

    assert node.change_state(Transition.TRANSITION_ACTIVATE)
    node.wait_connected()
    second = node.start(pixels, box_at(*AT), "car")
    # Sessions are told apart for as long as the node lives.
    assert second.session == first.session + 1
    status = walk(node, "car", steps=3)
    assert iou(box_of(detection_of(node, "car", stamp_ns(status.header))), box_at(AT[0] + 12, AT[1] + 3)) >= 0.7


def test_cleaned_up_node_can_be_configured_again(lifecycle_node):
    node = lifecycle_node
    for transition, state in (
        (Transition.TRANSITION_DEACTIVATE, State.PRIMARY_STATE_INACTIVE),
        (Transition.TRANSITION_CLEANUP, State.PRIMARY_STATE_UNCONFIGURED),
    ):
        assert node.change_state(transition)
        assert node.state() == state
    assert node.diagnosis("engine").message == "not configured"
    node.wait("the topics to be gone", lambda: node.node.count_publishers("tracker/tracks") == 0)
    assert node.change_state(Transition.TRANSITION_CONFIGURE)
    assert node.change_state(Transition.TRANSITION_ACTIVATE)
    node.wait_connected()
    node.start(render(AT), box_at(*AT), "again")
    status = walk(node, "again", steps=3)
    assert iou(box_of(detection_of(node, "again", stamp_ns(status.header))), box_at(AT[0] + 12, AT[1] + 3)) >= 0.7


def test_box_before_the_first_image_is_held(lifecycle_node):
    node = lifecycle_node
    assert node.change_state(Transition.TRANSITION_DEACTIVATE)
    assert node.change_state(Transition.TRANSITION_ACTIVATE)
    node.wait_connected()
    mark = node.events.mark
    node.init(box_at(*AT), "patient")
    node.settle()
    assert [e for e in node.events.since(mark) if e.id == "patient"] == []
    status = node.follow(render(AT), "patient")
    started = node.event(TrackEvent.INITIALIZED, "patient", mark)
    assert stamp_ns(started.header) < stamp_ns(status.header)
    assert iou(box_of(detection_of(node, "patient", stamp_ns(status.header))), box_at(*AT)) >= 0.7


@pytest.mark.parametrize("content", [None, b"not a network"], ids=["missing", "broken"])
def test_unusable_weights_are_named_and_can_be_put_right(start_node, tmp_path, content):
    weights = tmp_path / "my weights.onnx"
    if content is not None:
        weights.write_bytes(content)
    node = start_node({"weights": f'"{weights}"'}, active=False)
    engine = node.diagnosis("engine", lambda s: s.level == DiagnosticStatus.ERROR)
    assert str(weights) in engine.message
    assert node.process.alive
    assert node.state() == State.PRIMARY_STATE_UNCONFIGURED
    assert not node.change_state(Transition.TRANSITION_CONFIGURE)
    assert node.state() == State.PRIMARY_STATE_UNCONFIGURED
    node.set_parameter("weights", "")
    assert node.change_state(Transition.TRANSITION_CONFIGURE)
    assert node.change_state(Transition.TRANSITION_ACTIVATE)
    node.wait_connected()
    assert node.diagnosis("engine").level == DiagnosticStatus.OK
    node.start(render(AT), box_at(*AT), "car")
    assert node.follow(render(AT), "car").state == TrackStatus.TRACKING


def test_node_ends_on_sigint_while_it_works(start_node):
    node = start_node()
    pixels = render(AT)
    node.start(pixels, box_at(*AT), "car")
    with camera(node, pixels):
        node.follow(pixels, "car")
        assert node.process.stop() == 0
    assert "Traceback" not in node.process.output
