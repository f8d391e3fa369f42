"""Reports and events of a tracking session as messages."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Vector3
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray

from ros2_tracker.msg import TrackEvent, TrackStatus
from ros2_tracker.ros.boxes import detection
from ros2_tracker.tracking import motion
from ros2_tracker.tracking.events import FramePrediction, FrameReport, TargetEvent, TargetPrediction, TargetReport
from ros2_tracker.tracking.frame_buffer import NANOSECONDS
from ros2_tracker.tracking.result import ReliabilitySignals, TrackState
from ros2_tracker.tracking.settings import MotionSettings

_NO_BOX = [math.nan] * 4
_SIGNALS = tuple(f.name for f in fields(ReliabilitySignals))
"""Fields of TrackStatus under the same names."""


def stamp_ns(stamp: Time) -> int:
    """Nanoseconds of a message's time."""
    return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)


def time_message(nanoseconds: int) -> Time:
    """A message's time from nanoseconds."""
    seconds, rest = divmod(nanoseconds, NANOSECONDS)
    return Time(sec=seconds, nanosec=rest)


def tracks_message(report: FrameReport, header: Header) -> Detection2DArray:
    """One Detection2D for every target that is not LOST, under the image's header."""
    array = Detection2DArray(header=header)
    array.detections = [
        detection(t.result.box, t.target_id, t.result.reliability, header)
        for t in report.targets
        if t.result.box is not None
    ]
    return array


def predicted_tracks_message(prediction: FramePrediction, header: Header) -> Detection2DArray:
    """As `tracks_message`, of boxes that the motion model expects."""
    array = Detection2DArray(header=header)
    array.detections = [
        detection(t.estimate.box.as_tuple(), t.target_id, t.reliability, header)
        for t in prediction.targets
        if t.state is not TrackState.LOST
    ]
    return array


def status_message(
    report: FrameReport,
    target: TargetReport,
    header: Header,
    now_ns: int,
    bearing: tuple[float, float, float] | None,
    settings: MotionSettings,
    calibrated: bool,
) -> TrackStatus:
    """All that is known of one target after one image; `now_ns` is the time that the box is predicted to."""
    result = target.result
    age_s = (now_ns - report.source.stamp_ns) / NANOSECONDS
    ahead = motion.predict(result.estimate, age_s, settings)
    message = TrackStatus(
        header=header,
        id=target.target_id,
        session=target.session,
        state=int(result.state),
        reliability=result.reliability,
        reliability_calibrated=calibrated,
        score=result.score,
        **{name: getattr(result.signals, name) for name in _SIGNALS},
        velocity=np.array(result.velocity),
        covariance=result.covariance.ravel(),
        prediction_stamp=time_message(now_ns),
        predicted_covariance=ahead.covariance[:4, :4].ravel(),
        processing_time=report.processing_s,
        image_age=age_s,
    )
    if result.box is None:
        message.box = np.array(_NO_BOX)
        message.predicted_box = np.array(_NO_BOX)
    else:
        x, y, w, h = result.box
        message.box = np.array([x + w / 2, y + h / 2, w, h])
        message.predicted_box = ahead.mean[:4].copy()
    _set_bearing(message, bearing)
    return message


def predicted_status_message(
    prediction: FramePrediction,
    target: TargetPrediction,
    header: Header,
    now_ns: int,
    bearing: tuple[float, float, float] | None,
    settings: MotionSettings,
    calibrated: bool,
) -> TrackStatus:
    """Where one target should be in an image that the network has not looked at; arguments as of `status_message`."""
    age_s = (now_ns - prediction.source.stamp_ns) / NANOSECONDS
    here, ahead = target.estimate, motion.predict(target.estimate, age_s, settings)
    message = TrackStatus(
        header=header,
        id=target.target_id,
        session=target.session,
        state=int(target.state),
        predicted=True,
        reliability=target.reliability,
        reliability_calibrated=calibrated,
        velocity=np.array(here.velocity),
        covariance=here.covariance[:4, :4].ravel(),
        prediction_stamp=time_message(now_ns),
        predicted_covariance=ahead.covariance[:4, :4].ravel(),
        processing_time=prediction.processing_s,
        image_age=age_s,
        # Only an image could tell.
        score=math.nan,
        **dict.fromkeys(_SIGNALS, math.nan),
    )
    lost = target.state is TrackState.LOST
    message.box = np.array(_NO_BOX) if lost else here.mean[:4].copy()
    message.predicted_box = np.array(_NO_BOX) if lost else ahead.mean[:4].copy()
    _set_bearing(message, bearing)
    return message


def _set_bearing(message: TrackStatus, bearing: tuple[float, float, float] | None) -> None:
    if bearing is not None:
        message.bearing_valid = True
        message.bearing = Vector3(x=bearing[0], y=bearing[1], z=bearing[2])


def event_message(event: TargetEvent, header: Header) -> TrackEvent:
    """An event under the header of the image, or of the request, that it concerns."""
    return TrackEvent(
        header=header,
        id=event.target_id,
        session=event.session,
        type=int(event.type),
        reason=int(event.reason),
        text=event.text,
        duration=event.duration,
    )
