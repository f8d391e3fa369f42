"""What the tracker says about one target after one frame."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from ros2_tracker.tracking.motion import MeasurementNoise, MotionState


class TrackState(IntEnum):
    """How the box may be used; the numbers are those of TrackStatus.msg."""

    TRACKING = 1
    """The box can be used."""
    UNCERTAIN = 2
    """The box is a guess."""
    LOST = 3
    """There is no box."""


@dataclass(frozen=True, slots=True)
class ReliabilitySignals:
    """The measurements that reliability is computed from."""

    peak: float
    """Highest value of the score map, in [0, 1]."""
    psr: float
    """Peak-to-sidelobe ratio of the score map (Bolme et al., CVPR 2010, sec. 3.5)."""
    apce: float
    """Average peak-to-correlation energy of the score map (Wang et al., CVPR 2017, eq. 9)."""
    motion_distance: float
    """Mahalanobis distance between the measured and the predicted box centre."""


@dataclass(frozen=True, slots=True)
class TrackResult:
    """One target after one frame. Pixel coordinates as in `tracking.geometry`."""

    box: tuple[float, float, float, float] | None
    """(x, y, w, h) in pixels, top-left origin; None while LOST."""
    candidate: tuple[float, float, float, float]
    """The network's best box even while LOST: for evaluation and debugging, not for control."""
    reliability: float
    """In [0, 1]: probability that the box overlaps the target with IoU >= 0.5."""
    state: TrackState
    score: float
    """The network's raw score at the chosen cell."""
    signals: ReliabilitySignals
    noise: MeasurementNoise
    """Of the measured box."""
    estimate: MotionState
    """The motion model after this frame: what `motion.predict` moves on to a later time."""
    previous_state: TrackState
    """State before this frame: a difference is an event."""
    network_s: float = 0.0
    """Seconds spent in the network; of a run for several targets its share."""
    not_tracking_for: float = 0.0
    """Seconds since the target was last TRACKING (0 while it is; on recovery, how long it had not been)."""

    @property
    def covariance(self) -> NDArray[np.float64]:
        """4x4 covariance of the measured (cx, cy, w, h), px^2."""
        return self.noise.matrix

    @property
    def velocity(self) -> tuple[float, float]:
        """Of the centre, px/s."""
        return self.estimate.velocity
