"""A thread for selections that are no boxes yet: it makes them boxes, while images and other messages go on."""

from __future__ import annotations

import os
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from rclpy.node import Node

from ros2_tracker.ros.boxes import XYWH
from ros2_tracker.ros.init_requests import NO_BOX, InitRequests
from ros2_tracker.ros.projection import Refused
from ros2_tracker.tracking.events import InitRequest, Reason
from ros2_tracker.tracking.frame import FrameError
from ros2_tracker.tracking.frame_buffer import NANOSECONDS, StampedFrame

MakeBox = Callable[[StampedFrame], XYWH]
"""A box in px, from the newest image under the stamp of the one that the selection is about; raises Refused."""

_MAX_WAITING = 8
_MAX_STAMPS = 10_000
_NICENESS = 10


class BoxMaker:
    """Knows the images' stamps, and turns selections into requests one after another.

    `see`, `later`, `cancel` and `stop` are called on the executor's thread.
    """

    def __init__(self, node: Node, requests: InitRequests) -> None:
        """No image yet; the thread begins with the first selection."""
        self._node = node
        self._requests = requests
        self._newest: StampedFrame | None = None
        self._stamps: deque[int] = deque(maxlen=_MAX_STAMPS)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="boxes", initializer=_give_way)
        self._lock = threading.Lock()
        self._waiting = 0
        self._cancellations = 0

    def see(self, frame: StampedFrame) -> None:
        """Take note of an image that the session has taken; costs microseconds."""
        if self._stamps and frame.stamp_ns < self._stamps[-1]:
            self._stamps.clear()  # time jumped back
        self._stamps.append(frame.stamp_ns)
        self._newest = frame

    def later(self, request: InitRequest, make_box: MakeBox, kept_s: float) -> bool:
        """Make a box of a selection on the thread, then ask for it; False if it was refused at once.

        Args:
            request: without its box; its stamp says which image it is about.
            make_box: called on the thread.
            kept_s: how long the session keeps images.

        """
        try:
            source = self._image_of(request.stamp_ns, kept_s)
            if self._waiting >= _MAX_WAITING:
                raise Refused(Reason.TOO_MANY_TARGETS, f"{_MAX_WAITING} points or clicks wait already")
        except Refused as refusal:
            self._requests.refuse(request, refusal.reason, str(refusal))
            return False
        with self._lock:
            self._waiting += 1
            cancellations = self._cancellations
        self._pool.submit(self._work, request, source, make_box, cancellations)
        return True

    def cancel(self) -> None:
        """Drop what is no box yet; once this has returned, none of it will be."""
        with self._lock:
            self._cancellations += 1

    def forget(self) -> None:
        """As the session ends: drop what waits, and the images."""
        self.cancel()
        self._newest = None
        self._stamps.clear()

    def stop(self) -> None:
        """End the thread; returns when it has."""
        self.forget()
        self._pool.shutdown(wait=True)

    def _work(self, request: InitRequest, source: StampedFrame, make_box: MakeBox, cancellations: int) -> None:
        box, refusal = NO_BOX, None
        try:
            if cancellations == self._cancellations:
                box = make_box(source)
        except Refused as error:
            refusal = error
        except FrameError as error:
            refusal = Refused(Reason.IMAGE_INVALID, str(error))
        except Exception as error:  # a bug must not end the thread; the requester is told
            self._node.get_logger().error(f"making a box failed: {error!r}")
            refusal = Refused(Reason.INTERNAL_ERROR, repr(error))
        with self._lock:
            self._waiting -= 1
            if cancellations != self._cancellations:
                self._requests.cancelled(request)
            elif refusal is not None:
                self._requests.refuse(request, refusal.reason, str(refusal))
            else:
                self._requests.request(InitRequest(box, request.target_id, source.stamp_ns, request.tag))

    def _image_of(self, stamp_ns: int, kept_s: float) -> StampedFrame:
        """The newest image, under the stamp of the one that a selection with this stamp is about: the nearest.

        A stamp after the newest image's means that one: whoever clicked has seen no later one. (RViz stamps with the
        computer's clock, also in simulations.)
        """
        if self._requests.session is None:
            raise Refused(Reason.NOT_ACTIVE, "the node is not active")
        newest = self._newest
        if newest is None:
            raise Refused(Reason.IMAGE_INVALID, "no image has come yet")
        if stamp_ns == 0 or stamp_ns >= newest.stamp_ns:
            return newest
        behind_s = (newest.stamp_ns - stamp_ns) / NANOSECONDS
        if behind_s > kept_s:
            raise Refused(
                Reason.STAMP_TOO_OLD,
                f"the selection is {behind_s:.3f} s older than the newest image, but images are kept for {kept_s:g} s "
                "(frame_buffer_duration); is the clock of the computer where it was made right?",
            )
        after = bisect_left(self._stamps, stamp_ns)
        near = list(self._stamps)[max(after - 1, 0) : after + 1]
        nearest = min(near, key=lambda stamp: abs(stamp - stamp_ns))
        return StampedFrame(nearest, newest.frame, newest.n_bytes, newest.tag)


def _give_way() -> None:
    """Leave the processor to images where both want it; on Linux a thread has a priority of its own."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
