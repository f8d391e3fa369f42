"""Follow one target: the loop that ties a family's network to motion and reliability."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from ros2_tracker.engines.base import NamedArrays
from ros2_tracker.tracking import motion
from ros2_tracker.tracking.family import Appearance, Look
from ros2_tracker.tracking.frame import Frame
from ros2_tracker.tracking.geometry import Box, checked_box
from ros2_tracker.tracking.network import TrackingNetwork
from ros2_tracker.tracking.reliability import Hysteresis, signals_of
from ros2_tracker.tracking.result import TrackResult, TrackState
from ros2_tracker.tracking.settings import TargetSettings


@dataclass(frozen=True, slots=True)
class _Memory:
    """All that a target carries from frame to frame; replaced as a whole, so a failed update changes nothing."""

    stamp: float
    box: Box
    motion: motion.MotionState
    hysteresis: Hysteresis
    appearance: Appearance
    frames: int = 0
    """Since the first."""


@dataclass(frozen=True, slots=True)
class Question:
    """A target's part in one run of the network: between `Target.ask` and `Target.take`."""

    frame: Frame
    stamp: float
    looks: tuple[Look, ...]
    """First where the target should be; while it is LOST, further windows of the search for it."""


class Target:
    """One target from the frame its box was drawn on. Stamps are seconds of image time."""

    def __init__(
        self, network: TrackingNetwork, settings: TargetSettings, frame: Frame, box: tuple[float, ...], stamp: float
    ) -> None:
        """Start on `frame`; `box` is (x, y, w, h) px. BoxError when it cannot be followed."""
        self._network = network
        self.settings = settings
        checked = checked_box(box, frame.width, frame.height)
        appearance = network.family.appearance(frame, checked)
        self._memory = _Memory(stamp, checked, motion.initial_state(checked, settings.motion), Hysteresis(), appearance)

    @property
    def box(self) -> Box:
        """Where the next search is centred, px."""
        return self._memory.box

    @property
    def state(self) -> TrackState:
        """State after the last frame."""
        return self._memory.hysteresis.state

    def update(self, frame: Frame, stamp: float) -> TrackResult:
        """Find the target in a later frame: `ask`, one run of the network, `take`.

        A stamp before the last one, or more than a second after it, forgets the velocity but not the target.

        Raises:
            FloatingPointError: the network's answer is not finite. The state is unchanged.

        """
        question = self.ask(frame, stamp)
        started = time.perf_counter()
        outputs = self._network.infer(question.looks)
        return self.take(question, outputs, time.perf_counter() - started)

    def ask(self, frame: Frame, stamp: float) -> Question:
        """What the network is to be asked about a later frame; the state is unchanged."""
        memory = self._memory
        return Question(frame, stamp, (self._network.family.look(memory.appearance, frame, memory.box),))

    def take(self, question: Question, outputs: Sequence[NamedArrays], network_s: float) -> TrackResult:
        """Go on with the network's answers, one a look, which took `network_s` seconds; errors as those of `update`."""
        memory, settings, family = self._memory, self.settings, self._network.family
        dt = question.stamp - memory.stamp
        moving = memory.motion
        if not 0.0 <= dt <= motion.MAX_STEP_S:
            moving = motion.without_velocity(moving, settings.motion)
            dt = motion.MAX_STEP_S if dt > 0.0 else 0.0
        predicted = motion.predict(moving, dt, settings.motion)

        proposal = family.proposal(question.looks[0], outputs[0])
        box = proposal.box
        certain = motion.measurement_noise(box, 1.0, settings.motion)
        signals = signals_of(proposal, motion.center_distance(predicted, box, certain))
        reliability = self._network.reliability.probability(signals)
        hysteresis = memory.hysteresis.step(reliability, dt, settings.reliability)

        noise = motion.measurement_noise(box, reliability, settings.motion)
        doubtful = reliability < settings.reliability.lost_below
        next_motion = predicted if doubtful else motion.correct(predicted, box, noise)
        # A doubtful box would drag the search away from where the target was last seen.
        next_box = memory.box if doubtful and self._network.variant.hold_in_doubt else box
        if doubtful and hysteresis.state is TrackState.LOST:
            # Nothing is known of its motion any more; where it reappears starts afresh.
            next_motion = motion.initial_state(next_box, settings.motion)
        frames = memory.frames + 1
        appearance = family.renewed(memory.appearance, question.frame, proposal, frames)
        self._memory = _Memory(question.stamp, next_box, next_motion, hysteresis, appearance, frames)
        return TrackResult(
            box=None if hysteresis.state is TrackState.LOST else box.as_tuple(),
            candidate=box.as_tuple(),
            reliability=reliability,
            state=hysteresis.state,
            score=proposal.score,
            signals=signals,
            noise=noise,
            estimate=next_motion,
            previous_state=memory.hysteresis.state,
            network_s=network_s,
            not_tracking_for=hysteresis.not_tracking,
        )
