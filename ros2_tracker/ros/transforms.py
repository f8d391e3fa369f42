"""Points from one frame to another: through tf2_ros where it is installed, else within one frame only."""

from __future__ import annotations

import time
from typing import Any

from rclpy.node import Node
from rclpy.time import Time

from ros2_tracker.ros.projection import XYZ, Refused, transformed
from ros2_tracker.tracking.events import Reason

try:
    import tf2_ros
except ImportError:  # no package index has it
    tf2_ros = None

_PATIENCE_S = 0.3
"""How long a transform that is still on its way is waited for."""
_POLL_S = 0.02


class Transforms:
    """Listens to /tf and /tf_static while it exists; all in the node's own executor."""

    def __init__(self, node: Node) -> None:
        """Start to listen, where tf2_ros is installed."""
        self._node = node
        self._buffer: Any = None
        self._listener: Any = None
        if tf2_ros is not None:
            # With the node, so that it is emptied when its clock jumps back.
            self._buffer = tf2_ros.Buffer(node=node)
            self._listener = tf2_ros.TransformListener(self._buffer, node)

    def close(self) -> None:
        """Stop listening."""
        if self._listener is not None:
            self._listener.unregister()
            self._node.destroy_service(self._buffer.srv)  # which the buffer made and does not give up
        self._buffer = self._listener = None

    def to_frame(self, target: str, source: str, point: XYZ, stamp_ns: int) -> XYZ:
        """Coordinates in `target` of a point of `source`; waits a moment for the transform, off the executor's thread.

        Args:
            target: frame id; a leading slash, as ROS 1 had it, does not matter.
            source: frame id.
            point: (x, y, z) metres.
            stamp_ns: at which time, nanoseconds.

        Raises:
            Refused: a frame has no name, or there is no transform between them at that time.

        """
        target, source = target.lstrip("/"), source.lstrip("/")
        if not source:
            raise Refused(Reason.BOX_INVALID, "the point's header has no frame_id")
        if not target:
            raise Refused(Reason.BOX_INVALID, "neither the images nor camera_info have a frame_id")
        if source == target:
            return point
        if self._buffer is None:
            raise Refused(
                Reason.BOX_INVALID,
                f"the point is in frame {source[:80]!r}; without tf2_ros (package ros-$ROS_DISTRO-tf2-ros-py) it must "
                f"be in the image's optical frame, {target[:80]!r}",
            )
        transform = self._looked_up(target, source, stamp_ns)
        t, r = transform.translation, transform.rotation
        return transformed((t.x, t.y, t.z), (r.x, r.y, r.z, r.w), point)

    def _looked_up(self, target: str, source: str, stamp_ns: int) -> Any:
        # tf2's own timeout counts ROS time, which a paused simulation stops.
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            buffer = self._buffer
            if buffer is None:
                raise Refused(Reason.NOT_ACTIVE, "the node is being shut down")
            try:
                return buffer.lookup_transform(target, source, Time(nanoseconds=stamp_ns)).transform
            except tf2_ros.TransformException as error:
                if time.monotonic() > deadline:
                    raise Refused(
                        Reason.BOX_INVALID, f"no transform from {source[:80]!r} to {target[:80]!r}: {error!s:.200}"
                    ) from error
            time.sleep(_POLL_S)
