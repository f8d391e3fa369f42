"""From the network's maps to one candidate."""

from __future__ import annotations

import numpy as np
import pytest

from ros2_tracker.models.window import hann_window
from ros2_tracker.tracking.decode import decode_ltrb


def maps(cells: int = 16) -> tuple[np.ndarray, np.ndarray]:
    return np.full((cells, cells), 0.1, np.float32), np.full((4, cells, cells), 0.05, np.float32)


def test_candidate_of_a_single_peak():
    score_map, ltrb = maps()
    score_map[4, 10] = 0.9
    ltrb[:, 4, 10] = (0.1, 0.05, 0.2, 0.15)
    candidate = decode_ltrb(score_map, ltrb, None)
    assert candidate.cell == (4, 10)
    assert candidate.score == pytest.approx(0.9)
    x, y = 10.5 / 16, 4.5 / 16
    assert candidate.cx == pytest.approx((x - 0.1 + x + 0.2) / 2)
    assert candidate.cy == pytest.approx((y - 0.05 + y + 0.15) / 2)
    assert (candidate.w, candidate.h) == pytest.approx((0.3, 0.2))


def test_window_prefers_the_centre_but_the_score_is_the_raw_one():
    score_map, ltrb = maps()
    score_map[0, 0], score_map[8, 8] = 0.9, 0.6
    assert decode_ltrb(score_map, ltrb, None).cell == (0, 0)
    windowed = decode_ltrb(score_map, ltrb, hann_window(16))
    assert windowed.cell == (8, 8)
    assert windowed.score == pytest.approx(0.6)


def test_hann_window_is_symmetric_positive_and_highest_in_the_middle():
    window = hann_window(16)
    assert window.shape == (16, 16)
    assert (window > 0).all()
    np.testing.assert_allclose(window, window[::-1, ::-1], atol=1e-7)
    np.testing.assert_allclose(window, window.T, atol=1e-7)
    assert np.unravel_index(window.argmax(), window.shape) in {(7, 7), (7, 8), (8, 7), (8, 8)}


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["score", "ltrb"])
def test_values_that_are_not_finite_are_refused(value: float, where: str):
    score_map, ltrb = maps()
    score_map[3, 3] = 0.8
    if where == "score":
        score_map[3, 3] = value
    else:
        ltrb[2, 3, 3] = value
    with pytest.raises(FloatingPointError, match=str(value)):
        decode_ltrb(score_map, ltrb, None)
