"""How far an answer can be trusted: signals of one frame, their probability, and the state they add up to."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import chain
from operator import mul
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ros2_tracker.tracking.family import Proposal
from ros2_tracker.tracking.result import ReliabilitySignals, TrackState
from ros2_tracker.tracking.settings import ReliabilitySettings

# Cells around the peak that belong to it (a 5x5 square; Bolme et al. use 11x11 px of a finer map).
_PEAK_RADIUS = 2
_EPSILON = 1e-6


class MapSignals(NamedTuple):
    """What the shape of an (F, F) score map says."""

    psr: float
    """Peak-to-sidelobe ratio: (peak - mean) / deviation outside the peak's surroundings (Bolme et al., CVPR 2010)."""
    apce: float
    """Average peak-to-correlation energy: |max - min|^2 / mean((map - min)^2) (Wang et al., CVPR 2017, eq. 9)."""


def map_signals(score_map: NDArray[np.floating], cell: tuple[int, int]) -> MapSignals:
    """Signals of a map whose peak is at `cell` (row, column)."""
    # Plain Python: right after the network has emptied the caches, ten calls of NumPy on so few numbers take longer.
    row, column = cell
    rows: list[list[float]] = score_map.tolist()
    scores = list(chain.from_iterable(rows))
    columns = slice(max(column - _PEAK_RADIUS, 0), column + _PEAK_RADIUS + 1)
    near = list(chain.from_iterable(r[columns] for r in rows[max(row - _PEAK_RADIUS, 0) : row + _PEAK_RADIUS + 1]))
    total, squares, low = sum(scores), sum(map(mul, scores, scores)), min(scores)

    count = len(scores) - len(near)
    mean = (total - sum(near)) / count
    variance = (squares - sum(map(mul, near, near))) / count - mean * mean
    psr = (rows[row][column] - mean) / (math.sqrt(max(variance, 0.0)) + 1e-3)

    energy = (squares - 2.0 * low * total) / len(scores) + low * low
    return MapSignals(psr, (max(scores) - low) ** 2 / (max(energy, 0.0) + _EPSILON))


def signals_of(proposal: Proposal, motion_distance: float) -> ReliabilitySignals:
    """What an answer says of its own reliability; of two corners the worse one counts."""
    signals = [map_signals(m, cell) for m, cell in zip(proposal.score_maps, proposal.cells, strict=True)]
    return ReliabilitySignals(
        peak=proposal.score,
        psr=min(each.psr for each in signals),
        apce=min(each.apce for each in signals),
        motion_distance=motion_distance,
    )


@dataclass(frozen=True, slots=True)
class ReliabilityModel:
    """Logistic model from signals to the probability of IoU >= 0.5.

    logit = bias + peak * logit(peak) + psr * log1p(psr) + apce * log1p(apce) - motion * min(distance, 6)
    """

    bias: float
    peak: float
    psr: float
    apce: float
    motion: float
    calibrated: bool
    """Whether the coefficients were fitted for this network on sequences it was not trained on."""

    @classmethod
    def load(cls, path: Path) -> ReliabilityModel:
        """Read the JSON file beside a network's weights.

        Raises:
            ValueError: the file is not JSON, lacks a coefficient, or holds one that is not a finite number.

        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            values = {name: float(data[name]) for name in ("bias", "peak", "psr", "apce", "motion")}
            calibrated = bool(data["calibrated"])
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: not a reliability model ({error!r})") from error
        if not all(math.isfinite(v) for v in values.values()):
            raise ValueError(f"{path}: a coefficient is not finite: {values}")
        return cls(**values, calibrated=calibrated)

    def probability(self, signals: ReliabilitySignals) -> float:
        """Reliability in [0, 1]."""
        peak = min(max(signals.peak, 1e-4), 1.0 - 1e-4)
        logit = (
            self.bias
            + self.peak * math.log(peak / (1.0 - peak))
            + self.psr * math.log1p(max(signals.psr, 0.0))
            + self.apce * math.log1p(max(signals.apce, 0.0))
            - self.motion * min(signals.motion_distance, 6.0)
        )
        return 1.0 / (1.0 + math.exp(-min(max(logit, -30.0), 30.0)))


DEFAULT_RELIABILITY = ReliabilityModel(bias=0.5, peak=0.8, psr=0.0, apce=0.0, motion=0.3, calibrated=False)
"""For networks without a fitted model: the peak, held back by surprising motion."""


@dataclass(frozen=True, slots=True)
class Hysteresis:
    """State with memory in time, so that one bad or one good frame does not flip it; `step` returns the next."""

    state: TrackState = TrackState.TRACKING
    below_uncertain: float = 0.0
    """Seconds since reliability was last at `uncertain_below` or more."""
    below_lost: float = 0.0
    """Seconds since reliability was last at `lost_below` or more."""
    above_tracking: float = 0.0
    """Seconds since reliability was last under `tracking_above`."""
    not_tracking: float = 0.0
    """Seconds since the state was last TRACKING; on the step back to it, how long it had not been."""

    def step(self, reliability: float, dt: float, settings: ReliabilitySettings) -> Hysteresis:
        """State after a frame of this reliability, `dt` seconds after the one before."""
        below_uncertain = self.below_uncertain + dt if reliability < settings.uncertain_below else 0.0
        below_lost = self.below_lost + dt if reliability < settings.lost_below else 0.0
        above_tracking = self.above_tracking + dt if reliability >= settings.tracking_above else 0.0
        state = self.state
        if state is TrackState.TRACKING:
            if below_uncertain > 0.0 and below_uncertain >= settings.uncertain_after:
                state = TrackState.UNCERTAIN
        elif above_tracking > 0.0 and above_tracking >= settings.recover_after:
            state = TrackState.TRACKING
        if state is not TrackState.LOST and below_lost > 0.0 and below_lost >= settings.lost_after:
            state = TrackState.LOST
        not_tracking = 0.0 if state is TrackState.TRACKING is self.state else self.not_tracking + dt
        return Hysteresis(state, below_uncertain, below_lost, above_tracking, not_tracking)
