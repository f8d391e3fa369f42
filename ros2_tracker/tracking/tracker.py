"""The ROS-free API: one tracker, one target, one call a frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ros2_tracker.engines.load import EngineSettings
from ros2_tracker.tracking.ego_motion import EgoMotion
from ros2_tracker.tracking.frame import Frame, frame_from_array
from ros2_tracker.tracking.frame_buffer import NANOSECONDS
from ros2_tracker.tracking.motion import Homography
from ros2_tracker.tracking.network import TrackingNetwork
from ros2_tracker.tracking.result import TrackResult
from ros2_tracker.tracking.settings import TargetSettings, default_settings
from ros2_tracker.tracking.target import Target

ASSUMED_FRAME_PERIOD_S = 1.0 / 30.0
"""Between frames that come without a stamp."""


class Tracker:
    """Follows one object through frames given as H x W x 3 uint8 BGR arrays."""

    def __init__(self, network: TrackingNetwork, settings: TargetSettings | None = None) -> None:
        """A tracker on a loaded network; most callers want `Tracker.load`."""
        self.network = network
        self._settings = settings or default_settings(network.variant)
        self._target: Target | None = None
        self._ego_motion = EgoMotion()
        self._stamp = 0.0

    @classmethod
    def load(
        cls,
        model: str = "default",
        engine: str = "auto",
        precision: str = "auto",
        weights: str | Path | None = None,
        settings: TargetSettings | None = None,
        device: str = "auto",
    ) -> Tracker:
        """Load a model variant by name.

        Args:
            model: a variant's name (`ros2-tracker models` lists them).
            engine: `auto` or an engine's name.
            precision: `auto` or a precision's name.
            weights: another weights file for the variant.
            settings: thresholds, and the noise of motion; None: those of the model, which fit most cameras.
            device: `auto`, `cpu`, `cuda` or `cuda:N`.

        Raises:
            ValueError: unknown model, engine, precision or device.
            FileNotFoundError: the weights are not there.
            EngineError: the engine is not installed or refuses the file.

        """
        how = EngineSettings(engine, precision, weights, device=device)
        return cls(TrackingNetwork.load(model, how), settings)

    def init(self, frame: NDArray[np.uint8], box: Sequence[float], stamp: float | None = None) -> None:
        """Start on the target in `box` = (x, y, w, h) px, top-left origin, of `frame` (H x W x 3 uint8 BGR).

        `stamp` is the frame's time in seconds; without stamps frames count as 1/30 s apart.

        Raises:
            ValueError: a frame or box that cannot be used; a target followed so far goes on unchanged.
            FloatingPointError: the network's answer is not finite; likewise.

        """
        image = frame_from_array(frame)
        start = 0.0 if stamp is None else _checked_stamp(stamp)
        self._target = Target(self.network, self._settings, image, tuple(box), start)
        self._stamp = start
        self._ego_motion.forget()
        self._ego(image, start)

    def update(self, frame: NDArray[np.uint8], stamp: float | None = None) -> TrackResult:
        """Find the target in the next frame.

        Raises:
            RuntimeError: called before `init`.
            ValueError: a frame that cannot be used. The tracker's state is unchanged.

        """
        if self._target is None:
            raise RuntimeError("Tracker.update called before Tracker.init: there is no target to follow")
        now = self._stamp + ASSUMED_FRAME_PERIOD_S if stamp is None else _checked_stamp(stamp)
        image = frame_from_array(frame)
        result = self._target.update(image, now, self._ego(image, now))
        self._stamp = now
        return result

    def _ego(self, frame: Frame, now: float) -> Homography | None:
        """How the background moved since the target's last frame; None where that is not known or not asked for."""
        if not self._settings.ego_motion.enabled or self._target is None:
            return None
        since_ns = self._ego_motion.stamp_ns
        ego = self._ego_motion.to(frame, _nanoseconds(now), [self._target.box])
        # After an update that failed, the target's last frame is an older one.
        return ego.homography if since_ns == _nanoseconds(self._stamp) else None


def _checked_stamp(stamp: float) -> float:
    if not math.isfinite(stamp):
        raise ValueError(f"stamp is {stamp!r}, must be a finite number of seconds")
    return float(stamp)


def _nanoseconds(stamp: float) -> int:
    return round(stamp * NANOSECONDS)
