"""What camera_info says: the newest calibration, and why there is none."""

from __future__ import annotations

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo

from ros2_tracker.ros.bearing import BearingModel, why_no_bearing
from ros2_tracker.tracking.events import Counters

_LOG_PERIOD_S = 5.0


class Calibration:
    """The camera's geometry as it was last told."""

    def __init__(self, node: Node, counters: Counters) -> None:
        """Nothing known yet."""
        self.model: BearingModel | None = None
        self.missing: str | None = "no camera_info has come yet"
        """Why there is no model; None where there is one."""
        self.frame_id = ""
        """Of the camera_info, for images that name no frame."""
        self._node = node
        self._counters = counters
        self._key: tuple[object, ...] = ()

    def take(self, msg: CameraInfo) -> None:
        """Use this message from now on; as fast as a camera sends them."""
        self.frame_id = msg.header.frame_id
        roi = msg.roi
        key = (
            msg.width, msg.height, msg.distortion_model, bytes(msg.k), tuple(msg.d), msg.binning_x, msg.binning_y,
            roi.x_offset, roi.y_offset, roi.width, roi.height,
        )  # fmt: skip
        if key != self._key:
            self._key = key
            self.model = BearingModel.from_camera_info(msg)
            self.missing = why_no_bearing(msg)
            if self.model is None:
                self._node.get_logger().warning(f"no bearing: {self.missing}", throttle_duration_sec=_LOG_PERIOD_S)
        if self.model is None:
            self._counters.camera_infos_unusable += 1
