"""What a user can set about tracking: small frozen dataclasses that refuse values out of range.

Each field says what happens to the behaviour when it goes up or down; config/tracker.yaml repeats it for ROS users.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field


def require(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError naming the setting unless low <= value <= high (NaN never is)."""
    if not (low <= value <= high):
        raise ValueError(f"{name} is {value!r}, must be within [{low:g}, {high:g}]")


@dataclass(frozen=True, slots=True)
class ReliabilitySettings:
    """Thresholds of the TRACKING / UNCERTAIN / LOST state machine. Durations are seconds of image time."""

    tracking_above: float = 0.6
    """Reliability from which a target counts as found. Higher: recovers later, and less often on a look-alike."""
    uncertain_below: float = 0.4
    """Reliability under which a box becomes a guess. Higher: warns earlier, and more often for nothing."""
    lost_below: float = 0.2
    """Reliability under which the target counts as gone. Higher: gives up sooner, and more often for nothing."""
    uncertain_after: float = 0.1
    """How long reliability must stay under `uncertain_below`. Longer: ignores short dips, warns later."""
    lost_after: float = 0.4
    """How long reliability must stay under `lost_below`. Longer: rides out occlusions, admits a loss later."""
    recover_after: float = 0.15
    """How long reliability must stay over `tracking_above` to be TRACKING again. Longer: surer, later."""

    def __post_init__(self) -> None:
        """Check ranges and order; ValueError names the setting and its value."""
        for name in ("tracking_above", "uncertain_below", "lost_below"):
            require(f"reliability.{name}", getattr(self, name), 0.0, 1.0)
        for name in ("uncertain_after", "lost_after", "recover_after"):
            require(f"reliability.{name}", getattr(self, name), 0.0, 60.0)
        if not self.lost_below <= self.uncertain_below <= self.tracking_above:
            raise ValueError(
                "reliability thresholds must be ordered lost_below <= uncertain_below <= tracking_above, got "
                f"{self.lost_below:g}, {self.uncertain_below:g}, {self.tracking_above:g}"
            )


@dataclass(frozen=True, slots=True)
class MotionSettings:
    """Noise of the constant-velocity model, relative to the target's size (side of the square of equal area)."""

    acceleration: float = 6.0
    """Standard deviation of the centre's acceleration, sizes/s^2. Higher: follows manoeuvres, predicts nervously."""
    size_rate: float = 0.5
    """Standard deviation of the size's change, 1/s. Higher: width and height react faster and vary more."""
    position_noise: float = 0.05
    """Standard deviation of a fully reliable measured centre, in sizes. Higher: smoother, slower velocity."""
    size_noise: float = 0.12
    """Standard deviation of a fully reliable measured width or height, in sizes."""

    def __post_init__(self) -> None:
        """Check ranges; ValueError names the setting and its value."""
        for name in ("acceleration", "size_rate", "position_noise", "size_noise"):
            require(f"motion.{name}", getattr(self, name), 1e-4, 1e4)


@dataclass(frozen=True, slots=True)
class TargetSettings:
    """Everything about following one target that may change while it is followed."""

    reliability: ReliabilitySettings = field(default_factory=ReliabilitySettings)
    motion: MotionSettings = field(default_factory=MotionSettings)


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """Everything about one camera's targets and its buffer of recent frames."""

    target: TargetSettings = field(default_factory=TargetSettings)
    max_targets: int = 4
    """Further boxes are refused. Each target costs one inference a frame."""
    max_image_age: float = 0.5
    """Seconds; an image older than this is not answered. 0: any age. Lower: fewer stale answers, more gaps."""
    frame_buffer_duration: float = 2.0
    """Seconds of images kept for boxes drawn on an older one. Longer: more patience with operators, more memory."""
    frame_buffer_bytes: int = 256 * 1024 * 1024
    """Upper bound on those images' memory; the oldest go first."""

    def __post_init__(self) -> None:
        """Check ranges; ValueError names the setting and its value."""
        require("max_targets", self.max_targets, 1, 64)
        require("max_image_age", self.max_image_age, 0.0, 3600.0)
        require("frame_buffer_duration", self.frame_buffer_duration, 0.0, 600.0)
        require("frame_buffer_bytes", self.frame_buffer_bytes, 0, math.inf)
