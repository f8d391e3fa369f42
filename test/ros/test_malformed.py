"""Two thousand malformed inputs: the node counts each of them, refuses each box with a reason, and goes on."""

from __future__ import annotations

import math
import string
import time
from array import array
from collections import Counter
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not there")
pytest.importorskip("vision_msgs.msg", reason="vision_msgs is not there")
pytest.importorskip("ros2_tracker.msg", reason="the messages of ros2_tracker are not built")

from geometry_msgs.msg import Point32, PolygonStamped
from node_process import Client, box_of, stamp_ns
from ros2_tracker.msg import TrackEvent
from scene import FRAME_ID, box_at, encode, image_message, iou, render, time_of
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header, String
from vision_msgs.msg import Detection2D

SEED = 20261107
N_MALFORMED = 2000
N_COMPRESSED = 200
MAX_IMAGE_AGE_S = 60.0
"""Far from all ages that are sent, so that a slow machine makes no difference."""
SECOND_NS = 1_000_000_000
AT = (100, 90)
NAN, INF = math.nan, math.inf
UINT32 = 2**32 - 1


class Sender:
    """Sends one malformed input after the other and knows what the node has to count for it.

    After each one it waits until the node has taken it: at depth 1, the next image would replace it.
    """

    def __init__(self, node: Client, rng: np.random.Generator, newest_ns: int) -> None:
        """`newest_ns` is the stamp of the newest image that the node has answered."""
        self.node = node
        self.rng = rng
        self.expected: Counter[str] = Counter()
        self.reasons: Counter[int] = Counter()
        self.newest_ns = newest_ns
        """As the node's buffer has it, or a little newer."""

    def choice(self, *options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    # -- images -----------------------------------------------------------------------------------------------------

    def broken_image(self) -> None:
        """An image message whose fields do not fit each other."""
        rng = self.rng
        encoding = self.choice("bgr8", "rgb8", "mono8", "bgra8", "yuv422", "nv12", "16UC1", "bayer_rggb8")
        pixels = rng.integers(0, 256, (24, 32, 3), np.uint8)
        msg = image_message(encode(pixels, encoding), encoding, int(rng.integers(0, 2**31)) * SECOND_NS)

        def wrong_step() -> None:
            msg.step = self.choice(0, 1, msg.step - 1, msg.step + 1, 2 * msg.step, UINT32)

        def short_data() -> None:
            msg.data = array("B", msg.data[: int(rng.integers(0, len(msg.data)))])

        def unknown_encoding() -> None:
            msg.encoding = self.choice("", "bgr9", "BGR8", "bgr8 ", "bgr8\n", "\u202ebgr8", "jpeg", "x" * 10_000)

        def no_pixels() -> None:
            msg.width, msg.height = self.choice((0, 0), (0, 24), (32, 0))

        def huge() -> None:
            msg.width, msg.height = self.choice((UINT32, UINT32), (2**31, 1), (1, 2**31), (65536, 65536))

        def odd() -> None:
            msg.encoding = self.choice("yuv422", "yuv422_yuy2", "nv12", "nv21")
            msg.width, msg.step = 31, 64

        def one_by_one() -> None:
            msg.encoding = self.choice("bayer_rggb8", "bayer_grbg16", "nv12", "yuv422_yuy2")
            msg.width = msg.height = 1

        self.choice(wrong_step, short_data, unknown_encoding, no_pixels, huge, odd, one_by_one)()
        self.expected["images_broken"] += 1
        self._send_image(msg)

    def strange_image(self) -> None:
        """A well-formed image of no use: 1x1, or as high as wide as a line."""
        width, height = self.choice((1, 1), (1, 200), (200, 1), (2, 2), (3, 3))
        encoding = self.choice("bgr8", "rgb8", "mono8", "bgra8", "16UC1")
        pixels = self.rng.integers(0, 256, (height, width, 3), np.uint8)
        stamp = time.time_ns()
        self._take(stamp)
        self._send_image(image_message(encode(pixels, encoding), encoding, stamp))

    def wrongly_stamped_image(self) -> None:
        """A good image with a stamp that is not one."""
        now = time.time_ns()
        stamp = self.choice(
            0,
            -1,
            -(2**31) * SECOND_NS,
            1,
            now - int(self.rng.integers(3600, 10**9)) * SECOND_NS,
            now + int(self.rng.integers(10, 10**6)) * SECOND_NS,
            now - 20 * SECOND_NS,
            self.newest_ns - int(self.rng.integers(1, 900)) * SECOND_NS // 1000,
        )
        self._take(stamp)
        self._send_image(image_message(render(AT), "bgr8", stamp))
        if stamp == 0:
            # The node stamped it on arrival, at a moment that is not known here but lies before the next line's.
            self.newest_ns = time.time_ns()

    def _take(self, stamp: int) -> None:
        """What the node counts for a well-formed image."""
        expected, now = self.expected, time.time_ns()
        if stamp == 0:
            expected["images_unstamped"] += 1
            stamp = now
        age_s = (now - stamp) / SECOND_NS
        if age_s > MAX_IMAGE_AGE_S:
            expected["images_too_old"] += 1
            return
        if age_s < -5.0:
            expected["images_in_future"] += 1
        if stamp < self.newest_ns:
            if self.newest_ns - stamp <= SECOND_NS:
                expected["images_out_of_order"] += 1
                return
            expected["time_jumps"] += 1
        self.newest_ns = stamp

    def _send_image(self, msg: Image) -> None:
        self.expected["images_received"] += 1
        self.node.images.publish(msg)
        self.node.settle()

    # -- boxes --------------------------------------------------------------------------------------------------------

    def bad_box(self) -> None:
        """A Detection2D whose box, id or stamp is none."""
        rng = self.rng
        msg = Detection2D(header=Header(frame_id=self.choice("", "operator", "f" * 10_000)))
        center, bbox = msg.bbox.center, msg.bbox
        center.position.x, center.position.y, bbox.size_x, bbox.size_y = 120.0, 110.0, 40.0, 40.0

        def values() -> int:
            bad = self.choice(NAN, INF, -INF)
            place = self.choice("x", "y", "size_x", "size_y", "theta")
            if place in ("x", "y"):
                setattr(center.position, place, bad)
            elif place == "theta":
                center.theta = bad
            else:
                setattr(bbox, place, bad)
            return TrackEvent.BOX_INVALID

        def size() -> int:
            bbox.size_x = self.choice(0.0, -0.0, -40.0, -1e300, 1e7, 1e200, 1.7e308)
            bbox.size_y = self.choice(bbox.size_x, 40.0)
            return TrackEvent.BOX_INVALID

        def outside() -> int:
            center.position.x = self.choice(-1e3, 1e3, -1e15, 1e15, 1e300, -1e300)
            return TrackEvent.BOX_OUTSIDE_IMAGE

        def tiny() -> int:
            bbox.size_x = self.choice(1.9, 1e-3, 5e-324)
            return TrackEvent.BOX_OUTSIDE_IMAGE

        def identifier() -> int:
            msg.id = self.choice("x" * 100_000, "é" * 129, "a\nb", "\x1b[2J", "\x7f", "\u202eevil", "tab\t", "\ufeff")
            return TrackEvent.ID_INVALID

        def past() -> int:
            msg.header.stamp = time_of(self.choice(1, -1, -(2**31) * SECOND_NS, 10**9 * SECOND_NS))
            return TrackEvent.STAMP_TOO_OLD

        def future() -> int:
            msg.header.stamp = time_of((2**31 - 1) * SECOND_NS)
            return TrackEvent.STAMP_IN_FUTURE

        msg.id = self.choice("", "survivor", "".join(rng.choice(list(string.printable[:95]), 20)))
        reason = self.choice(values, size, outside, tiny, identifier, past, future)()
        self._send_box(self.node.inits, msg, reason)

    def bad_polygon(self) -> None:
        """A polygon that encloses nothing."""
        bad = self.choice(NAN, INF, -INF, 3e38)
        points = self.choice(
            [],
            [(100.0, 90.0)],
            [(100.0, 90.0)] * 3,
            [(100.0, 90.0), (bad, 130.0)],
            [(100.0, bad), (140.0, 130.0), (140.0, 90.0)],
        )
        msg = PolygonStamped()
        msg.polygon.points = [Point32(x=x, y=y) for x, y in points]
        self._send_box(self.node.init_polygons, msg, TrackEvent.BOX_INVALID)

    def bad_roi(self) -> None:
        """A region of interest that is empty, or larger than any image."""
        width, height = self.choice((0, 0), (0, 40), (40, 0), (UINT32, UINT32), (40, UINT32), (2_000_000, 40))
        msg = RegionOfInterest(x_offset=int(self.rng.integers(0, 100)), y_offset=90, width=width, height=height)
        self._send_box(self.node.init_rois, msg, TrackEvent.BOX_INVALID)

    def _send_box(self, publisher: Any, msg: Any, reason: int) -> None:
        self.expected["inits_rejected"] += 1
        mark = self.node.events.mark
        publisher.publish(msg)
        refusal = self.node.event(TrackEvent.REJECTED, mark=mark)
        assert refusal.reason == reason, f"{refusal.text} for {str(msg)[:2000]}"
        assert refusal.text
        assert len(refusal.id) <= 128
        self.reasons[refusal.reason] += 1

    # -- the rest -----------------------------------------------------------------------------------------------------

    def unusable_camera_info(self) -> None:
        """Calibration of a camera that is not calibrated, or that no camera has."""
        k = [250.0, 0.0, 160.0, 0.0, 250.0, 120.0, 0.0, 0.0, 1.0]
        model, d = "plumb_bob", [0.0] * 5

        def zeros() -> None:
            k[:] = [0.0] * 9

        def values() -> None:
            k[self.choice(0, 2, 4, 5)] = self.choice(NAN, INF, -INF)

        def negative() -> None:
            k[self.choice(0, 4)] = -250.0

        def distortion() -> None:
            d[int(self.rng.integers(5))] = self.choice(NAN, INF)

        def length() -> None:
            d[:] = [0.0] * self.choice(1, 3, 7, 1000)

        self.choice(zeros, values, negative, distortion, length)()
        model = self.choice(model, model, "no such model", "\n" * 100)
        if model != "plumb_bob":
            # An unknown model without any distortion would do.
            d[0] = 0.1
        self.node.camera_info.publish(CameraInfo(width=320, height=240, distortion_model=model, k=np.array(k), d=d))
        self.expected["camera_infos_unusable"] += 1
        self.node.settle()

    def unknown_cancel(self) -> None:
        """A cancellation of nobody."""
        target_id = self.choice("", "nobody", "survivor ", "x" * 100_000, "\x1b[2J", "é\n")
        self.node.cancel_targets.publish(String(data=target_id))
        self.expected["cancels_unknown"] += 1
        self.node.settle()


def show_once(node: Client, answers: Any, publish: Callable[[int], None], target_id: str = "") -> Any:
    """Publish one image, once, so that each one can be counted; its answer."""
    mark, stamp = answers.mark, node.new_stamp()
    publish(stamp)
    return node.wait_message(
        "an answer to a good image",
        answers,
        lambda m: stamp_ns(m.header) == stamp and (not target_id or m.id == target_id),
        mark,
    )


def assert_tracks(node: Client, publish: Callable[[np.ndarray, int], None], target_id: str) -> int:
    """Start a target anew and follow it through three good images; the number of images published."""
    mark = node.events.mark
    started = stamp_ns(show_once(node, node.tracks, lambda stamp: publish(render(AT), stamp)).header)
    node.init(box_at(*AT), target_id, started)
    node.event(TrackEvent.INITIALIZED, target_id, mark)
    for step in range(1, 4):
        place = (AT[0] + 5 * step, AT[1] + step)
        status = show_once(node, node.status, lambda stamp, p=place: publish(render(p), stamp), target_id)
    tracks = next(m for m in node.tracks.since() if m.header == status.header)
    detection = next(d for d in tracks.detections if d.id == target_id)
    assert iou(box_of(detection), box_at(*place)) >= 0.7
    return 4


@pytest.mark.timeout(300)
def test_malformed_inputs_are_counted_one_by_one_and_survived(start_node):
    node = start_node({"qos.image.reliability": "reliable", "max_image_age": MAX_IMAGE_AGE_S})

    def publish(pixels: np.ndarray, stamp: int) -> None:
        node.publish(pixels, stamp=stamp)

    # Images may get lost until both sides know each other.
    node.show(render(AT))
    assert_tracks(node, publish, "survivor")
    before = node.counters()
    newest_ns = stamp_ns(node.status.since()[-1].header)

    sender = Sender(node, np.random.default_rng(SEED), newest_ns)
    kinds = {
        sender.broken_image: 0.40,
        sender.strange_image: 0.05,
        sender.wrongly_stamped_image: 0.15,
        sender.bad_box: 0.22,
        sender.bad_polygon: 0.04,
        sender.bad_roi: 0.04,
        sender.unusable_camera_info: 0.05,
        sender.unknown_cancel: 0.05,
    }
    sent = Counter()
    for index in sender.rng.choice(len(kinds), N_MALFORMED, p=list(kinds.values())):
        kind = list(kinds)[index]
        kind()
        sent[kind.__name__] += 1
    assert len(sent) == len(kinds)
    # Every category has been met.
    assert len(sender.reasons) == 5, sender.reasons
    assert min(sender.expected.values()) >= 10, sender.expected

    # Whatever the clock of the images was, a camera that works goes on from here.
    expected = sender.expected
    expected["time_jumps"] += sender.newest_ns > time.time_ns() + SECOND_NS
    expected["images_received"] += assert_tracks(node, publish, "survivor")
    expected["inits_accepted"] += 1
    after = node.counters()
    counted = {name: after[name] - before[name] for name in after}
    assert {name: counted[name] for name in expected} == dict(expected)
    assert counted["update_failures"] == 0
    taken = ("images_broken", "images_too_old", "images_out_of_order", "images_superseded", "images_answered")
    # The image on which the target starts anew is answered for the old one as well: none is left out.
    assert sum(counted[name] for name in taken) == expected["images_received"]
    assert node.process.alive
    assert "Traceback" not in node.process.output


@pytest.mark.timeout(300)
def test_broken_compressed_images_are_counted_one_by_one_and_survived(start_node):
    node = start_node(
        {"image_transport": "compressed", "qos.image.reliability": "reliable", "max_image_age": MAX_IMAGE_AGE_S},
        compressed=True,
    )

    def publish(pixels: np.ndarray, stamp: int) -> None:
        node.publish(pixels, stamp=stamp)

    node.show(render(AT))
    assert_tracks(node, publish, "survivor")
    before = node.counters()
    rng = np.random.default_rng(SEED)
    jpeg, png = (cv2.imencode(suffix, render(AT))[1].tobytes() for suffix in (".jpg", ".png"))
    # These can be read, and say nothing: one pixel, a line, 16 bits of grey, transparency.
    strange = [
        cv2.imencode(".png", np.full(shape, 200, dtype))[1].tobytes()
        for shape, dtype in (((1, 1), np.uint8), ((1, 300, 3), np.uint8), ((9, 9), np.uint16), ((9, 9, 4), np.uint8))
    ]
    broken = unusable_at_once = 0
    for _ in range(N_COMPRESSED):
        source = [jpeg, png][int(rng.integers(2))]
        data = [
            b"",
            rng.bytes(int(rng.integers(1, 2000))),
            source[: int(rng.integers(1, len(source)))],
            source[:2] + rng.bytes(400),
            bytes(500),
            b"not an image",
            strange[int(rng.integers(len(strange)))],
        ][int(rng.integers(7))]
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
        broken += pixels is None
        mark = node.events.mark
        header = Header(stamp=time_of(node.new_stamp()), frame_id=FRAME_ID)
        node.images.publish(CompressedImage(header=header, format="jpeg", data=data))
        node.settle()
        # The worker takes the image before it looks at boxes, so that after this answer no other can replace it.
        node.init((NAN, 0.0, 40.0, 40.0), "survivor", stamp_ns(header) if data else 0)
        refusal = node.event(TrackEvent.REJECTED, "survivor", mark)
        if data:
            wanted = TrackEvent.IMAGE_INVALID if pixels is None else TrackEvent.BOX_INVALID
            assert refusal.reason == wanted, refusal.text
        else:
            unusable_at_once += 1
    assert min(unusable_at_once, broken - unusable_at_once, N_COMPRESSED - broken) >= 10

    n_good = assert_tracks(node, publish, "survivor")
    after = node.counters()
    counted = {name: after[name] - before[name] for name in after}
    assert counted["images_broken"] == broken
    assert counted["images_received"] == N_COMPRESSED + n_good
    assert counted["images_answered"] == N_COMPRESSED - broken + n_good
    assert counted["inits_rejected"] == N_COMPRESSED
    assert counted["update_failures"] == 0
    assert node.process.alive
    assert "Traceback" not in node.process.output
