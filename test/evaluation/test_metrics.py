"""Agreement of boxes with the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ros2_tracker.evaluation.metrics import agreement, center_error, overlap, success_auc
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
