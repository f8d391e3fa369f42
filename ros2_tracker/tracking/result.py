"""What the tracker says about one target after one frame."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ros2_tracker.tracking.motion import MeasurementNoise, MotionState

if TYPE_CHECKING:
    from ros2_tracker.tracking.events import Reason


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
    margin: float
    """Peak minus the highest score outside the box, in [-1, 1]; of two corners the smaller one."""
    entropy: float
    """Of the score map as a distribution, 0 (one cell) to 1 (uniform)."""
    size_change: float
    """|log| of the ratio of the box's area, as the network says it, to that of the box before."""
    aspect_change: float
    """|log| of the ratio of its aspect to that of the box before."""
    similarity_first: float
    """Of the box's colours to those of the first box, in [0, 1] (Bhattacharyya coefficient of histograms)."""
    similarity_recent: float
    """Of the box's colours and pixels to those of the last reliable box, in [-0.5, 1]; 1: the same."""
    sharpness: float
    """Detail in the box relative to that in the first box; 1: as sharp."""
    exposure: float
    """Share of the image that is neither black nor white, in [0, 1]."""
    frozen_for: float
    """Seconds since the image last changed: a camera that repeats its last image, or a simulator without noise."""


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
    """The network's score at the chosen cell, with what was learnt of the target where the network can be told."""
    signals: ReliabilitySignals
    noise: MeasurementNoise
    """Of the measured box."""
    estimate: MotionState
    """The motion model after this frame: what `motion.predict` moves on to a later time."""
    previous_state: TrackState
    """State before this frame: a difference is an event."""
    cause: Reason
    """Why it is not TRACKING, where the signals tell; else NONE."""
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
