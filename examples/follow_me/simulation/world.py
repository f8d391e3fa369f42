"""What moves and where: a person to follow, a look-alike, a roof over the path, and the vehicle with the camera.

World coordinates are metres: x and y on the ground, z up. All of a scenario follows from its seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

PERSON = (0.56, 1.76)
"""Width and height of both people, m."""
ROOF_HEIGHT = 2.6
"""Over the path, m."""
STEPS_HZ = 1.8
"""Of a walk."""
MEETINGS = ("open", "hidden")
"""When the look-alike is near: it overtakes on the open path; or before the roof, and then it is the only person in the
picture while the target is hidden."""
DISTANCE_M = 12.0
LAW = {
    "distance": DISTANCE_M,
    "max_forward": 4.0,
    "max_backward": 2.0,
    "max_climb": 2.5,
    "climb_gain": 1.2,
    "ramp_time": 0.7,
}
"""Parameters of follow_me for this vehicle, beside the defaults."""
_LANE = 1.1
_PATH_STEP_S = 1.0 / 30.0
# The path reaches beyond the run: the look-alike comes from behind and goes ahead.
_BEFORE_S, _AFTER_S = 15.0, 25.0


@dataclass(frozen=True, slots=True)
class Place:
    """Somewhere on the ground, and which way it points."""

    x: float
    y: float
    heading: float
    """rad from the x axis to the left."""


@dataclass(frozen=True, slots=True, eq=False)
class Scenario:
    """One seeded run: the paths of both people and the roof."""

    seed: int
    duration: float
    """s."""
    meeting: str
    """One of `MEETINGS`."""
    likeness: float
    """How much the look-alike's clothes are the target's, from 0 (not at all) to 1 (the same)."""
    roof: Place
    """Its middle; it points along the path below."""
    roof_size: tuple[float, float]
    """m along the path, and across."""
    hidden_about_s: float
    """When the target is hidden by the roof, more or less."""
    _path: NDArray[np.float64] = field(repr=False)
    """(N, 3) x, y, heading at `_PATH_STEP_S`, from -_BEFORE_S."""

    @classmethod
    def make(cls, seed: int, duration: float, meeting: str = "open", likeness: float = 0.25) -> Scenario:
        """Path, speeds and the time of the occlusion; ValueError naming the argument that is not valid."""
        if meeting not in MEETINGS:
            raise ValueError(f"meeting is {meeting!r}, must be one of {', '.join(MEETINGS)}")
        if not 0.0 <= likeness <= 1.0:
            raise ValueError(f"likeness is {likeness!r}, must be within [0, 1]")
        if not 12.0 <= duration <= 600.0:
            raise ValueError(f"duration is {duration!r} s, must be within [12, 600]")
        rng = np.random.default_rng(seed)
        t = np.arange(-_BEFORE_S, duration + _AFTER_S, _PATH_STEP_S)
        heading = np.zeros_like(t)
        speed = np.full_like(t, rng.uniform(1.35, 1.65))
        for amplitude, period in ((0.45, rng.uniform(26, 38)), (0.15, rng.uniform(11, 15))):
            heading += amplitude * np.sin(math.tau * t / period + rng.uniform(0, math.tau))
            speed += 0.25 * amplitude * np.sin(math.tau * t / (0.7 * period) + rng.uniform(0, math.tau))
        x = np.cumsum(speed * np.cos(heading)) * _PATH_STEP_S
        y = np.cumsum(speed * np.sin(heading)) * _PATH_STEP_S
        path = np.stack([x, y, heading], axis=1)
        hidden_about_s = 0.45 * duration + rng.uniform(-2.0, 2.0)
        hidden_s = rng.uniform(1.2, 2.0)
        index = round((hidden_about_s + _BEFORE_S) / _PATH_STEP_S)
        # Seen at an angle, the roof hides what is behind it, and first the head, then the feet.
        slope = math.tan(Pinhole().pitch)
        along = speed[index] * hidden_s + PERSON[1] / slope
        behind = (ROOF_HEIGHT - PERSON[1] / 2.0) / slope
        x, y, heading = path[index]
        roof = Place(x - behind * math.cos(heading), y - behind * math.sin(heading), heading)
        return cls(seed, duration, meeting, likeness, roof, (float(along), 9.0), float(hidden_about_s), path)

    def _on_path(self, t: float, aside: float = 0.0) -> Place:
        at = (t + _BEFORE_S) / _PATH_STEP_S
        low = min(max(int(at), 0), len(self._path) - 2)
        x, y, heading = self._path[low] + min(max(at - low, 0.0), 1.0) * (self._path[low + 1] - self._path[low])
        return Place(x - aside * math.sin(heading), y + aside * math.cos(heading), heading)

    def target(self, t: float) -> Place:
        """Where the person to follow is."""
        return self._on_path(t)

    def look_alike(self, t: float) -> Place:
        """Comes from behind on the other side, overtakes, waits until the target has passed."""
        overtaking_s, waiting_s = 0.72 * self.duration, 0.72 * self.duration + 12.0
        if self.meeting == "hidden":
            overtaking_s, waiting_s = 0.3 * self.duration, self.hidden_about_s + 5.0
        ahead = -7.0 + 10.0 * _eased((t - overtaking_s + 6.0) / 12.0)
        return self._on_path(min(t + ahead, waiting_s), _LANE)

    def road(self) -> NDArray[np.float64]:
        """(N, 2) points along the path, m."""
        return self._path[::10, :2]


def _eased(share: float) -> float:
    share = min(max(share, 0.0), 1.0)
    return share * share * (3.0 - 2.0 * share)


@dataclass(frozen=True, slots=True)
class Vehicle:
    """A multicopter with a camera that a gimbal holds level: velocities follow commands with first-order lags."""

    x: float
    y: float
    z: float
    yaw: float
    forward: float = 0.0
    """m/s."""
    climb: float = 0.0
    """m/s."""
    yaw_rate: float = 0.0
    """rad/s."""

    VELOCITY_RESPONSE_S = 0.4
    YAW_RESPONSE_S = 0.2
    LOWEST_M = 3.5

    def after(self, forward: float, climb: float, yaw_rate: float, t: float, dt: float) -> Vehicle:
        """`dt` seconds later under a command; a light wind, which depends on the time, pushes it about."""
        velocity_share = 1.0 - math.exp(-dt / self.VELOCITY_RESPONSE_S)
        yaw_share = 1.0 - math.exp(-dt / self.YAW_RESPONSE_S)
        v = self.forward + velocity_share * (forward - self.forward)
        vz = self.climb + velocity_share * (climb - self.climb)
        r = self.yaw_rate + yaw_share * (yaw_rate - self.yaw_rate)
        yaw = self.yaw + r * dt
        gust_x, gust_y = 0.12 * math.sin(0.9 * t), 0.12 * math.sin(1.3 * t + 1.0)
        return Vehicle(
            x=self.x + (v * math.cos(yaw) + gust_x) * dt,
            y=self.y + (v * math.sin(yaw) + gust_y) * dt,
            z=max(self.z + (vz + 0.05 * math.sin(0.7 * t)) * dt, self.LOWEST_M),
            yaw=yaw,
            forward=v,
            climb=vz,
            yaw_rate=r,
        )


@dataclass(frozen=True, slots=True)
class Pinhole:
    """The camera: size px, focal length px, and how far it looks down, rad."""

    width: int = 640
    height: int = 480
    focal: float = 560.0
    pitch: float = math.radians(40.0)

    def matrix(self) -> NDArray[np.float64]:
        """K, with pixel centres at whole numbers, as OpenCV and camera_info have it."""
        return np.array(
            [
                [self.focal, 0.0, (self.width - 1) / 2.0],
                [0.0, self.focal, (self.height - 1) / 2.0],
                [0.0, 0.0, 1.0],
            ]
        )

    def axes(self, vehicle: Vehicle) -> NDArray[np.float64]:
        """(3, 3): right, down and forward in the world, as rows."""
        cos, sin = math.cos(vehicle.yaw), math.sin(vehicle.yaw)
        forward = np.array(
            [cos * math.cos(self.pitch), sin * math.cos(self.pitch), -math.sin(self.pitch)]
        )
        right = np.array([sin, -cos, 0.0])
        return np.stack([right, np.cross(forward, right), forward])

    def plane_to_image(self, vehicle: Vehicle, height: float = 0.0) -> NDArray[np.float64]:
        """(3, 3) homography from (x, y, 1) m on the plane z = height to pixels."""
        axes = self.axes(vehicle)
        offset = axes @ np.array([-vehicle.x, -vehicle.y, height - vehicle.z])
        return self.matrix() @ np.column_stack([axes[:, 0], axes[:, 1], offset])

    def upright_to_image(self, vehicle: Vehicle, place: Place) -> NDArray[np.float64]:
        """(3, 3) homography from (m to the right, m up, 1) on an upright plane that faces the camera to pixels."""
        axes = self.axes(vehicle)
        dx, dy = place.x - vehicle.x, place.y - vehicle.y
        right = np.array([dy, -dx, 0.0]) / max(math.hypot(dx, dy), 1e-6)
        offset = axes @ np.array([dx, dy, -vehicle.z])
        return self.matrix() @ np.column_stack([axes @ right, axes[:, 2], offset])

    def start(self, target: Place, distance: float) -> Vehicle:
        """A vehicle behind the target that has it in the middle of its image."""
        back, up = distance * math.cos(self.pitch), distance * math.sin(self.pitch)
        return Vehicle(
            target.x - back * math.cos(target.heading),
            target.y - back * math.sin(target.heading),
            up + PERSON[1] / 2.0,
            target.heading,
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """A person as the camera sees it."""

    box: tuple[float, float, float, float]
    """x, y, w, h px of all of it, hidden or not; (0, 0) is the outer corner of the first pixel."""
    visible: float
    """Share of it that is in the image and not behind the roof."""


def see(person: Place, vehicle: Vehicle, camera: Pinhole, scenario: Scenario) -> Seen | None:
    """Where a person is in the image; None when any of it is behind the camera."""
    projected = _OUTLINE @ camera.upright_to_image(vehicle, person).T
    if (projected[:, 2] <= 0.1).any():
        return None
    uv = projected[:, :2] / projected[:, 2:]
    inside = ((uv >= 0.0) & (uv <= (camera.width - 1, camera.height - 1))).all(axis=1)
    to_roof = np.linalg.inv(camera.plane_to_image(vehicle, ROOF_HEIGHT))
    on_roof = np.column_stack([uv, np.ones(len(uv))]) @ to_roof.T
    local = unplaced(scenario.roof, on_roof[:, :2] / on_roof[:, 2:])
    hidden = (np.abs(local) <= np.array(scenario.roof_size) / 2.0).all(axis=1)
    (left, top), (right, bottom) = uv.min(axis=0).tolist(), uv.max(axis=0).tolist()
    return Seen((left + 0.5, top + 0.5, right - left, bottom - top), float((inside & ~hidden).mean()))


def _outline() -> NDArray[np.float64]:
    """(N, 3) points all over a person: m to the right, m up, 1."""
    aside, up = np.meshgrid(np.linspace(-0.5, 0.5, 5) * PERSON[0], np.linspace(0.0, 1.0, 12) * PERSON[1])
    return np.stack([aside.ravel(), up.ravel(), np.ones(aside.size)], axis=1)


_OUTLINE = _outline()


def placed(place: Place, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 2) points given from a place (ahead, left) in the world."""
    cos, sin = math.cos(place.heading), math.sin(place.heading)
    return points @ np.array([[cos, sin], [-sin, cos]]) + (place.x, place.y)


def unplaced(place: Place, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The reverse of `placed`."""
    cos, sin = math.cos(place.heading), math.sin(place.heading)
    return (points - (place.x, place.y)) @ np.array([[cos, -sin], [sin, cos]])
