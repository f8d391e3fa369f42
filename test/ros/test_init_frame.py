"""A box is applied to the image it was drawn on, however old, and refused with the reason when that cannot be."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("rclpy", reason="ROS 2 is not there")
pytest.importorskip("vision_msgs.msg", reason="vision_msgs is not there")
pytest.importorskip("ros2_tracker.msg", reason="the messages of ros2_tracker are not built")

from geometry_msgs.msg import Point32, PolygonStamped
from node_process import Client, box_of, stamp_ns
from ros2_tracker.msg import TrackEvent
from scene import FRAME_ID, SIDE, XYWH, box_at, iou, render, time_of
from std_msgs.msg import Header

from ros2_tracker.evaluation.sequences import open_frames

DATA = Path(os.environ.get("ROS2_TRACKER_DATA", Path(__file__).resolve().parents[3] / "shared/data"))
DELAY = 15
"""Frames between the one a box was drawn on and the newest, when the box comes: half a second at 30 Hz."""
PERIOD_S = 1 / 30
SECOND_NS = 1_000_000_000
AT = (100, 90)


@pytest.fixture(scope="module")
def shared_node(start_module_node) -> Client:
    # Reliable, so that every frame is in the node's buffer; max_image_age is the test machine's patience.
    return start_module_node({"qos.image.reliability": "reliable", "max_image_age": 10.0})


@pytest.fixture
def node(shared_node: Client) -> Client:
    """The running node, following nothing, with one image in its buffer."""
    shared_node.cancel()
    shared_node.show(render(AT))
    return shared_node


class Camera:
    """Plays frames at 30 Hz, or as fast as the node takes them where that is slower, with stamps of 30 Hz."""

    def __init__(self, node: Client) -> None:
        self._node = node
        self._start_ns = node.new_stamp()
        self._due_s = time.monotonic()
        self.stamps: list[int] = []

    def play(self, frames: Sequence[NDArray[np.uint8]]) -> None:
        for pixels in frames:
            time.sleep(max(self._due_s - time.monotonic(), 0.0))
            self._due_s = time.monotonic() + PERIOD_S
            stamp = self._start_ns + round(len(self.stamps) * PERIOD_S * SECOND_NS)
            mark = self._node.tracks.mark
            self._node.publish(pixels, stamp=stamp)
            self._node.wait_message(
                "the answer to a frame", self._node.tracks, lambda m, s=stamp: stamp_ns(m.header) == s, mark
            )
            self.stamps.append(stamp)


def overlaps_after_late_box(
    node: Client, frames: Sequence[NDArray[np.uint8]], boxes: Sequence[XYWH], *, stamped: bool
) -> list[float]:
    """Play frames; after frame DELAY comes the box of frame 0; IoU of what is tracked in the last frames.

    The last entry is that of the newest frame; those before it are there as far as the node answered them.
    """
    camera = Camera(node)
    camera.play(frames[: DELAY + 1])
    mark = node.events.mark
    node.init(boxes[0], "late", camera.stamps[0] if stamped else 0)
    started = node.event(TrackEvent.INITIALIZED, "late", mark)
    assert stamp_ns(started.header) == camera.stamps[0 if stamped else DELAY]
    camera.play(frames[DELAY + 1 :])
    node.wait_message("the newest frame's status", node.status, lambda m: stamp_ns(m.header) == camera.stamps[-1])
    overlaps = {}
    for tracks in node.tracks.since():
        stamp = stamp_ns(tracks.header)
        if stamp in camera.stamps[-4:]:
            index = camera.stamps.index(stamp)
            for detection in tracks.detections:
                assert detection.id == "late"
                overlaps[index] = iou(box_of(detection), boxes[index])
    # The newest frame counts as missed when there is no detection in it.
    return [overlaps[i] for i in sorted(overlaps)] if len(frames) - 1 in overlaps else [*overlaps.values(), 0.0]


@pytest.mark.parametrize("stamped", [True, False])
def test_box_lands_on_the_frame_it_was_drawn_on(node, stamped):
    n = 2 * DELAY + 1
    places = [(30 + 8 * i, 40 + 3 * i) for i in range(n)]
    assert places[DELAY][0] - places[0][0] > 2 * SIDE
    frames = [render(place, width=480, height=240) for place in places]
    overlaps = overlaps_after_late_box(node, frames, [box_at(*place) for place in places], stamped=stamped)
    if stamped:
        assert min(overlaps) >= 0.5
    else:
        # Where the target was is nothing but background now: without the stamp the box is lost.
        assert max(overlaps) < 0.5


@pytest.mark.parametrize("stamped", [True, False])
@pytest.mark.parametrize(
    ("sequence", "first"),
    [("uav123_wakeboard7", 32), ("segtrack_monkeydog", 22), ("otb_Dog", 78), ("vot_ball1", 47)],
)
def test_box_lands_on_the_frame_it_was_drawn_on_in_real_footage(node, sequence, first, stamped):
    folder = DATA / "sequences" / sequence
    if not folder.is_dir():
        pytest.skip(f"no footage: {folder} is not there (ROS2_TRACKER_DATA names the folder of `sequences`)")
    source = open_frames(folder)
    n = 2 * DELAY + 1
    assert source.ground_truth is not None
    boxes = [tuple(float(v) for v in box) for box in source.ground_truth[first : first + n]]
    moved = [abs(boxes[DELAY][i] + boxes[DELAY][i + 2] / 2 - boxes[0][i] - boxes[0][i + 2] / 2) for i in (0, 1)]
    assert moved[0] > boxes[0][2] or moved[1] > boxes[0][3], "the target moves by less than its own size"
    frames = [image for i, image in enumerate(source) if first <= i < first + n]
    overlaps = overlaps_after_late_box(node, frames, boxes, stamped=stamped)
    if stamped:
        assert min(overlaps) >= 0.5
    else:
        assert max(overlaps) < 0.5


def test_box_between_two_images_takes_the_nearest(node):
    camera = Camera(node)
    camera.play([render(AT)] * 4)
    mark = node.events.mark
    node.init(box_at(*AT), "between", camera.stamps[2] + 4_000_000)
    started = node.event(TrackEvent.INITIALIZED, "between", mark)
    assert stamp_ns(started.header) == camera.stamps[2]
    assert "-4.0 ms" in started.text


def test_box_that_overtakes_its_image_waits_for_it(node):
    # As an image comes first whose stamp is known: the box's is 0.1 s ahead of it.
    newest = stamp_ns(node.show(render(AT)).header)
    mark, stamp = node.events.mark, newest + SECOND_NS // 10
    node.init(box_at(*AT), "early", stamp)
    node.settle()
    node.publish(render(AT), stamp=newest + 1)
    node.wait_message("the answer", node.tracks, lambda m: stamp_ns(m.header) == newest + 1)
    assert node.events.since(mark) == []
    node.publish(render(AT), stamp=stamp)
    assert stamp_ns(node.event(TrackEvent.INITIALIZED, "early", mark).header) == stamp


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("box", "target_id", "offset_s", "reason", "text"),
    [
        (box_at(*AT), "x", -5.0, TrackEvent.STAMP_TOO_OLD, "older than the newest image"),
        (box_at(*AT), "x", -1e9, TrackEvent.STAMP_TOO_OLD, "the buffer reaches back"),
        (box_at(*AT), "x", 5.0, TrackEvent.STAMP_IN_FUTURE, "newer than the newest image"),
        ((400.0, 90.0, 40.0, 40.0), "x", 0.0, TrackEvent.BOX_OUTSIDE_IMAGE, "320x240"),
        ((318.5, 90.0, 40.0, 40.0), "x", 0.0, TrackEvent.BOX_OUTSIDE_IMAGE, "2x2 px"),
        ((100.0, 90.0, NAN, 40.0), "x", 0.0, TrackEvent.BOX_INVALID, "nan"),
        ((NAN, 90.0, 40.0, 40.0), "x", 0.0, TrackEvent.BOX_INVALID, "not finite"),
        ((100.0, 90.0, 40.0, INF), "x", 0.0, TrackEvent.BOX_INVALID, "not finite"),
        ((100.0, 90.0, -40.0, 40.0), "x", 0.0, TrackEvent.BOX_INVALID, "not positive"),
        ((100.0, 90.0, 0.0, 0.0), "x", 0.0, TrackEvent.BOX_INVALID, "not positive"),
        ((-1e200, -1e200, 2e200, 2e200), "x", 0.0, TrackEvent.BOX_INVALID, "2e+200"),
        (box_at(*AT), "x" * 129, 0.0, TrackEvent.ID_INVALID, "129 characters"),
        (box_at(*AT), "bell\a", 0.0, TrackEvent.ID_INVALID, "printable"),
    ],
)
def test_box_that_cannot_be_used_is_refused_with_the_reason(node, box, target_id, offset_s, reason, text):
    started = node.start(render(AT), box_at(*AT), "car")
    stamp = stamp_ns(started.header) + round(offset_s * SECOND_NS)
    mark = node.events.mark
    node.init(box, target_id, stamp)
    refusal = node.event(TrackEvent.REJECTED, mark=mark)
    assert refusal.reason == reason, refusal.text
    assert text in refusal.text
    assert (refusal.id, refusal.session, refusal.duration) == (target_id[:128], 0, 0.0)
    # It concerns no image, so its header is the request's.
    assert (stamp_ns(refusal.header), refusal.header.frame_id) == (stamp, "operator")
    # Nothing else has changed.
    assert node.follow(render(AT), "car").session == started.session
    assert len(node.events.since(mark)) == 1


@pytest.mark.parametrize(
    ("points", "text"),
    [([], "0 points"), ([(100.0, 90.0)], "1 points"), ([(100.0, 90.0), (NAN, 130.0)], "not finite")],
)
def test_polygon_that_cannot_be_used_is_refused(node, points, text):
    mark = node.events.mark
    polygon = PolygonStamped(header=Header(stamp=time_of(0), frame_id=FRAME_ID))
    polygon.polygon.points = [Point32(x=x, y=y) for x, y in points]
    node.init_polygons.publish(polygon)
    refusal = node.event(TrackEvent.REJECTED, mark=mark)
    assert refusal.reason == TrackEvent.BOX_INVALID
    assert text in refusal.text
