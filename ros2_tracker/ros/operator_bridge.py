"""The operator's page as a ROS node: `ros2 run ros2_tracker operator`, a process of its own beside the tracker.

It looks at the camera's images and the tracker's topics and publishes boxes and cancellations; `operator/` serves the
page. Images are subscribed to only while somebody watches.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from enum import IntEnum
from pathlib import Path
from typing import Any

import cv2
import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from rclpy.task import Future
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String
from std_srvs.srv import Trigger
from vision_msgs.msg import Detection2D, Detection2DArray

from ros2_tracker.msg import TrackEvent, TrackStatus
from ros2_tracker.operator.board import Board, Status
from ros2_tracker.operator.chooser import FrameChooser
from ros2_tracker.operator.encoder import Encoder, Picture
from ros2_tracker.operator.link import TrackerAbsentError
from ros2_tracker.operator.server import OperatorServer
from ros2_tracker.operator.settings import OperatorSettings, read_token
from ros2_tracker.ros import boxes, messages, qos
from ros2_tracker.ros.image_view import ImageError, frame_from_compressed, frame_from_image
from ros2_tracker.ros.memory import tune_malloc
from ros2_tracker.ros.parameters import Declared
from ros2_tracker.tracking.events import EventType, Reason
from ros2_tracker.tracking.frame import Frame
from ros2_tracker.tracking.frame_buffer import StampedFrame
from ros2_tracker.tracking.result import TrackState

TOKEN_VARIABLE = "ROS2_TRACKER_OPERATOR_TOKEN"
_D = OperatorSettings()
PARAMETERS: Mapping[str, Declared] = {
    "host": Declared(_D.host, "address to listen on; any but this machine's own needs a token"),
    "port": Declared(_D.port, "port to listen on; 0: a free one", 0, 65535),
    "token_file": Declared("", f"file with the token; empty: the environment's {TOKEN_VARIABLE}, or none"),
    "allowed_hosts": Declared("", "further names that browsers may use for this machine, separated by commas"),
    "max_rate": Declared(_D.max_rate, "Hz, upper bound of the images shown", 0.1, 120.0),
    "max_width": Declared(_D.max_width, "px, upper bound of their width", 64, 7680),
    "jpeg_quality": Declared(_D.jpeg_quality, "of the images shown", 5, 100),
    "max_clients": Declared(_D.max_clients, "browsers at once", 1, 1000),
    "client_timeout": Declared(_D.client_timeout, "s until a browser that takes nothing in is dropped", 3.0, 3600.0),
    "tracker": Declared("tracker", "name of the tracker's node, relative to this one's namespace"),
    "image_transport": Declared("raw", "raw: image; compressed: image/compressed", choices=("raw", "compressed")),
}
# For the tracker to be found, and to answer; shorter than the shortest `client_timeout`, see `TrackerLink`.
_COMMAND_TIMEOUT_S = 2.0
_LOOK_PERIOD_S = 0.02
_LOG_PERIOD_S = 5.0
_OLD_EVENT_S = 5.0
# Where the processor is short, the tracker goes first: this gets a tenth as much, enough for a cancellation.
_NICENESS = 10


def _best_effort(depth: int) -> QoSProfile:
    """So that the tracker's publishers never wait for us, nor send again."""
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT)


