"""What goes into a tracking session and what comes out: requests, events, reports, counters."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Protocol

from ros2_tracker.tracking.frame_buffer import StampedFrame
from ros2_tracker.tracking.motion import MotionState
from ros2_tracker.tracking.result import TrackResult, TrackState


class EventType(IntEnum):
    """What happened; the numbers are those of TrackEvent.msg."""

    INITIALIZED = 1
    REJECTED = 2
    UNCERTAIN = 3
    LOST = 4
    RECOVERED = 5
    CANCELLED = 6


class Reason(IntEnum):
    """Why a box was refused, or a target became UNCERTAIN or LOST; the numbers are those of TrackEvent.msg."""

    NONE = 0
    STAMP_TOO_OLD = 1
    STAMP_IN_FUTURE = 2
    BOX_OUTSIDE_IMAGE = 3
    BOX_INVALID = 4
    TOO_MANY_TARGETS = 5
    ID_INVALID = 6
    IMAGE_INVALID = 7
    INTERNAL_ERROR = 8
    NOT_ACTIVE = 9
    OCCLUDED = 20
    OUT_OF_VIEW = 21
    DRIFT = 22
    DISTRACTOR = 23
    BAD_IMAGE = 24


@dataclass(frozen=True, slots=True)
class InitRequest:
    """A box to follow."""

    box: tuple[float, float, float, float]
    """(x, y, w, h) px, top-left origin."""
    target_id: str = ""
    """The target to (re-)initialise; empty: a new one, which gets an id."""
    stamp_ns: int = 0
    """Stamp of the frame it was drawn on; 0: the newest."""
    tag: object = None
    """The caller's own, handed back with a rejection that concerns no frame."""


@dataclass(frozen=True, slots=True)
class TargetEvent:
    """Something happened to a target."""

    type: EventType
    target_id: str
    session: int
    stamp_ns: int
    """Of the frame concerned; of the request when there is none."""
    tag: object
    """Of the frame concerned, or of the request."""
    reason: Reason = Reason.NONE
    text: str = ""
    duration: float = 0.0
    """Seconds; for RECOVERED: how long the target was not TRACKING."""


@dataclass(frozen=True, slots=True)
class TargetReport:
    """One target's answer to one frame."""

    target_id: str
    session: int
    result: TrackResult


@dataclass(frozen=True, slots=True)
class FrameReport:
    """All targets' answers to one frame."""

    source: StampedFrame
    targets: tuple[TargetReport, ...]
    processing_s: float
    """From taking up the frame to this report."""


@dataclass(frozen=True, slots=True)
class TargetPrediction:
    """Where the motion model expects a target in a frame that the network has not looked at."""

    target_id: str
    session: int
    state: TrackState
    reliability: float
    """In [0, 1]: of the last answer, less what the time since then makes of it."""
    estimate: MotionState
    """At the frame's stamp; of a LOST target it says nothing."""


@dataclass(frozen=True, slots=True)
class FramePrediction:
    """All targets in a frame that came while the worker was busy."""

    source: StampedFrame
    targets: tuple[TargetPrediction, ...]
    """At least one."""
    processing_s: float
    """From taking up the frame to this report."""


@dataclass(slots=True)
class Counters:
    """What a session did since it began; diagnostics publish every field under its name."""

    images_received: int = 0
    images_answered: int = 0
    images_superseded: int = 0
    """A newer image came before the worker took this one."""
    images_predicted: int = 0
    """Came while the worker was busy and were answered by the motion model at once; some are measured later."""
    images_too_old: int = 0
    images_out_of_order: int = 0
    """Not newer than the image before."""
    images_in_future: int = 0
    """Answered all the same: the camera's clock is ahead of ours."""
    images_broken: int = 0
    time_jumps: int = 0
    """Stamps that went back by more than a second: the buffer was emptied."""
    inits_accepted: int = 0
    inits_rejected: int = 0
    catch_up_frames: int = 0
    update_failures: int = 0
    cancels_unknown: int = 0
    ego_motion_unknown: int = 0
    """Frames between which the background's motion could not be told."""
    camera_infos_unusable: int = 0
    """From which no bearing follows; each message counts, also when it repeats the last."""

    def as_dict(self) -> dict[str, int]:
        """Name -> value."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


class SessionObserver(Protocol):
    """Who is told: on the worker thread, or on the one that cancels or pushes. Only `on_failure` may come meanwhile."""

    def on_event(self, event: TargetEvent) -> None:
        """Something happened to a target."""
        ...

    def on_report(self, report: FrameReport) -> None:
        """A frame was answered. Keep it short: cancelling waits for it."""
        ...

    def on_prediction(self, prediction: FramePrediction) -> None:
        """A frame that is not taken up at once was answered by the motion model. Keep it short: `push` waits for it."""
        ...

    def on_failure(self, what: str, error: Exception) -> None:
        """A frame could not be used, or an update failed; the session goes on."""
        ...


def change_of_state(name: str, session: int, source: StampedFrame, result: TrackResult) -> TargetEvent | None:
    """The event that a change of state is; None: it has not changed."""
    if result.state is result.previous_state:
        return None
    kind = {
        TrackState.TRACKING: EventType.RECOVERED,
        TrackState.UNCERTAIN: EventType.UNCERTAIN,
        TrackState.LOST: EventType.LOST,
    }[result.state]
    signals = result.signals
    text = (
        f"{result.previous_state.name} -> {result.state.name}: reliability {result.reliability:.2f} "
        f"(peak {signals.peak:.2f}, PSR {signals.psr:.1f}, APCE {signals.apce:.1f}, "
        f"motion {signals.motion_distance:.1f})"
    )
    if result.cause is Reason.BAD_IMAGE and signals.frozen_for > 0.0:
        text += f": the camera has repeated one image for {signals.frozen_for:.1f} s (see reliability.frozen_after)"
    duration = result.not_tracking_for if kind is EventType.RECOVERED else 0.0
    return TargetEvent(kind, name, session, source.stamp_ns, source.tag, result.cause, text, duration)
