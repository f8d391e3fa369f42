"""Losses against values computed by hand."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from ros2_tracker.training.losses import (  # noqa: E402
    box_losses,
    boxes_in_cells,
    focal_hinge_loss,
    focal_loss,
    gaussian_label,
    iou_giou,
    score_loss,
    truth_cells,
)

YES, NO = torch.tensor([True]), torch.tensor([False])


def test_label_is_one_in_the_truths_cell_and_falls_with_the_size():
    box = torch.tensor([[0.3, 0.55, 0.5, 0.25]])  # centre in cell (4.8, 8.8) of 16: column 4, row 8
    label = gaussian_label(box, 16, 0.16)[0]
    assert truth_cells(box, 16).tolist() == [[4, 8]]
    assert label.argmax() == 8 * 16 + 4
    assert label[8, 4] == 1.0
    assert (label == 1.0).sum() == 1
    spread_x, spread_y = 0.16 * 0.5 * 16, 0.16 * 0.25 * 16  # 1.28 and 0.64 cells
    assert label[8, 6].item() == pytest.approx(math.exp(-0.5 * (2 / spread_x) ** 2), rel=1e-5)
    assert label[9, 4].item() == pytest.approx(math.exp(-0.5 * (1 / spread_y) ** 2), rel=1e-5)


def test_label_of_a_tiny_target_is_still_a_label():
    label = gaussian_label(torch.tensor([[0.5, 0.5, 1e-4, 1e-4]]), 16, 0.16)
    assert torch.isfinite(label).all()
    assert label.max() == 1.0


def test_focal_loss_by_hand():
    label = torch.tensor([[[1.0, 0.5], [0.0, 0.0]]])
    score = torch.tensor([[[0.8, 0.6], [0.1, 0.5]]])
    expected = -(
        0.2**2 * math.log(0.8) + 0.5**4 * 0.6**2 * math.log(0.4) + 0.1**2 * math.log(0.9) + 0.5**2 * math.log(0.5)
    )
    assert focal_loss(score, label, YES).item() == pytest.approx(expected, rel=1e-5)
    twice = focal_loss(score.repeat(2, 1, 1), label.repeat(2, 1, 1), YES.repeat(2))
    assert twice.item() == pytest.approx(expected, rel=1e-5)
    one_unused = focal_loss(score.repeat(2, 1, 1), label.repeat(2, 1, 1), torch.cat([YES, NO]))
    assert one_unused.item() == pytest.approx(expected, rel=1e-5)


def test_focal_loss_of_negatives_alone():
    score = torch.tensor([[[0.5]]])
    loss = focal_loss(score, torch.zeros(1, 1, 1), YES)
    assert loss.item() == pytest.approx(-(0.5**2) * math.log(0.5), rel=1e-5)
    assert focal_loss(score, torch.zeros(1, 1, 1), NO).item() == 0.0


def test_focal_loss_of_certain_mistakes_is_finite_in_bfloat16():
    score = torch.tensor([[[1.0, 0.0]]], dtype=torch.bfloat16, requires_grad=True)
    loss = focal_loss(score, torch.tensor([[[0.0, 1.0]]]), YES)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(score.grad).all()


def test_focal_hinge_by_hand():
    label = torch.tensor([[[1.0, 0.2], [0.04, 0.0]]])
    score = torch.tensor([[[0.7, 0.5], [0.3, -2.0]]])
    expected = (0.3 + 0.2**0.1 * 0.3 + 0.9 * 0.3 + 0.0) / 4
    assert focal_hinge_loss(score, label, YES).item() == pytest.approx(expected, rel=1e-5)
    assert focal_hinge_loss(score, label, NO).item() == 0.0


def test_focal_hinge_lets_the_background_be_as_low_as_it_likes():
    score = torch.tensor([[[-3.0, 0.5]]], requires_grad=True)
    focal_hinge_loss(score, torch.zeros(1, 1, 2), YES).backward()
    assert score.grad[0, 0].tolist() == pytest.approx([0.0, 0.45])


def test_score_loss_by_hand():
    logit = torch.tensor([0.0, 2.0, -5.0])
    loss = score_loss(logit, torch.tensor([True, False, True]), torch.tensor([True, True, False]))
    assert loss.item() == pytest.approx((math.log(2) + 2.0 + math.log1p(math.exp(-2.0))) / 2, rel=1e-5)


def test_giou_and_l1_by_hand():
    truth = torch.tensor([[0.5, 0.5, 0.2, 0.2]])
    shifted = torch.tensor([[0.6, 0.5, 0.2, 0.2]])  # overlap 0.1 x 0.2 of a union of 0.06, hull 0.3 x 0.2
    giou, l1 = box_losses(shifted, truth, YES)
    assert giou.item() == pytest.approx(1.0 - 1 / 3, rel=1e-4)
    assert l1.item() == pytest.approx(0.05, rel=1e-4)
    apart = torch.tensor([[0.9, 0.5, 0.2, 0.2]])  # union 0.08, hull 0.6 x 0.2 = 0.12
    iou, generalised = iou_giou(apart, truth)
    assert iou.item() == 0.0
    assert generalised.item() == pytest.approx(-(0.12 - 0.08) / 0.12, rel=1e-4)
    same, none = box_losses(truth, truth, YES)
    assert same.item() == pytest.approx(0.0, abs=1e-6)
    assert none.item() == 0.0


def test_unused_boxes_count_for_nothing():
    truth = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2]])
    found = torch.tensor([[0.6, 0.5, 0.2, 0.2], [0.1, 0.1, 0.9, 0.9]])
    used = torch.tensor([True, False])
    assert [v.item() for v in box_losses(found, truth, used)] == pytest.approx([2 / 3, 0.05], rel=1e-4)
    assert [v.item() for v in box_losses(found, truth, ~used & used)] == [0.0, 0.0]


def test_crossed_corners_have_finite_losses_that_pull_them_apart():
    box = torch.tensor([[0.5, 0.5, -0.1, 0.2]], requires_grad=True)
    giou, l1 = box_losses(box, torch.tensor([[0.5, 0.5, 0.2, 0.2]]), YES)
    (giou + l1).backward()
    assert torch.isfinite(box.grad).all()
    assert box.grad[0, 2] < 0.0


def test_boxes_are_read_where_the_decoder_reads_them():
    from ros2_tracker.models.ostrack import CenterMaps, decode_centers

    torch.manual_seed(0)
    maps = CenterMaps(torch.rand(3, 1, 8, 8), torch.rand(3, 2, 8, 8), torch.rand(3, 2, 8, 8))
    best = maps.score.flatten(1).argmax(1)
    cells = torch.stack([best % 8, best // 8], dim=1)
    torch.testing.assert_close(boxes_in_cells(maps.size, maps.offset, cells), decode_centers(maps)[0])
