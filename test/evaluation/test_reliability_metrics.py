"""Failure detection, calibration and the long-term measure against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ros2_tracker.evaluation.reliability_metrics import (
    CALIBRATION_BINS,
    LongTermFrames,
    brier,
    calibration,
    kept_at,
    long_term,
    roc,
)

# Few different values, so that ties and edges of bins happen.
VALUE = st.integers(0, 20).map(lambda n: n / 20)
FRAMES = st.lists(st.tuples(VALUE, st.booleans()), min_size=1, max_size=40)


def arrays(frames: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    value, good = zip(*frames, strict=True)
    return np.array(value), np.array(good)


@given(FRAMES)
@settings(deadline=None)
def test_auroc_is_the_share_of_pairs_in_order(frames: list[tuple[float, bool]]):
    value, good = arrays(frames)
    pairs = [(a > b) + 0.5 * (a == b) for a, g in frames if g for b, h in frames if not h]
    curve = roc(value, good)
    if not pairs:
        assert curve is None
        return
    assert curve is not None
    assert curve.area == pytest.approx(np.mean(pairs))
    # Each point is what some threshold keeps.
    points = {(0.0, 0.0)} | {
        (float((value[~good] >= t).mean()), float((value[good] >= t).mean())) for t in np.unique(value)
    }
    found = {(float(x), float(y)) for x, y in zip(curve.bad_kept, curve.good_kept, strict=True)}
    assert {(round(x, 9), round(y, 9)) for x, y in found} == {(round(x, 9), round(y, 9)) for x, y in points}


@given(FRAMES)
@settings(deadline=None)
def test_calibration_error_bin_by_bin(frames: list[tuple[float, bool]]):
    value, good = arrays(frames)
    expected = 0.0
    for number in range(1, CALIBRATION_BINS + 1):
        # Guo et al., 2017: bin m holds ((m - 1) / M, m / M]; in twentieths, so that no rounding decides.
        inside = [(v, g) for v, g in frames if 2 * (number - 1) < round(20 * v) <= 2 * number]
        inside += [(v, g) for v, g in frames if number == 1 and v == 0.0]
        if inside:
            accuracy = sum(g for _, g in inside) / len(inside)
            confidence = sum(v for v, _ in inside) / len(inside)
            expected += len(inside) / len(frames) * abs(accuracy - confidence)
    assert calibration(value, good).error == pytest.approx(expected, abs=1e-12)
    assert calibration(value, good).count.sum() == len(frames)
    assert brier(value, good) == pytest.approx(sum((v - g) ** 2 for v, g in frames) / len(frames))


def test_a_calibrated_value_has_no_error():
    rng = np.random.default_rng(0)
    value = rng.random(200_000)
    good = rng.random(len(value)) < value
    found = calibration(value, good)
    assert found.error < 0.005
    np.testing.assert_allclose(found.accuracy, found.confidence, atol=0.02)
    assert calibration(np.minimum(value + 0.2, 1.0), good).error == pytest.approx(0.18, abs=0.01)


def test_what_a_threshold_keeps():
    value = np.array([0.9, 0.8, 0.7, 0.6, 0.75, 0.1])
    good = np.array([True, True, True, True, False, False])
    off = ~good
    assert kept_at(value, good, off, 0.0) == pytest.approx(1 / 6)
    assert kept_at(value, good, off, 0.5) == pytest.approx(1 / 6)
    assert kept_at(value, good, off, 0.7) == 0.0
    assert np.isnan(kept_at(value, off & good, off, 0.05))


def naive_f(sequences: list[LongTermFrames]) -> tuple[float, float, float]:
    best = (0.0, 0.0, -1.0)
    for threshold in sorted({c for s in sequences for c in s.certainty if np.isfinite(c)}, reverse=True):
        precisions, recalls = [], []
        for certainty, overlap in sequences:
            taken = [0.0 if np.isnan(o) else o for c, o in zip(certainty, overlap, strict=True) if c >= threshold]
            precisions.append(sum(taken) / len(taken) if taken else 1.0)
            there = [o if c >= threshold else 0.0 for c, o in zip(certainty, overlap, strict=True) if not np.isnan(o)]
            if there:
                recalls.append(sum(there) / len(there))
        precision, recall = float(np.mean(precisions)), float(np.mean(recalls))
        f = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        if f > best[2]:
            best = (precision, recall, f)
    return best


@given(
    st.lists(st.lists(st.tuples(st.none() | VALUE, st.none() | VALUE), min_size=1, max_size=12), min_size=1, max_size=4)
)
@settings(deadline=None)
def test_long_term_against_loops(data: list[list[tuple[float | None, float | None]]]):
    sequences = [
        LongTermFrames(
            np.array([-np.inf if c is None else c for c, _ in rows]),
            np.array([np.nan if o is None else o for _, o in rows]),
        )
        for rows in data
    ]
    found = long_term(sequences)
    if not any(np.isfinite(s.certainty).any() for s in sequences) or all(np.isnan(s.overlap).all() for s in sequences):
        assert found is None
        return
    assert found is not None
    assert (found.precision, found.recall, found.f) == pytest.approx(naive_f(sequences))


def test_a_perfect_long_term_tracker():
    certainty = np.array([0.9, 0.8, 0.9, 0.1, 0.2])
    overlap = np.array([1.0, 1.0, 1.0, np.nan, np.nan])
    found = long_term([LongTermFrames(certainty, overlap)])
    assert found is not None
    assert (found.precision, found.recall, found.f, found.threshold) == (1.0, 1.0, 1.0, 0.8)
    # The same without saying which boxes are none: precision pays for it.
    blind = long_term([LongTermFrames(np.ones(5), overlap)])
    assert blind is not None
    assert (blind.precision, blind.recall) == (0.6, 1.0)


def test_many_values_are_thinned_out():
    rng = np.random.default_rng(1)
    found = long_term([LongTermFrames(rng.random(5000), rng.random(5000))])
    assert found is not None
    assert len(found.precisions) == 100