class OperatorNode(Node):
    """Between the ROS topics and the page; a `TrackerLink` for the server."""

    def __init__(self) -> None:
        """Subscribe and begin to serve.

        Raises:
            ValueError, ParameterException: a parameter is not valid.
            OSError: the address cannot be listened on.

        """
        super().__init__("operator")
        for name, declared in PARAMETERS.items():
            self.declare_parameter(name, declared.default, declared.descriptor())
        values = {name: d.checked(name, self.get_parameter(name).value) for name, d in PARAMETERS.items()}
        self._settings = _settings(values)
        self._compressed = values["image_transport"] == "compressed"
        self._images: Subscription | None = None
        self._watched = False
        self._watch_changed = self.create_guard_condition(self._follow_watch)
        self._board = Board()
        self._chooser = FrameChooser(self._settings.max_rate)

        tracker = str(values["tracker"])
        self._inits = self.create_publisher(Detection2D, f"{tracker}/init", qos.COMMAND)
        self._cancels = self.create_publisher(String, f"{tracker}/cancel_target", qos.COMMAND)
        self._cancel_all = self.create_client(Trigger, f"{tracker}/cancel")
        self.create_subscription(Detection2DArray, f"{tracker}/tracks", self._on_tracks, _best_effort(5))
        self.create_subscription(TrackStatus, f"{tracker}/status", self._on_status, _best_effort(64))
        self.create_subscription(TrackEvent, f"{tracker}/events", self._on_event, qos.EVENT)

        self._server = OperatorServer(self._settings, self._board, self)
        self._server.start()
        self._encoder = Encoder(
            self._chooser,
            self._settings.max_width,
            self._settings.jpeg_quality,
            self._on_picture,
            self._on_image_failure,
        )
        self.get_logger().info(f"serving {self._address()}")

    def close(self) -> None:
        """End the threads and the connections."""
        self._encoder.stop()
        self._server.stop()

    def _address(self) -> str:
        host = self._settings.host
        host = f"[{host}]" if ":" in host else host
        where = f"http://{host}:{self._server.port}/"
        if self._settings.token:
            # Never the token itself.
            return f"{where}?token=… (the first time; then the browser remembers it)"
        return f"{where} for browsers on this machine only"

    # -- from ROS -----------------------------------------------------------------------------------------------

    def _follow_watch(self) -> None:
        """Subscribe to images, or no longer."""
        watched = self._watched
        if watched and self._images is None:
            topic, kind, callback = self.resolve_topic_name("image"), Image, self._on_image
            if self._compressed:
                topic, kind, callback = f"{topic}/compressed", CompressedImage, self._on_compressed_image
            self._images = self.create_subscription(kind, topic, callback, qos.image_qos("best_effort"))
        elif not watched and self._images is not None:
            self.destroy_subscription(self._images)
            self._images = None
            self._chooser.clear()

    def _on_image(self, msg: Image) -> None:
        try:
            self._push(frame_from_image(msg), len(msg.data), msg.header)
        except ImageError as error:
            self._on_image_failure(error)

    def _on_compressed_image(self, msg: CompressedImage) -> None:
        try:
            self._push(frame_from_compressed(msg), len(msg.data), msg.header)
        except ImageError as error:
            self._on_image_failure(error)

    def _push(self, frame: Frame, n_bytes: int, header: Header) -> None:
        now_s = time.monotonic()
        self._board.on_image(now_s)
        self._chooser.push(StampedFrame(messages.stamp_ns(header.stamp), frame, n_bytes, header), now_s)

    def _on_tracks(self, msg: Detection2DArray) -> None:
        now_s, stamp_ns = time.monotonic(), messages.stamp_ns(msg.header.stamp)
        latency_s = (self.get_clock().now().nanoseconds - stamp_ns) / 1e9
        if self._board.on_tracks(stamp_ns, len(msg.detections), latency_s, now_s):
            self._chooser.answered(stamp_ns, now_s)

    def _on_status(self, msg: TrackStatus) -> None:
        now_s, stamp_ns = time.monotonic(), messages.stamp_ns(msg.header.stamp)
        x, y, w, h = (float(value) for value in msg.box)
        status = Status(
            target_id=msg.id,
            stamp_ns=stamp_ns,
            state=_name(TrackState, msg.state),
            reliability=msg.reliability if math.isfinite(msg.reliability) else 0.0,
            predicted=msg.predicted,
            calibrated=msg.reliability_calibrated,
            box=(x - w / 2, y - h / 2, w, h) if all(map(math.isfinite, (x, y, w, h))) else None,
        )
        if self._board.on_status(status, now_s):
            self._chooser.answered(stamp_ns, now_s)

    def _on_event(self, msg: TrackEvent) -> None:
        now_s, stamp_ns = time.monotonic(), messages.stamp_ns(msg.header.stamp)
        age_s = (self.get_clock().now().nanoseconds - stamp_ns) / 1e9
        if stamp_ns and _OLD_EVENT_S < age_s < now_s:
            now_s -= age_s  # of before we came
        event = {
            "kind": _name(EventType, msg.type),
            "id": msg.id,
            "stamp": str(stamp_ns),
            "reason": _name(Reason, msg.reason),
            "text": msg.text,
        }
        self._server.tell(self._board.on_event(event, now_s))

    # -- from the encoder's thread --------------------------------------------------------------------------------

    def _on_picture(self, picture: Picture) -> None:
        self._server.show(picture)

    def _on_image_failure(self, error: Exception) -> None:
        self._board.count("images_broken")
        self.get_logger().warning(f"image not shown: {error!s:.300}", throttle_duration_sec=_LOG_PERIOD_S)

    # -- TrackerLink, from the server's thread --------------------------------------------------------------------

    async def follow(self, box: boxes.XYWH, target_id: str, tag: object) -> None:
        """See `TrackerLink.follow`; the tag is the image's header."""
        # Images may come before ROS has found the tracker: a box drawn on the very first ones counts as well.
        if not await _soon(self._inits.get_subscription_count):
            raise TrackerAbsentError(f"nobody listens on {self._inits.topic_name}: is the tracker running?")
        assert isinstance(tag, Header)  # `_push` put it there
        self._inits.publish(boxes.detection(box, target_id, 1.0, tag))

    async def cancel(self, target_id: str) -> None:
        """See `TrackerLink.cancel`."""
        if not await _soon(self._cancels.get_subscription_count):
            raise TrackerAbsentError(f"nobody listens on {self._cancels.topic_name}: is the tracker running?")
        self._cancels.publish(String(data=target_id))

    async def cancel_all(self) -> str:
        """See `TrackerLink.cancel_all`."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + _COMMAND_TIMEOUT_S
        if not await _soon(self._cancel_all.service_is_ready):
            raise TrackerAbsentError(f"nobody serves {self._cancel_all.srv_name}: is the tracker running?")
        answered: asyncio.Future[str] = loop.create_future()

        def hand_over(future: Future) -> None:
            answer = future.result()
            loop.call_soon_threadsafe(lambda: answered.done() or answered.set_result(answer.message))

        request = self._cancel_all.call_async(Trigger.Request())
        request.add_done_callback(hand_over)
        try:
            return await asyncio.wait_for(answered, max(deadline_s - loop.time(), 0.0))
        except asyncio.TimeoutError:
            self._cancel_all.remove_pending_request(request)
            text = f"no answer of {self._cancel_all.srv_name} within {_COMMAND_TIMEOUT_S:g} s"
            raise TrackerAbsentError(text) from None

    def watch(self, watching: bool) -> None:
        """See `TrackerLink.watch`; topics are for the executor's thread."""
        self._watched = watching
        self._watch_changed.trigger()

    def notice(self, text: str) -> None:
        """See `TrackerLink.notice`."""
        self.get_logger().warning(text, throttle_duration_sec=1.0)


