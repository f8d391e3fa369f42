"""The control law: from where the target is to a velocity command. Knows no ROS, so that it can be tested by itself.

Frames are those of REP 103: x forward, y to the left, z up. Azimuth grows to the left and yaw rate turns to the left;
elevation grows upwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from ros2_tracker.tracking.result import TrackState
from ros2_tracker.tracking.settings import require

# Stamps that differ by more between two measurements are a clock that was set, not a slow camera.
_TIME_JUMP_S = 1.0
# A status may be ahead of our clock by the way that /clock takes.
_FUTURE_S = 0.2


def _setting(default: float, low: float, high: float, text: str) -> Any:
    return field(default=default, metadata={"low": low, "high": high, "text": text})


@dataclass(frozen=True, slots=True)
class FollowSettings:
    """Gains and limits; the node's parameters of the same names. ValueError for one out of its range."""

    yaw_gain: float = _setting(1.5, 0.0, 10.0, "1/s; yaw rate for each rad that the target is off to the side")
    climb_gain: float = _setting(0.8, 0.0, 10.0, "1/s; speed across the view for each m off the axis; 0: off")
    forward_gain: float = _setting(0.6, 0.0, 10.0, "1/s; speed along the view for each m too far or too near; 0: off")
    feed_forward: float = _setting(0.8, 0.0, 1.0, "share of the target's own motion across the view that is added")
    distance: float = _setting(10.0, 0.5, 1000.0, "m to keep; with target_size 0 taken for that at the start")
    target_size: float = _setting(
        0.0, 0.0, 1000.0, "m, square root of width times height as the camera sees it; 0: keep the box's first size"
    )
    max_yaw_rate: float = _setting(0.8, 0.0, 10.0, "rad/s, to either side")
    max_climb: float = _setting(0.5, 0.0, 50.0, "m/s, up or down; 0: never")
    max_forward: float = _setting(1.0, 0.0, 50.0, "m/s; 0: never")
    max_backward: float = _setting(0.5, 0.0, 50.0, "m/s; 0: never")
    uncertain_share: float = _setting(0.3, 0.0, 1.0, "of the command that remains while the target is UNCERTAIN")
    ramp_time: float = _setting(1.5, 0.05, 60.0, "s from zero to the full command, at the start and after LOST")
    status_timeout: float = _setting(0.25, 0.05, 5.0, "s without a measured status until the command is zero")
    max_age: float = _setting(0.5, 0.05, 5.0, "s; a status of an older image commands zero")
    lead: float = _setting(0.05, 0.0, 1.0, "s that the target is looked for ahead of now: the way to the motors")
    yaw_response: float = _setting(0.25, 0.0, 5.0, "s, time constant with which the vehicle takes up a yaw rate")
    velocity_response: float = _setting(0.4, 0.0, 5.0, "s, time constant with which it takes up a velocity")

    def __post_init__(self) -> None:
        """Check ranges; ValueError names the setting and its value."""
        for each in fields(self):
            require(each.name, getattr(self, each.name), each.metadata["low"], each.metadata["high"])


class Fault(Enum):
    """Why a status is not followed; the value is the counter's name."""

    NOT_FINITE = "statuses_not_finite"
    BAD_SIZE = "statuses_bad_size"
    BAD_STATE = "statuses_bad_state"
    NO_BEARING = "statuses_without_bearing"
    TIME_JUMP = "time_jumps"
    WRONG_AGE = "statuses_wrong_age"


class BadStatus(ValueError):
    """A status that cannot be followed: command zero. The text names the value."""

    def __init__(self, fault: Fault, text: str) -> None:
        super().__init__(text)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Command:
    """Velocities in the body frame."""

    forward: float = 0.0
    """m/s."""
    climb: float = 0.0
    """m/s, up."""
    yaw_rate: float = 0.0
    """rad/s, to the left."""


STOP = Command()


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one status says, in the body frame."""

    target: tuple[str, int]
    """Id and session: another pair is another target."""
    stamp: float
    """Of the image, s."""
    state: TrackState
    measured: bool = True
    """Whether the network looked at this image; else the motion model spoke."""
    azimuth: float = 0.0
    """rad from straight ahead."""
    elevation: float = 0.0
    """rad from the camera's axis."""
    depression: float = 0.0
    """rad below the horizon."""
    azimuth_rate: float = 0.0
    """rad/s as seen from the vehicle, its own turning included."""
    elevation_rate: float = 0.0
    """rad/s."""
    size: float = 1.0
    """rad, square root of width times height."""


