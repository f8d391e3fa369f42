"""What may be said of a target in a frame that the network has not looked at."""

from __future__ import annotations

import math
from typing import NamedTuple

from ros2_tracker.tracking import motion
from ros2_tracker.tracking.motion import MotionState
from ros2_tracker.tracking.result import TrackResult, TrackState
from ros2_tracker.tracking.settings import TargetSettings

# Two boxes of one size have IoU >= 0.5 while (1 - |u|)(1 - |v|) >= 2/3, u and v being how far their centres are apart
# in widths and heights. That is an area of 4 (1/3 - 2/3 ln 3/2); here it counts as a disc of that area.
_OVERLAP_AREA = 4.0 * (1.0 / 3.0 - 2.0 / 3.0 * math.log(1.5))


class Prediction(NamedTuple):
    """A target by the motion model alone."""

    state: TrackState
    reliability: float
    """In [0, 1]."""
    estimate: MotionState


def predicted(last: TrackResult, dt: float, settings: TargetSettings) -> Prediction | None:
    """A target `dt` seconds after its last answer; None when that is not ahead, or too far for the motion model.

    Reliability is the last one times how much less probable the growing uncertainty of the centre makes an IoU of 0.5.
    A target whose reliability falls under `uncertain_below` by it is UNCERTAIN; it is never LOST, and never better off,
    without an image.
    """
    if not 0.0 < dt <= motion.MAX_STEP_S:
        return None
    estimate = motion.predict(last.estimate, dt, settings.motion)
    reliability = last.reliability * min(_overlap_probability(estimate) / _overlap_probability(last.estimate), 1.0)
    state = last.state
    if state is TrackState.TRACKING and reliability < settings.reliability.uncertain_below:
        state = TrackState.UNCERTAIN
    return Prediction(state, reliability, estimate)


def _overlap_probability(state: MotionState) -> float:
    """That the estimated box has IoU >= 0.5 with the true one, if only the centre is uncertain; > 0."""
    deviations = math.sqrt(state.x.position_variance * state.y.position_variance)
    area = max(state.w.length * state.h.length, 1.0)
    return max(-math.expm1(-_OVERLAP_AREA * area / (2.0 * math.pi * deviations)), 1e-6) if deviations > 0.0 else 1.0
