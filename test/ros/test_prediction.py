"""A camera faster than the network: boxes go out at the camera's rate, the rest of them predicted."""

from __future__ import annotations

import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not there")
pytest.importorskip("vision_msgs.msg", reason="vision_msgs is not there")
pytest.importorskip("ros2_tracker.msg", reason="the messages of ros2_tracker are not built")

from node_process import Client, Collector, stamp_ns
from ros2_tracker.msg import TrackStatus
from scene import SIDE, box_at, render
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray

RATE = 60.0
# All follow the one thing that moves: each costs a run of the network, so that it is slower than the camera.
IDS = [f"target {i}" for i in range(4)]
START = (60.0, 60.0)
SPEED = (40.0, 15.0)
"""px/s"""
SECOND = 1_000_000_000
MEASURED_ONLY = ("score", "peak", "psr", "apce", "motion_distance", "margin", "entropy", "sharpness")


def place(seconds: float) -> tuple[float, float]:
    return (START[0] + SPEED[0] * seconds, START[1] + SPEED[1] * seconds)


def play(node: Client, frames: int) -> list[int]:
    """Publish images of the moving target at the camera's rate; their stamps."""
    begin_s, stamps = time.monotonic(), []
    start_ns = node.new_stamp()
    for index in range(frames):
        time.sleep(max(begin_s + index / RATE - time.monotonic(), 0.0))
        stamps.append(node.publish(render(place(index / RATE)), stamp=start_ns + round(index * SECOND / RATE)))
    return stamps


@pytest.fixture(scope="module")
def node(start_module_node) -> Client:
    # In int8 the targets would run side by side, which many cores make fast.
    slow = {"max_targets": len(IDS), "engine": "onnxruntime", "precision": "fp32", "threads": 1}
    # Images that are late on a busy test machine are answered, too.
    return start_module_node({**slow, "max_image_age": 20.0, "qos.image.reliability": "reliable"})


@pytest.fixture
def following(node: Client) -> Client:
    """The node, with an answer for each of the targets."""
    node.cancel()
    for target_id in IDS:
        node.start(render(START), box_at(*START), target_id)
    for target_id in IDS:
        node.follow(render(START), target_id)
    return node


def stamps_of(messages: list[TrackStatus]) -> list[int]:
    return [stamp_ns(m.header) for m in messages]


def settled(node: Client, everything: Collector, newest_ns: int) -> list[TrackStatus]:
    """All statuses, once the newest image was measured for all targets."""
    node.wait(
        "the measured answers to the newest image",
        lambda: len({m.id for m in everything.since() if stamp_ns(m.header) == newest_ns and not m.predicted})
        == len(IDS),
    )
    return everything.since()


def accepted(before: dict[str, int], after: dict[str, int]) -> int:
    """How many images the node took, of those that the middleware delivered."""
    refused = ("images_out_of_order", "images_too_old", "images_broken")
    return after["images_received"] - before["images_received"] - sum(after[k] - before[k] for k in refused)


def test_predicted_boxes_fill_the_gaps_of_a_slow_network(following: Client):
    node = following
    everything = node.collect(TrackStatus, "tracker/status")
    while not everything.mark:  # until both sides know each other
        node.follow(render(START), IDS[-1])
    before = node.counters()
    first = play(node, 150)
    messages = settled(node, everything, first[-1])
    played = [m for m in messages if stamp_ns(m.header) in set(first)]
    predicted = [m for m in played if m.predicted]
    after = node.counters()
    count = accepted(before, after)
    assert len(predicted) > 10 * len(IDS), "the network was as fast as the camera, or took more than a second"

    for target_id in IDS:
        mine = [m for m in played if m.id == target_id]
        # The answers before may be too old to predict from; from the first one on, every image is answered. The newest
        # come twice where the worker took them up after all.
        begun_ns = stamp_ns(Header(stamp=next(m for m in mine if not m.predicted).prediction_stamp))
        unanswered = {s for s in first if s > begun_ns} - set(stamps_of(mine))
        assert len(unanswered) <= len(first) - count
        newest_measured_ns = 0
        for kind in (True, False):
            stamps = stamps_of([m for m in mine if m.predicted is kind])
            assert stamps == sorted(set(stamps))
        for message in mine:
            if message.predicted:
                assert stamp_ns(message.header) > newest_measured_ns
            else:
                newest_measured_ns = stamp_ns(message.header)
    images = {stamp_ns(m.header) for m in predicted}
    assert after["images_predicted"] - before["images_predicted"] == len(images)

    # The second half: by then the velocity is known.
    late = [m for m in predicted if stamp_ns(m.header) > first[75] and m.state != TrackStatus.LOST]
    assert late
    inside = 0
    for message in late:
        x, y = place((stamp_ns(message.header) - first[0]) / SECOND)
        error = message.box[:2] - (x + SIDE / 2, y + SIDE / 2)
        covariance = message.covariance.reshape(4, 4)
        assert np.linalg.eigvalsh(covariance).min() > 0.0
        # The 99 % ellipse of a Gaussian in two dimensions.
        inside += float(error @ np.linalg.solve(covariance[:2, :2], error)) < 9.21
        assert np.isnan([getattr(message, name) for name in MEASURED_ONLY]).all()
        assert 0.0 <= message.reliability <= 1.0
        assert message.processing_time < message.image_age
        grown = message.predicted_covariance.reshape(4, 4)
        assert grown[0, 0] > covariance[0, 0]
    assert inside >= 0.9 * len(late)


def test_tracks_hold_measured_boxes_unless_asked_otherwise(following: Client):
    node = following
    mark, predicted = node.tracks.mark, node.predicted.mark
    stamps = play(node, 60)
    node.wait_message("the newest image's tracks", node.tracks, lambda m: stamp_ns(m.header) == stamps[-1], mark)
    answered = stamps_of(node.tracks.since(mark))
    assert answered == sorted(set(answered))
    assert node.predicted.since(predicted)

    node.set_parameter("prediction.in_tracks", True)
    try:
        mark, predicted = node.tracks.mark, node.predicted.mark
        stamps = play(node, 60)
        node.wait_message("the newest image's status", node.status, lambda m: stamp_ns(m.header) == stamps[-1])
        measured = set(stamps_of(node.status.since()))

        def guessed() -> list[Detection2DArray]:
            """Tracks of images that were never measured."""
            return [m for m in node.tracks.since(mark) if stamp_ns(m.header) not in measured]

        node.wait("tracks of predicted images", guessed)
        expected = {(m.id, stamp_ns(m.header)): m for m in node.predicted.since(predicted)}
        for tracks in guessed():
            for detection in tracks.detections:
                status = expected[detection.id, stamp_ns(tracks.header)]
                center = detection.bbox.center.position
                assert (center.x, center.y) == pytest.approx(tuple(status.box[:2]))
    finally:
        node.set_parameter("prediction.in_tracks", False)


def test_prediction_can_be_switched_off(following: Client):
    node = following
    node.set_parameter("prediction.at_camera_rate", False)
    try:
        node.settle()
        mark = node.predicted.mark
        stamps = play(node, 30)
        node.wait_message("the newest image's status", node.status, lambda m: stamp_ns(m.header) == stamps[-1])
        assert node.predicted.since(mark) == []
    finally:
        node.set_parameter("prediction.at_camera_rate", True)
