"""Follow one target: the loop that ties crop, network, motion and reliability together."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ros2_tracker.tracking import motion
from ros2_tracker.tracking.crop import Region, crop, mean_rgb
from ros2_tracker.tracking.decode import Candidate
from ros2_tracker.tracking.frame import Frame
from ros2_tracker.tracking.geometry import Box, checked_box, kept_in_image
from ros2_tracker.tracking.network import TrackingNetwork
from ros2_tracker.tracking.reliability import (
    Hysteresis,
    average_peak_to_correlation_energy,
    peak_to_sidelobe_ratio,
)
from ros2_tracker.tracking.result import ReliabilitySignals, TrackResult, TrackState
from ros2_tracker.tracking.settings import TargetSettings


@dataclass(frozen=True, slots=True)
class _Memory:
    """All that a target carries from frame to frame; replaced as a whole, so a failed update changes nothing."""

    stamp: float
    box: Box
    motion: motion.MotionState
    hysteresis: Hysteresis


class Target:
    """One target from the frame its box was drawn on. Stamps are seconds of image time."""

    def __init__(
        self, network: TrackingNetwork, settings: TargetSettings, frame: Frame, box: tuple[float, ...], stamp: float
    ) -> None:
        """Start on `frame`; `box` is (x, y, w, h) px. BoxError when it cannot be followed."""
        self._network = network
        self.settings = settings
        checked = checked_box(box, frame.width, frame.height)
        variant = network.variant
        self._fill = mean_rgb(frame) if variant.fill == "mean" else (0.0, 0.0, 0.0)
        self._template: NDArray[np.uint8] = crop(
            frame, Region.around(checked, variant.template.factor), variant.template.size, self._fill
        )
        self._memory = _Memory(stamp, checked, motion.initial_state(checked, settings.motion), Hysteresis())

    @property
    def box(self) -> Box:
        """Where the next search is centred, px."""
        return self._memory.box

    @property
    def state(self) -> TrackState:
        """State after the last frame."""
        return self._memory.hysteresis.state

    def update(self, frame: Frame, stamp: float) -> TrackResult:
        """Find the target in a later frame.

        A stamp before the last one, or more than a second after it, forgets the velocity but not the target.

        Raises:
            FloatingPointError: the network's answer is not finite. The state is unchanged.

        """
        memory, variant, settings = self._memory, self._network.variant, self.settings
        dt = stamp - memory.stamp
        moving = memory.motion
        if not 0.0 <= dt <= motion.MAX_STEP_S:
            moving = motion.without_velocity(moving, settings.motion)
            dt = motion.MAX_STEP_S if dt > 0.0 else 0.0
        predicted = motion.predict(moving, dt, settings.motion)

        region = Region.around(memory.box, variant.search.factor)
        patch = crop(frame, region, variant.search.size, self._fill)
        started = time.perf_counter()
        outputs = self._network.infer(self._template, patch)
        network_s = time.perf_counter() - started
        proposal = self._network.decode(outputs)
        box = self._measured_box(region, proposal.candidate, frame)

        candidate = proposal.candidate
        certain = motion.measurement_covariance(box, 1.0, settings.motion)
        signals = ReliabilitySignals(
            peak=candidate.score,
            psr=peak_to_sidelobe_ratio(proposal.score_map, candidate.cell),
            apce=average_peak_to_correlation_energy(proposal.score_map),
            motion_distance=motion.center_distance(predicted, box, certain),
        )
        reliability = self._network.reliability.probability(signals)
        hysteresis = memory.hysteresis.step(reliability, dt, settings.reliability)

        noise = motion.measurement_covariance(box, reliability, settings.motion)
        doubtful = reliability < settings.reliability.lost_below
        # A doubtful box would drag the search away from where the target was last seen.
        next_box = memory.box if doubtful else box
        next_motion = predicted if doubtful else motion.correct(predicted, box, noise)
        if doubtful and hysteresis.state is TrackState.LOST:
            # Nothing is known of its motion any more; where it reappears starts afresh.
            next_motion = motion.initial_state(next_box, settings.motion)
        self._memory = _Memory(stamp, next_box, next_motion, hysteresis)
        return TrackResult(
            box=None if hysteresis.state is TrackState.LOST else box.as_tuple(),
            candidate=box.as_tuple(),
            reliability=reliability,
            state=hysteresis.state,
            score=candidate.score,
            signals=signals,
            covariance=noise,
            estimate=next_motion,
            previous_state=memory.hysteresis.state,
            network_s=network_s,
            not_tracking_for=hysteresis.not_tracking,
        )

    def _measured_box(self, region: Region, candidate: Candidate, frame: Frame) -> Box:
        """The candidate in image pixels, its size smoothed against the last one, kept in the image."""
        found = region.to_image(candidate.cx, candidate.cy, candidate.w, candidate.h)
        weight, last = self._network.variant.size_update, self._memory.box
        w = weight * found.w + (1.0 - weight) * last.w
        h = weight * found.h + (1.0 - weight) * last.h
        return kept_in_image(Box.from_center(found.cx, found.cy, w, h), frame.width, frame.height)
