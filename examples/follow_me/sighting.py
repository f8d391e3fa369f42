"""From a TrackStatus message to what the control law wants to know. Reads attributes only, so it needs no ROS."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ros2_tracker.tracking.result import TrackState

from .control import BadStatus, Fault, Sighting

Vector = tuple[float, float, float]

# Nearer to the image plane than this (cosine of the angle to the axis), pixels say little about angular velocity.
_LEAST_DEPTH = 0.1
_UNIT_TOLERANCE = 1e-2


@dataclass(frozen=True, slots=True)
class Camera:
    """What is known of the camera; ValueError unless its focal lengths are positive and its angles finite."""

    fx: float
    """px."""
    fy: float
    """px."""
    pitch: float = 0.0
    """rad that it looks down, fixed to the body (REP 103: about the axis to the left)."""
    yaw: float = 0.0
    """rad that it looks to the left."""

    def __post_init__(self) -> None:
        """Check."""
        if not (0.0 < self.fx < math.inf and 0.0 < self.fy < math.inf):
            raise ValueError(f"camera_info has focal lengths {self.fx:g} and {self.fy:g} px, must be positive")
        if not (math.isfinite(self.pitch) and math.isfinite(self.yaw)):
            raise ValueError(f"the camera's angles are {self.pitch:g} and {self.yaw:g} rad, must be finite")

    @classmethod
    def from_info(cls, info: Any, pitch: float = 0.0, yaw: float = 0.0) -> Camera:
        """Of a `sensor_msgs/CameraInfo`; its images must have the size that it says."""
        return cls(
            float(info.k[0]) / max(info.binning_x, 1), float(info.k[4]) / max(info.binning_y, 1), pitch, yaw
        )

    def level(self, optical: Vector) -> Vector:
        """A vector of the optical frame (x right, y down, z forward) in a frame of the body's height and left."""
        forward, left, up = optical[2], -optical[0], -optical[1]
        cos, sin = math.cos(self.pitch), math.sin(self.pitch)
        forward, up = cos * forward + sin * up, cos * up - sin * forward
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        return (cos * forward - sin * left, sin * forward + cos * left, up)


def sighting_of(status: Any, camera: Camera | None) -> Sighting:
    """Read a `ros2_tracker/TrackStatus`.

    Raises:
        BadStatus: it cannot be followed; of a LOST target only the stamp is looked at.

    """
    target = (str(status.id), int(status.session))
    stamp = status.header.stamp.sec + status.header.stamp.nanosec / 1e9
    try:
        state = TrackState(status.state)
    except ValueError:
        raise BadStatus(Fault.BAD_STATE, f"state is {status.state}, must be 1, 2 or 3") from None
    if state is TrackState.LOST:
        return Sighting(target, stamp, state, measured=not status.predicted)
    if camera is None or not status.bearing_valid:
        raise BadStatus(Fault.NO_BEARING, "the status has no bearing: do tracker and follow_me get a camera_info?")
    bearing = (float(status.bearing.x), float(status.bearing.y), float(status.bearing.z))
    velocity = [float(v) for v in status.velocity]
    box = [float(v) for v in status.box]
    for name, values in (("bearing", bearing), ("velocity", velocity), ("box", box)):
        if not all(map(math.isfinite, values)):
            raise BadStatus(Fault.NOT_FINITE, f"{name} is {values}")
    if abs(math.hypot(*bearing) - 1.0) > _UNIT_TOLERANCE:
        raise BadStatus(Fault.NO_BEARING, f"bearing is {bearing}, must have length 1")
    width, height = box[2:]
    if not (width > 0.0 and height > 0.0):
        raise BadStatus(Fault.BAD_SIZE, f"the box is {width:g} x {height:g} px")
    direction = camera.level(bearing)
    moving = (0.0, 0.0, 0.0)
    if bearing[2] > _LEAST_DEPTH:
        # Of the point at the bearing's depth; distortion is left out, it changes speeds by a few percent.
        moving = camera.level((velocity[0] / camera.fx * bearing[2], velocity[1] / camera.fy * bearing[2], 0.0))
    azimuth, elevation, azimuth_rate, elevation_rate = _angles(direction, moving)
    return Sighting(
        target,
        stamp,
        state,
        measured=not status.predicted,
        azimuth=azimuth,
        elevation=elevation + camera.pitch,
        depression=-elevation,
        azimuth_rate=azimuth_rate,
        elevation_rate=elevation_rate,
        size=math.sqrt(width / camera.fx * (height / camera.fy)),
    )


def _angles(direction: Vector, moving: Vector) -> tuple[float, float, float, float]:
    """Azimuth and elevation of a direction, rad, and how fast they change when it does by `moving` a second."""
    x, y, z = direction
    dx, dy, dz = moving
    # Straight up or down there is no azimuth: it counts as ahead.
    flat = max(math.hypot(x, y), 1e-6)
    flat_rate = (x * dx + y * dy) / flat
    elevation_rate = (flat * dz - z * flat_rate) / (flat * flat + z * z)
    return math.atan2(y, x), math.atan2(z, flat), (x * dy - y * dx) / (flat * flat), elevation_rate
