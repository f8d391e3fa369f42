"""What counts, per benchmark, and how figures of sequences become figures of a dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ros2_tracker.evaluation.datasets import CONVENTIONS, AnnotatedSequence
from ros2_tracker.evaluation.results import FrameEvent, FrameRecord
from ros2_tracker.evaluation.scoring import score_sequence, summarize
from ros2_tracker.tracking.result import TrackState

NAN_ROW = (float("nan"),) * 4
SIZE = (100, 100)
TARGET = (10.0, 10.0, 20.0, 20.0)
HALF = (20.0, 10.0, 20.0, 20.0)  # IoU 1/3, centre 10 px off: half a size
AWAY = (70.0, 70.0, 20.0, 20.0)


def sequence(truth: list, absent: list[int] | None = None) -> AnnotatedSequence:
    boxes = np.array(truth, np.float64)
    gone = np.isnan(boxes).any(axis=1)
    gone[absent or []] = True
    return AnnotatedSequence("s", (Path("0.png"),) * len(boxes), boxes, gone)


def records(boxes: list, lost: tuple[int, ...] = (), ms: float = 4.0) -> list[FrameRecord]:
    return [
        FrameRecord(
            FrameEvent.TRACKED if i else FrameEvent.INIT,
            box,
            TrackState.LOST if i in lost else TrackState.TRACKING,
            update_ms=ms if i else 100.0,
        )
        for i, box in enumerate(boxes)
    ]


def scored(layout: str, boxes: list, truth: list, absent: list[int] | None = None, lost: tuple[int, ...] = ()):
    return score_sequence(records(boxes, lost), sequence(truth, absent), CONVENTIONS[layout], SIZE)


def test_otb_counts_the_first_frame():
    score = scored("otb", [TARGET, HALF, AWAY, TARGET], [TARGET] * 4)
    assert score.scores.ao == pytest.approx((1 + 1 / 3 + 0 + 1) / 4)
    # IoU 1 is above 20 thresholds of 21, 1/3 above 7.
    assert score.scores.success_auc == pytest.approx((20 + 7 + 0 + 20) / 4 / 21)
    assert score.scores.precision == 0.75
    assert score.scores.normalized_precision == 0.5
    assert (score.scores.sr50, score.scores.sr75) == (0.5, 0.5)
    assert (score.scores.nt2f50, score.scores.nt2f20) == (0.25, 0.5)
    assert score.scores.ms == pytest.approx(4.0), "the init is no update"


def test_got10k_leaves_out_the_first_frame_and_cuts_at_the_border():
    over = (-10.0, 10.0, 20.0, 20.0)
    score = scored("got10k", [TARGET, (-30.0, 10.0, 40.0, 20.0), TARGET], [TARGET, over, TARGET], absent=[2])
    assert score.counted.tolist() == [False, True, False]
    assert score.scores.ao == pytest.approx(1.0), "inside the image they are the same"
    assert scored("otb", [TARGET, (-30.0, 10.0, 40.0, 20.0)], [TARGET, over]).iou[1] == pytest.approx(0.5)


def test_frames_without_the_target_count_nowhere_but_in_uav123():
    boxes, truth = [TARGET, TARGET, TARGET, AWAY], [TARGET, TARGET, NAN_ROW, TARGET]
    plain, uav = scored("otb", boxes, truth), scored("uav123", boxes, truth)
    assert plain.scores.success_auc == pytest.approx(2 * 20 / 21 / 3)
    assert uav.scores.success_auc == pytest.approx(2 * 20 / 21 / 4), "a miss of the success plot"
    assert plain.scores.precision == pytest.approx(2 / 3)
    assert uav.scores.precision == pytest.approx(3 / 4), "a hit of the precision plot"
    assert uav.scores.ao == plain.scores.ao == pytest.approx(2 / 3)


def test_lasot_leaves_out_marked_frames_that_have_a_box():
    score = scored("lasot", [TARGET, AWAY, TARGET], [TARGET] * 3, absent=[1])
    assert score.counted.tolist() == [True, False, True]
    assert score.scores.ao == 1.0


def test_a_true_box_outside_the_image_is_counted_apart():
    score = scored("otb", [TARGET, TARGET, TARGET], [TARGET, (150.0, 0.0, 20.0, 20.0), TARGET])
    assert (score.outside, score.counted.tolist()) == (1, [True, False, True])
    assert score.scores.ao == 1.0


def test_saying_lost():
    boxes = [TARGET, AWAY, AWAY, TARGET, TARGET, HALF]
    truth = [TARGET, TARGET, NAN_ROW, TARGET, TARGET, TARGET]
    score = scored("otb", boxes, truth, lost=(1, 2, 3))
    # Frames 1 (IoU 0), 2 (not there) and 5 (IoU 1/3) are wrong; 1, 2 and, wrongly, 3 were said to be LOST.
    assert (score.lost, score.lost_right, score.wrong, score.answered) == (3, 2, 3, 5)


def test_lost_where_nothing_is_known_is_not_judged():
    unknown = AnnotatedSequence("s", (Path("0.png"),) * 3, np.array([TARGET, NAN_ROW, NAN_ROW]), np.zeros(3, bool))
    score = score_sequence(records([TARGET] * 3, lost=(1,)), unknown, CONVENTIONS["otb"], SIZE)
    assert (score.lost, score.wrong) == (0, 0)


def test_a_sequence_without_truth_has_no_figures_and_spoils_none():
    unknown = AnnotatedSequence("s", (Path("0.png"),) * 3, np.array([TARGET, NAN_ROW, NAN_ROW]), np.zeros(3, bool))
    nothing = score_sequence(records([TARGET] * 3), unknown, CONVENTIONS["got10k"], SIZE)
    assert np.isnan(nothing.scores.ao)
    assert np.isnan(nothing.scores.success_auc)
    something = scored("got10k", [TARGET, TARGET, HALF], [TARGET] * 3)
    both = summarize([nothing, something])
    assert both.mean.ao == pytest.approx(2 / 3)
    assert both.success[0] == 1.0


def test_means_are_over_sequences_and_pooled_figures_over_frames():
    short = scored("otb", [TARGET, AWAY], [TARGET] * 2)
    long = scored("otb", [TARGET] * 8, [TARGET] * 8)
    both = summarize([short, long])
    assert both.mean.ao == pytest.approx((0.5 + 1.0) / 2)
    assert both.ao_frames == pytest.approx(9 / 10)
    assert both.sr50_frames == pytest.approx(9 / 10)
    assert (both.sequences, both.frames, both.answered) == (2, 10, 8)
    np.testing.assert_allclose(both.success, (short.success + long.success) / 2)


def test_no_box_at_all_is_a_miss():
    score = scored("otb", [TARGET, None], [TARGET] * 2)
    assert (score.scores.ao, score.scores.precision) == (0.5, 0.5)
