"""Agreement of boxes with the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ros2_tracker.evaluation.metrics import (
    PRECISION_THRESHOLDS_PX,
    agreement,
    center_error,
    clipped,
    normalized_center_error,
    normalized_time_to_failure,
    overlap,
    precision_curve,
    success_auc,
    success_curve,
    success_rate,
)
from ros2_tracker.tracking.geometry import Box, iou

NAN_ROW = [math.nan] * 4
rows = st.lists(
    st.tuples(*[st.tuples(st.floats(-99, 99), st.floats(-99, 99), st.floats(0, 99), st.floats(0, 99))] * 2), min_size=1
)


@given(rows)
def test_overlap_is_the_scalar_iou_row_by_row(pairs: list):
    a, b = (np.array([pair[k] for pair in pairs]) for k in (0, 1))
    expected = [iou(Box(*p), Box(*q)) for p, q in pairs]
    np.testing.assert_allclose(overlap(a, b), expected, atol=1e-9)


def test_missing_boxes_are_misses_and_missing_truth_is_unknown():
    boxes = np.array([[0, 0, 10, 10], NAN_ROW, [0, 0, 10, 10]])
    truth = np.array([[0, 0, 10, 10], [0, 0, 10, 10], NAN_ROW])
    np.testing.assert_array_equal(overlap(boxes, truth), [1.0, 0.0, math.nan])
    np.testing.assert_array_equal(center_error(boxes, truth), [0.0, math.inf, math.nan])


def test_success_auc_uses_21_thresholds_and_strictly_above():
    assert success_auc(np.ones(7)) == pytest.approx(20 / 21), "1 is not above 1"
    assert success_auc(np.zeros(7)) == 0.0
    assert success_auc(np.array([0.5])) == pytest.approx(10 / 21), "0.5 is not above 0.5"
    assert success_auc(np.array([0.51, 0.0])) == pytest.approx(0.5 * 11 / 21)


def test_agreement_counts_known_frames_only():
    boxes = np.array([[0, 0, 10, 10], NAN_ROW, [100, 0, 10, 10], [20, 0, 10, 10], [0, 0, 1, 1]])
    truth = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], NAN_ROW])
    result = agreement(boxes, truth)
    assert result.frames == 4
    assert result.mean_iou == pytest.approx(0.25)
    assert result.success_auc == pytest.approx(0.25 * 20 / 21)
    assert result.precision == pytest.approx(0.5), "20 px are still precise"


def test_nothing_known_gives_none():
    assert agreement(np.array([[0.0, 0, 1, 1]]), np.array([NAN_ROW])) is None


@pytest.mark.parametrize(("a", "b"), [((3, 4), (2, 4)), ((3, 3), (3, 3)), ((4,), (4,))])
def test_shapes_that_do_not_fit_are_named(a: tuple, b: tuple):
    with pytest.raises(ValueError, match=r"\(N, 4\), got"):
        agreement(np.zeros(a), np.zeros(b))


overlaps = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=40)


@given(overlaps)
def test_success_auc_is_the_mean_overlap_up_to_the_thresholds_spacing(values: list[float]):
    # A frame between k/20 and (k+1)/20 is above k + 1 thresholds of 21.
    above = success_auc(np.array(values)) - 20 / 21 * np.mean(values)
    assert -1e-9 <= above <= 1 / 21 + 1e-9


@given(overlaps, st.randoms(use_true_random=False))
def test_order_of_frames_does_not_matter_but_for_time_to_failure(values: list[float], random):
    shuffled = values.copy()
    random.shuffle(shuffled)
    np.testing.assert_allclose(success_curve(np.array(shuffled)), success_curve(np.array(values)))


@given(overlaps)
def test_curves_against_loops_over_frames_and_thresholds(values: list[float]):
    success = [sum(v > k / 20 for v in values) / len(values) for k in range(21)]
    measured = success_curve(np.array(values))
    # k / 20 and numpy's threshold may differ in the last bit.
    near = [any(abs(v - k / 20) < 1e-12 for v in values) for k in range(21)]
    for ours, theirs, close in zip(measured, success, near, strict=True):
        assert close or ours == pytest.approx(theirs)
    errors = [60 * v for v in values]
    precision = [sum(e <= t for e in errors) / len(errors) for t in range(51)]
    np.testing.assert_allclose(precision_curve(np.array(errors), PRECISION_THRESHOLDS_PX), precision)


def test_normalized_error_is_in_sizes_of_the_target():
    truth = np.array([[0.0, 0.0, 10.0, 40.0]])
    assert normalized_center_error(np.array([[3.0, 0.0, 10.0, 40.0]]), truth) == pytest.approx(0.3)
    assert normalized_center_error(np.array([[3.0, 16.0, 10.0, 40.0]]), truth) == pytest.approx(0.5)
    assert normalized_center_error(np.array([NAN_ROW]), truth)[0] == math.inf


def test_precision_counts_the_threshold_itself():
    curve = precision_curve(np.array([0.0, 20.0, 20.1, math.inf]), PRECISION_THRESHOLDS_PX)
    assert (curve[0], curve[19], curve[20], curve[21], curve[50]) == (0.25, 0.25, 0.5, 0.75, 0.75)


def test_success_rate_is_strictly_above():
    assert success_rate(np.array([0.5, 0.51, 0.75, 1.0]), 0.5) == 0.75
    assert success_rate(np.array([0.5, 0.51, 0.75, 1.0]), 0.75) == 0.25


def test_time_to_failure():
    iou = np.array([1.0, 0.5, 0.49, 0.9, 0.1, 0.9, 0.9, 0.9])
    assert normalized_time_to_failure(iou, 0.5) == 2 / 8, "0.5 is not below 0.5; later recovery does not count"
    assert normalized_time_to_failure(iou, 0.2) == 4 / 8
    assert normalized_time_to_failure(iou[:4], 0.2) == 1.0
    assert normalized_time_to_failure(np.zeros(3), 0.2) == 0.0


def test_boxes_are_cut_at_the_border():
    boxes = np.array([[-5.0, 10, 10, 10], [95, 95, 10, 10], [200, 0, 10, 10], [10, 10, 5, 5], NAN_ROW])
    np.testing.assert_array_equal(
        clipped(boxes, 100, 100),
        [[0, 10, 5, 10], [95, 95, 5, 5], [100, 0, 0, 10], [10, 10, 5, 5], NAN_ROW],
    )