async def _soon(fulfilled: Callable[[], int | bool]) -> bool:
    """Whether it is fulfilled within `_COMMAND_TIMEOUT_S`."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + _COMMAND_TIMEOUT_S
    while not (done := bool(fulfilled())) and loop.time() < deadline_s:
        await asyncio.sleep(_LOOK_PERIOD_S)
    return done


def _settings(values: Mapping[str, Any]) -> OperatorSettings:
    names = {f.name for f in fields(OperatorSettings)}
    chosen = {name: value for name, value in values.items() if name in names}
    chosen["allowed_hosts"] = tuple(name for name in str(values["allowed_hosts"]).replace(" ", "").split(",") if name)
    # Not a parameter: any node could read those, and `ps` shows them.
    file = str(values["token_file"])
    chosen["token"] = read_token(Path(file).expanduser()) if file else os.environ.get(TOKEN_VARIABLE, "")
    return OperatorSettings(**chosen)


def _name(kind: type[IntEnum], value: int) -> str:
    """The name of a number in a message; the number where a newer tracker knows more of them."""
    try:
        return kind(value).name
    except ValueError:
        return str(value)


def _give_way() -> None:
    """Leave the processor to the tracker where both want it; for all threads of the process, before they start."""
    os.nice(_NICENESS)
    # A thread that wakes up then waits for its turn instead of pushing out another's.
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    cv2.setNumThreads(1)


def main(args: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; exit status 1 when a parameter is not valid or the address cannot be had."""
    _give_way()
    tune_malloc()
    initialised = False
    try:
        rclpy.init(args=None if args is None else list(args))
        initialised = True
        node = OperatorNode()
    except (ValueError, ParameterException, OSError, RuntimeError) as error:
        # A signal meanwhile shuts ROS down under the node, and whatever it makes next fails.
        if initialised and not rclpy.ok():
            return 0
        print(f"operator: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        # Ctrl-C under `ros2 launch` comes twice, from the terminal and from launch.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        node.close()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
        # That put Python's own handler back.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return 0


if __name__ == "__main__":
    sys.exit(main())
