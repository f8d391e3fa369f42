"""Signals, their probability, and the state machine."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ros2_tracker.models.variant import load_variant
from ros2_tracker.tracking.reliability import (
    DEFAULT_RELIABILITY,
    Hysteresis,
    ReliabilityModel,
    map_signals,
)
from ros2_tracker.tracking.result import ReliabilitySignals, TrackState
from ros2_tracker.tracking.settings import ReliabilitySettings

score_maps = npst.arrays(np.float32, (16, 16), elements=st.floats(0, 1, width=32))
SIGNALS = ReliabilitySignals(peak=0.6, psr=8.0, apce=40.0, motion_distance=1.0)
SHIPPED = ReliabilityModel.load(load_variant("default").reliability)


@given(score_maps, st.tuples(st.integers(0, 15), st.integers(0, 15)))
def test_psr_by_its_formula(score_map: np.ndarray, cell: tuple[int, int]):
    row, column = cell
    sidelobe = [
        float(score_map[r, c]) for r in range(16) for c in range(16) if abs(r - row) > 2 or abs(c - column) > 2
    ]
    mean = sum(sidelobe) / len(sidelobe)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in sidelobe) / len(sidelobe))
    expected = (float(score_map[cell]) - mean) / (deviation + 1e-3)
    assert map_signals(score_map, cell).psr == pytest.approx(expected, rel=1e-3, abs=1e-3)


@given(score_maps)
def test_apce_by_its_formula(score_map: np.ndarray):
    values = [float(v) for v in score_map.ravel()]
    low, high = min(values), max(values)
    energy = sum((v - low) ** 2 for v in values) / len(values)
    expected = (high - low) ** 2 / (energy + 1e-6)
    assert map_signals(score_map, (0, 0)).apce == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_a_second_peak_lowers_both():
    one = np.full((16, 16), 0.01, np.float32)
    one[4, 4] = 0.9
    two = one.copy()
    two[12, 12] = 0.8
    assert map_signals(two, (4, 4)).psr < map_signals(one, (4, 4)).psr
    assert map_signals(two, (4, 4)).apce < map_signals(one, (4, 4)).apce


@pytest.mark.parametrize("model", [SHIPPED, DEFAULT_RELIABILITY])
@given(
    first=st.floats(0, 1), second=st.floats(0, 1), name=st.sampled_from(["peak", "psr", "apce", "motion_distance"])
)
def test_reliability_is_a_probability_and_monotone(
    model: ReliabilityModel, first: float, second: float, name: str
):
    scale = {"peak": 1.0, "psr": 30.0, "apce": 200.0, "motion_distance": 10.0}[name]
    low, high = sorted((first * scale, second * scale))
    lower, higher = (model.probability(replace(SIGNALS, **{name: value})) for value in (low, high))
    assert 0.0 <= lower <= 1.0
    if name == "motion_distance":
        lower, higher = higher, lower
    assert lower <= higher


def test_extreme_signals_do_not_overflow():
    for value in (0.0, 1e30, math.inf):
        signals = ReliabilitySignals(peak=min(value, 1.0), psr=value, apce=value, motion_distance=value)
        assert 0.0 <= SHIPPED.probability(signals) <= 1.0


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"bias": 1}', '{"bias": "x", "peak": 1, "psr": 1, "apce": 1, "motion": 1, "calibrated": true}'],
)
def test_broken_model_file_is_named(tmp_path: Path, text: str):
    file = tmp_path / "reliability.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"reliability\.json"):
        ReliabilityModel.load(file)


def test_coefficient_that_is_not_finite_is_refused(tmp_path: Path):
    file = tmp_path / "reliability.json"
    values = {"bias": math.nan, "peak": 1, "psr": 1, "apce": 1, "motion": 1, "calibrated": True}
    file.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="not finite"):
        ReliabilityModel.load(file)


SETTINGS = ReliabilitySettings()


def states(reliabilities: list[float], dt: float, settings: ReliabilitySettings = SETTINGS) -> list[Hysteresis]:
    history = [Hysteresis()]
    for reliability in reliabilities:
        history.append(history[-1].step(reliability, dt, settings))
    return history[1:]


def time_of(state: TrackState, history: list[Hysteresis], dt: float) -> float:
    return next(i + 1 for i, step in enumerate(history) if step.state is state) * dt


@pytest.mark.parametrize("rate", [10.0, 30.0, 60.0, 240.0])
def test_hysteresis_counts_time_not_frames(rate: float):
    dt = 1.0 / rate
    gone = states([0.05] * int(rate), dt)
    assert time_of(TrackState.UNCERTAIN, gone, dt) == pytest.approx(SETTINGS.uncertain_after, abs=dt)
    assert time_of(TrackState.LOST, gone, dt) == pytest.approx(SETTINGS.lost_after, abs=dt)
    back = [gone[-1]]
    for _ in range(int(rate)):
        back.append(back[-1].step(0.9, dt, SETTINGS))
    assert time_of(TrackState.TRACKING, back[1:], dt) == pytest.approx(SETTINGS.recover_after, abs=dt)


def test_short_dip_is_ignored():
    dt = 1 / 30
    assert all(s.state is TrackState.TRACKING for s in states([0.9, 0.0, 0.0, 0.9, 0.0, 0.0, 0.9], dt))


def test_short_flash_does_not_recover():
    history = states([0.0] * 30 + [0.9, 0.9, 0.0] * 5, 1 / 30)
    assert history[-1].state is TrackState.LOST


def test_middling_reliability_keeps_the_state():
    between = (SETTINGS.uncertain_below + SETTINGS.tracking_above) / 2
    assert states([between] * 100, 1 / 30)[-1].state is TrackState.TRACKING
    low = (SETTINGS.lost_below + SETTINGS.uncertain_below) / 2
    assert states([low] * 100 + [between] * 100, 1 / 30)[-1].state is TrackState.UNCERTAIN


def test_time_away_is_counted_until_the_step_back():
    dt = 0.1
    history = states([0.9] * 5 + [0.0] * 10 + [0.9] * 5, dt)
    returned = next(s for i, s in enumerate(history) if i > 5 and s.state is TrackState.TRACKING)
    left = next(i for i, s in enumerate(history) if s.state is TrackState.UNCERTAIN)
    back = history.index(returned)
    assert returned.not_tracking == pytest.approx((back - left + 1) * dt)
    assert history[-1].not_tracking == 0.0


def test_zero_durations_act_at_once():
    now = ReliabilitySettings(uncertain_after=0.0, lost_after=0.0, recover_after=0.0)
    history = states([0.3, 0.1, 0.9], 1 / 30, now)
    assert [s.state for s in history] == [TrackState.UNCERTAIN, TrackState.LOST, TrackState.TRACKING]
