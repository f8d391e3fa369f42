"""How far an answer can be trusted: the probability that its signals mean, and the state they add up to."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ros2_tracker.tracking.result import ReliabilitySignals, TrackState
from ros2_tracker.tracking.settings import ReliabilitySettings

# Beyond this the logistic function is 0 or 1 for all purposes.
_MOST_LOGIT = 30.0
# How many more times a second counts towards UNCERTAIN at reliability 0, and how steeply that falls off: near 0 the
# target is gone, at a third the box is still right in a third of the cases (docs/recovery.md).
_URGENCY, _STEEPNESS = 8.0, 4

DIRECTIONS: dict[str, int] = {
    "peak": 1,
    "psr": 1,
    "apce": 1,
    "motion_distance": -1,
    "margin": 1,
    "entropy": -1,
    "size_change": -1,
    "aspect_change": -1,
    "similarity_first": 1,
    "sharpness": 1,
    "exposure": 1,
}
"""Signals that a model may use, and whether more of one can only mean more (1) or less (-1) reliability.

`frozen_for` is not among them: a stuck camera and a simulator without noise look alike, so a setting decides. Nor is
`similarity_recent`: the recent view is one that reliability itself chose, so a target that comes back looking different
would never be believed (tried: a third fewer targets were found again after the lights went off).
"""

TRANSFORMS: dict[str, Callable[[float], float]] = {
    "linear": float,
    "log": math.log,
    "log1p": math.log1p,
    "logit": lambda value: math.log(value / (1.0 - value)),
}
"""Of a clipped signal; all of them grow with it."""


class Term(NamedTuple):
    """One signal's part in the log odds: weight * transform(signal, clipped to [low, high])."""

    signal: str
    transform: str
    low: float
    high: float
    weight: float
    """Of the sign that `DIRECTIONS` has, or 0."""


def checked_term(data: Mapping[str, Any]) -> Term:
    """A term as a file has it; ValueError or KeyError unless it is one, and monotone in the right direction."""
    term = Term(str(data["signal"]), str(data["transform"]), *(float(data[n]) for n in ("low", "high", "weight")))
    if term.signal not in DIRECTIONS or term.transform not in TRANSFORMS:
        raise ValueError(f"signal {term.signal!r} with transform {term.transform!r} is not known")
    ends = [TRANSFORMS[term.transform](value) for value in (term.low, term.high)]
    if not (all(map(math.isfinite, (*ends, term.weight))) and term.low <= term.high):
        raise ValueError(f"{term.signal}: not finite, or not a range: {term}")
    if term.weight * DIRECTIONS[term.signal] < 0.0:
        raise ValueError(f"{term.signal}: a weight of {term.weight:g} has the wrong sign")
    return term


@dataclass(frozen=True, slots=True)
class ReliabilityModel:
    """Logistic model from signals to the probability of IoU >= 0.5: log odds = bias + sum of the terms."""

    bias: float
    terms: tuple[Term, ...]
    calibrated: bool
    """Whether it was fitted for this network, on annotated sequences."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """What it was fitted on, and how good it was on sequences that were left out."""

    @classmethod
    def load(cls, path: Path) -> ReliabilityModel:
        """Read the JSON file beside a network's weights.

        Raises:
            ValueError: the file is not JSON, or not a model whose terms are finite and monotone.

        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            bias, terms = float(data["bias"]), tuple(checked_term(each) for each in data["terms"])
            calibrated, provenance = bool(data["calibrated"]), dict(data.get("provenance", {}))
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise ValueError(f"{path}: not a reliability model ({error!r})") from error
        if not math.isfinite(bias):
            raise ValueError(f"{path}: the bias is not finite: {bias}")
        return cls(bias, terms, calibrated, provenance)

    def as_dict(self) -> dict[str, Any]:
        """As `load` reads it."""
        terms = [term._asdict() for term in self.terms]
        return {
            "calibrated": self.calibrated,
            "bias": self.bias,
            "terms": terms,
            "provenance": dict(self.provenance),
        }

    def probability(self, signals: ReliabilitySignals) -> float:
        """Reliability in [0, 1]; 0 where a signal is not a number."""
        logit = self.bias
        for name, transform, low, high, weight in self.terms:
            logit += weight * TRANSFORMS[transform](min(max(getattr(signals, name), low), high))
        if math.isnan(logit):
            return 0.0
        return 1.0 / (1.0 + math.exp(-min(max(logit, -_MOST_LOGIT), _MOST_LOGIT)))

    def reliability(self, signals: ReliabilitySignals, settings: ReliabilitySettings) -> float:
        """The probability; 0 when the camera is taken to be stuck, as its image says nothing about now."""
        if settings.is_stuck(signals.frozen_for):
            return 0.0
        return self.probability(signals)


DEFAULT_RELIABILITY = ReliabilityModel(
    bias=0.5,
    terms=(Term("peak", "logit", 1e-4, 1.0 - 1e-4, 0.8), Term("motion_distance", "linear", 0.0, 6.0, -0.3)),
    calibrated=False,
)
"""For networks without a fitted model: the peak, held back by surprising motion."""


class WayBack(NamedTuple):
    """What reliability must do for a target that is not TRACKING to be so again."""

    above: float
    """It must be at least this,"""
    after: float
    """for that many seconds;"""
    guess_after: float = math.inf
    """for that many, to be UNCERTAIN rather than LOST."""


@dataclass(frozen=True, slots=True)
class Hysteresis:
    """State with memory in time, so that a doubtful or a good frame does not flip it; `step` returns the next.

    A frame in which next to nothing of the target is seen says more than a doubtful one, and counts for longer.
    """

    state: TrackState = TrackState.TRACKING
    doubted: float = 0.0
    """Seconds since reliability was last at `uncertain_below` or more; those of deep doubt count up to ninefold."""
    below_lost: float = 0.0
    """Seconds since reliability was last at `lost_below` or more."""
    above_tracking: float = 0.0
    """Seconds since reliability was last under what the way back to TRACKING needs."""
    not_tracking: float = 0.0
    """Seconds since the state was last TRACKING; on the step back to it, how long it had not been."""

    def step(
        self, reliability: float, dt: float, settings: ReliabilitySettings, back: WayBack | None = None
    ) -> Hysteresis:
        """State after a frame of this reliability, `dt` seconds after the one before.

        `back`: what a find must do to be a LOST target, which is given up at once when it is doubted.
        """
        lost_after = settings.lost_after if back is None else 0.0
        back = back or WayBack(settings.tracking_above, settings.recover_after)
        doubted = 0.0
        if reliability < settings.uncertain_below:
            depth = 1.0 - reliability / settings.uncertain_below
            doubted = self.doubted + dt * (1.0 + _URGENCY * depth**_STEEPNESS)
        below_lost = self.below_lost + dt if reliability < settings.lost_below else 0.0
        above_tracking = self.above_tracking + dt if reliability >= back.above else 0.0
        state = self.state
        if state is TrackState.TRACKING:
            if doubted > 0.0 and doubted >= settings.uncertain_after:
                state = TrackState.UNCERTAIN
        elif above_tracking > 0.0 and above_tracking >= back.after:
            state = TrackState.TRACKING
        elif state is TrackState.LOST and above_tracking > 0.0 and above_tracking >= back.guess_after:
            state = TrackState.UNCERTAIN
        if state is not TrackState.LOST and below_lost > 0.0 and below_lost >= lost_after:
            state = TrackState.LOST
        not_tracking = 0.0 if state is TrackState.TRACKING is self.state else self.not_tracking + dt
        return Hysteresis(state, doubted, below_lost, above_tracking, not_tracking)
