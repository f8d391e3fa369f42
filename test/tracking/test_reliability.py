"""The probability that signals mean, the file it is read from, and the state machine."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ros2_tracker.models.variant import load_variant
from ros2_tracker.tracking.reliability import (
    DEFAULT_RELIABILITY,
    DIRECTIONS,
    TRANSFORMS,
    Hysteresis,
    ReliabilityModel,
    Term,
    WayBack,
)
from ros2_tracker.tracking.result import ReliabilitySignals, TrackState
from ros2_tracker.tracking.settings import ReliabilitySettings

SIGNALS = ReliabilitySignals(
    peak=0.6,
    psr=8.0,
    apce=40.0,
    motion_distance=1.0,
    margin=0.4,
    entropy=0.5,
    size_change=0.1,
    aspect_change=0.1,
    similarity_first=0.8,
    similarity_recent=0.8,
    sharpness=0.9,
    exposure=0.9,
    frozen_for=0.0,
)
SHIPPED = ReliabilityModel.load(load_variant("default").reliability)
EVERYTHING = ReliabilityModel(
    0.3,
    tuple(
        Term(name, "log1p" if name in ("psr", "apce") else "linear", 0.0, 50.0, 0.1 * sign)
        for name, sign in DIRECTIONS.items()
    ),
    calibrated=True,
)


@pytest.mark.parametrize("model", [SHIPPED, DEFAULT_RELIABILITY, EVERYTHING])
@given(first=st.floats(-0.5, 1.5), second=st.floats(-0.5, 1.5), name=st.sampled_from(sorted(DIRECTIONS)))
def test_reliability_is_a_probability_and_monotone(
    model: ReliabilityModel, first: float, second: float, name: str
):
    scale = {"psr": 30.0, "apce": 200.0, "motion_distance": 10.0}.get(name, 1.0)
    low, high = sorted((first * scale, second * scale))
    lower, higher = (model.probability(replace(SIGNALS, **{name: value})) for value in (low, high))
    assert 0.0 <= lower <= 1.0
    assert (lower - higher) * DIRECTIONS[name] <= 0.0


def test_log_odds_are_the_sum_of_the_terms():
    terms = (Term("peak", "logit", 0.01, 0.99, 2.0), Term("size_change", "linear", 0.0, 0.05, -3.0))
    logit = 0.5 + 2.0 * math.log(0.6 / 0.4) - 3.0 * 0.05  # 0.1 is cut at 0.05
    probability = ReliabilityModel(0.5, terms, calibrated=True).probability(SIGNALS)
    assert probability == pytest.approx(1.0 / (1.0 + math.exp(-logit)))


@pytest.mark.parametrize("model", [SHIPPED, DEFAULT_RELIABILITY, EVERYTHING])
@pytest.mark.parametrize("value", [0.0, 1e30, math.inf, -math.inf])
def test_extreme_signals_do_not_overflow(model: ReliabilityModel, value: float):
    assert 0.0 <= model.probability(ReliabilitySignals(*[value] * 13)) <= 1.0


def test_signal_that_is_not_a_number_means_no_reliability():
    model = ReliabilityModel(5.0, (Term("margin", "linear", -1.0, 1.0, 1.0),), calibrated=True)
    assert model.probability(replace(SIGNALS, margin=math.nan)) == 0.0


def test_stuck_camera_says_nothing_about_now_unless_a_setting_allows_it():
    stuck = replace(SIGNALS, frozen_for=0.2)
    patient = ReliabilitySettings(frozen_after=0.3)
    never = ReliabilitySettings(frozen_after=0.0)
    assert DEFAULT_RELIABILITY.reliability(stuck, ReliabilitySettings(frozen_after=0.2)) == 0.0
    for settings in (patient, never):
        assert DEFAULT_RELIABILITY.reliability(stuck, settings) == DEFAULT_RELIABILITY.probability(SIGNALS) > 0.0


def test_file_is_read_as_it_was_written(tmp_path: Path):
    model = replace(EVERYTHING, provenance={"dataset": "mine", "frames": 12})
    file = tmp_path / "mine.reliability.json"
    file.write_text(json.dumps(model.as_dict()))
    assert ReliabilityModel.load(file) == model


TERM = {"signal": "peak", "transform": "logit", "low": 0.1, "high": 0.9, "weight": 1.0}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "Expecting value"),
        ("[]", "TypeError"),
        ("{}", "bias"),
        ('{"bias": 1, "peak": 1, "psr": 1, "apce": 1, "motion": 1, "calibrated": true}', "terms"),
        ({"bias": math.nan}, "not finite"),
        ({"terms": [{**TERM, "weight": math.inf}]}, "not finite"),
        ({"terms": [{**TERM, "weight": -1.0}]}, "wrong sign"),
        ({"terms": [{**TERM, "low": 0.95}]}, "not a range"),
        ({"terms": [{**TERM, "high": 1.0}]}, "ZeroDivision"),
        ({"terms": [{**TERM, "signal": "frozen_for"}]}, "not known"),
        ({"terms": [{**TERM, "transform": "exp"}]}, "not known"),
        ({"terms": [{"signal": "peak"}]}, "transform"),
    ],
)
def test_broken_model_file_is_named_with_the_reason(tmp_path: Path, content: str | dict, reason: str):
    file = tmp_path / "mine.reliability.json"
    whole = {"calibrated": True, "bias": 0.0, "terms": [TERM]}
    file.write_text(content if isinstance(content, str) else json.dumps({**whole, **content}))
    with pytest.raises(ValueError, match=r"mine\.reliability\.json") as refused:
        ReliabilityModel.load(file)
    assert reason in str(refused.value)


@given(first=st.floats(0.01, 0.99), second=st.floats(0.01, 0.99), name=st.sampled_from(sorted(TRANSFORMS)))
def test_transforms_grow(first: float, second: float, name: str):
    low, high = sorted((first, second))
    assert TRANSFORMS[name](low) <= TRANSFORMS[name](high)


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
    doubtful = SETTINGS.lost_below - 0.01
    gone = states([doubtful] * int(rate), dt)
    assert time_of(TrackState.UNCERTAIN, gone, dt) == pytest.approx(SETTINGS.uncertain_after, abs=dt)
    assert time_of(TrackState.LOST, gone, dt) == pytest.approx(SETTINGS.lost_after, abs=dt)
    back = [gone[-1]]
    for _ in range(int(rate)):
        back.append(back[-1].step(0.9, dt, SETTINGS))
    assert time_of(TrackState.TRACKING, back[1:], dt) == pytest.approx(SETTINGS.recover_after, abs=dt)


@pytest.mark.parametrize("rate", [10.0, 30.0, 60.0, 240.0])
def test_the_deeper_the_doubt_the_sooner_the_warning(rate: float):
    dt = 1.0 / rate
    histories = [states([SETTINGS.lost_below * share] * int(rate), dt) for share in (0.0, 0.5, 0.75, 0.999)]
    warned = [time_of(TrackState.UNCERTAIN, history, dt) for history in histories]
    assert warned == sorted(warned)
    assert warned[0] == pytest.approx(SETTINGS.uncertain_after / 9.0, abs=dt)
    assert warned[-1] == pytest.approx(SETTINGS.uncertain_after, abs=dt)
    lost = {time_of(TrackState.LOST, history, dt) for history in histories}
    assert len(lost) == 1, "how soon a target is given up does not depend on it"


def test_short_dip_is_ignored():
    dt = 1 / 30
    assert all(s.state is TrackState.TRACKING for s in states([0.9, 0.25, 0.3, 0.9, 0.2, 0.3, 0.9], dt))


def test_an_image_that_shows_nothing_is_told_at_once_and_forgotten_soon():
    dt = 1 / 30
    history = states([0.9, 0.0] + [0.9] * 10, dt)
    assert history[1].state is TrackState.UNCERTAIN
    assert time_of(TrackState.TRACKING, history[2:], dt) == pytest.approx(SETTINGS.recover_after, abs=dt)


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
    doubted = (now.lost_below + now.uncertain_below) / 2
    history = states([doubted, 0.1, 0.9], 1 / 30, now)
    assert [s.state for s in history] == [TrackState.UNCERTAIN, TrackState.LOST, TrackState.TRACKING]


def test_find_that_may_only_be_a_guess_is_uncertain_and_given_up_at_once():
    dt, back = 1 / 30, WayBack(0.6, math.inf, guess_after=0.5)
    lost = states([0.0] * 30, dt)[-1]
    history = [lost]
    for reliability in [0.9] * 60 + [0.3]:
        history.append(history[-1].step(reliability, dt, SETTINGS, back))
    seen = [step.state for step in history]
    assert time_of(TrackState.UNCERTAIN, history[1:], dt) == pytest.approx(0.5, abs=dt)
    assert TrackState.TRACKING not in seen
    assert seen[-2:] == [TrackState.UNCERTAIN, TrackState.LOST]
    convinced = history[40].step(0.9, dt, SETTINGS, WayBack(0.6, 0.2, guess_after=0.5))
    assert convinced.state is TrackState.TRACKING