class Follower:
    """The law with what it must remember. One status in, one command out.

    `authority`, in [0, 1], multiplies every command: 0 from LOST until TRACKING, else `uncertain_share` at most while
    UNCERTAIN. It falls at once and rises by 1 / `ramp_time` a second, and only with measurements.
    """

    def __init__(self, settings: FollowSettings) -> None:
        """Stand still until the first sighting. `settings` may be replaced at any time."""
        self.settings = settings
        self.authority = 0.0
        self._target: tuple[str, int] | None = None
        self._measured_s: float | None = None
        self._first_size = 0.0
        self._lost = False
        self._command = STOP
        self._own = STOP
        self._now: float | None = None

    def stop(self) -> Command:
        """Command zero, and begin with a ramp the next time."""
        self.authority = 0.0
        self._command = STOP
        return STOP

    def restart(self) -> Command:
        """As `stop`, and forget the target's clock: stamps may go on from anywhere."""
        self._measured_s = self._now = None
        return self.stop()

    def follow(self, sighting: Sighting, now: float) -> Command:
        """Return the command after a status that arrived at `now`, in s of the clock that stamped the images.

        Raises:
            BadStatus: time jumped, or the image is too old; the caller must publish the zero of `stop` or `restart`.

        """
        settings = self.settings
        other = sighting.target != self._target
        if other:
            self._target, self._first_size, self.authority, self._lost = sighting.target, 0.0, 0.0, False
        # A find after LOST that is UNCERTAIN may be somebody else: nobody flies after that.
        self._lost = sighting.state is TrackState.LOST or (self._lost and sighting.state is not TrackState.TRACKING)
        since_s = self._check_time(sighting, now)
        self._follow_own_motion(now)
        if self._lost:
            return self.stop()
        if other:
            since_s = 0.0
        if self._first_size == 0.0:
            self._first_size = sighting.size
        allowed = 1.0 if sighting.state is TrackState.TRACKING else settings.uncertain_share
        if sighting.measured and since_s > settings.status_timeout:
            self.authority = 0.0  # as the watchdog would have it
        elif sighting.measured:
            self.authority += since_s / settings.ramp_time
        self.authority = min(self.authority, allowed)
        age_s = min(max(now - sighting.stamp, 0.0), settings.max_age)
        wanted = self._wanted(sighting, age_s + settings.lead)
        self._command = Command(
            self.authority * wanted.forward, self.authority * wanted.climb, self.authority * wanted.yaw_rate
        )
        return self._command

    def _check_time(self, sighting: Sighting, now: float) -> float:
        """Seconds of image time since the last measurement."""
        before = self._measured_s if self._measured_s is not None else sighting.stamp
        step_s = sighting.stamp - before
        # The network may answer an image after predictions of newer ones, but never one older than it has measured.
        if not 0.0 <= step_s <= _TIME_JUMP_S:
            raise BadStatus(Fault.TIME_JUMP, f"time jumped by {step_s:+.3f} s to {sighting.stamp:.3f} s")
        age_s = now - sighting.stamp
        if not -_FUTURE_S <= age_s <= self.settings.max_age:
            raise BadStatus(
                Fault.WRONG_AGE,
                f"the image is {age_s:.3f} s old, must be within [{-_FUTURE_S:g}, {self.settings.max_age:g}]: "
                "is use_sim_time the same everywhere, are the clocks synchronised?",
            )
        if sighting.measured:
            self._measured_s = sighting.stamp
        return step_s

    def _follow_own_motion(self, now: float) -> None:
        """What the vehicle must be doing by now, from what it was told."""
        if self._now is not None and now > self._now:
            own, told, settings = self._own, self._command, self.settings
            velocity, yaw = (_taken_up(now - self._now, s) for s in (settings.velocity_response, settings.yaw_response))
            self._own = Command(
                own.forward + velocity * (told.forward - own.forward),
                own.climb + velocity * (told.climb - own.climb),
                own.yaw_rate + yaw * (told.yaw_rate - own.yaw_rate),
            )
        self._now = now

    def _wanted(self, sighting: Sighting, ahead_s: float) -> Command:
        """At full authority, for where the target will be `ahead_s` after its image."""
        settings = self.settings
        azimuth = _wrapped(sighting.azimuth + sighting.azimuth_rate * ahead_s)
        elevation = sighting.elevation + sighting.elevation_rate * ahead_s
        ahead = max(math.cos(azimuth), 0.0)
        cos, sin = math.cos(sighting.depression), math.sin(sighting.depression)
        reference = settings.target_size / settings.distance if settings.target_size > 0.0 else self._first_size
        # A size that is far off is no measure of the range.
        range_m = settings.distance * _within(reference / sighting.size, 0.1, 10.0)
        along = settings.forward_gain * (range_m - settings.distance)
        # Seen from a vehicle that moves with it, a moving target stands still: its own motion is added to what is seen.
        turning = sighting.azimuth_rate + self._own.yaw_rate
        across = range_m * sighting.elevation_rate + self._own.forward * ahead * sin + self._own.climb * cos
        if settings.climb_gain > 0.0:
            across = settings.climb_gain * range_m * elevation + settings.feed_forward * across
        else:
            across = 0.0
        # From along and across the line of sight to the body's axes: one does not disturb the other. It turns before it
        # goes.
        forward, climb = self._scaled(ahead * (along * cos + across * sin), across * cos - along * sin)
        yaw_rate = settings.yaw_gain * azimuth + settings.feed_forward * turning
        return Command(forward, climb, _within(yaw_rate, -settings.max_yaw_rate, settings.max_yaw_rate))

    def _scaled(self, forward: float, climb: float) -> tuple[float, float]:
        """Within the limits, in the same direction unless one of them is 0."""
        settings = self.settings
        if settings.climb_gain == 0.0:
            climb = 0.0
        share = 1.0
        for value, limit in (
            (forward, settings.max_forward if forward > 0.0 else settings.max_backward),
            (climb, settings.max_climb),
        ):
            if 0.0 < limit < abs(value):
                share = min(share, limit / abs(value))
        return (
            _within(share * forward, -settings.max_backward, settings.max_forward),
            _within(share * climb, -settings.max_climb, settings.max_climb),
        )


def _taken_up(elapsed_s: float, response_s: float) -> float:
    """Share of a step that a first-order lag has followed."""
    return 1.0 - math.exp(-elapsed_s / response_s) if response_s > 0.0 else 1.0


def _within(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _wrapped(angle: float) -> float:
    """The same direction in [-pi, pi]."""
    return math.remainder(angle, math.tau)
