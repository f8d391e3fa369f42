"""Objectives: which parameters learn, and that what they learn is what is asked for."""

from __future__ import annotations

from typing import ClassVar

import narrow
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from ros2_tracker.models.stark import Stark, StarkSettings  # noqa: E402
from ros2_tracker.models.variant import InputSettings  # noqa: E402
from ros2_tracker.training.objectives import (  # noqa: E402
    LossSettings,
    Trainee,
    make_objective,
    trained_parameters,
)
from ros2_tracker.training.render import Views  # noqa: E402


class Small:
    """As much of a variant as a family's `from_variant` reads."""

    network: ClassVar = {}
    template = InputSettings(32, 2.0)
    search = InputSettings(64, 4.0)


def views(count=4, template=32, search=64, recent=False):
    generator = torch.Generator().manual_seed(1)
    box = torch.rand(count, 4, generator=generator) * 0.2 + torch.tensor([0.4, 0.4, 0.2, 0.2])
    z, x = (torch.randn(count, 3, size, size, generator=generator) for size in (template, search))
    padded_z, padded_x = (torch.zeros(count, size, size, dtype=torch.bool) for size in (template, search))
    padded_x[:, :8] = True
    present = torch.arange(count) % 2 == 0
    used = torch.ones(count, dtype=torch.bool)
    size = torch.full((count, 2), 0.5)
    masks = padded_z, padded_z if recent else None, padded_x
    return Views(z, z if recent else None, x, *masks, size, box, present, used)


def stark(score_head=True):
    torch.manual_seed(0)
    settings = StarkSettings((1, 1, 1), score_head, width=32, heads=2, layers=1, hidden=32)
    return Stark(settings).requires_grad_(True)


def changed_by_steps(objective, network, inputs, steps=3):
    """Names of parameters that some steps change, and the first and last losses."""
    objective.set_training(network)
    learning = dict(trained_parameters(network, objective))
    before = {name: value.detach().clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.AdamW(learning.values(), lr=1e-3)
    totals = []
    for _ in range(steps):
        losses = Trainee(network, objective, None)(inputs)
        assert tuple(losses) == objective.losses
        total = sum(losses.values())
        totals.append(total.item())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}, totals


def test_center_objective_learns_all_of_the_network():
    torch.manual_seed(0)
    network = narrow.from_variant(Small)
    objective = make_objective("center", LossSettings(), network, 1)
    changed, totals = changed_by_steps(objective, network, views(), steps=12)
    assert {name for name, _ in network.named_parameters() if "cls_token" not in name} <= changed
    assert totals[-1] < totals[0]
    assert objective.boxes(network, views()).shape == (4, 4)


def test_losses_are_weighted():
    torch.manual_seed(0)
    network = narrow.from_variant(Small).eval()
    plain = make_objective("center", LossSettings(1.0, 1.0, 1.0), network, 1).loss(network, views())
    double = make_objective("center", LossSettings(2.0, 0.0, 3.0), network, 1).loss(network, views())
    assert double["score"].item() == pytest.approx(2 * plain["score"].item())
    assert double["giou"].item() == 0.0
    assert double["l1"].item() == pytest.approx(3 * plain["l1"].item())


def test_negatives_and_unused_samples_have_no_box():
    torch.manual_seed(0)
    network = narrow.from_variant(Small).eval()
    objective = make_objective("center", LossSettings(), network, 1)
    inputs = views()
    nobody = Views(*(getattr(inputs, n) for n in Views.__slots__[:-2]), torch.zeros(4, dtype=torch.bool), inputs.used)
    losses = objective.loss(network, nobody)
    assert losses["giou"].item() == losses["l1"].item() == 0.0
    assert losses["score"].item() > 0.0
    unused = Views(*(getattr(inputs, n) for n in Views.__slots__[:-1]), torch.zeros(4, dtype=torch.bool))
    assert sum(value.item() for value in objective.loss(network, unused).values()) == 0.0


@pytest.mark.parametrize("recent", [False, True])
def test_stark_learns_boxes_first(recent):
    network = stark()
    objective = make_objective("stark-box", LossSettings(), network, 2 if recent else 1)
    assert objective.needs_recent is recent
    changed, totals = changed_by_steps(objective, network, views(search=128, recent=recent), steps=4)
    assert totals[-1] < totals[0]
    assert not any(name.startswith("cls_head.") for name in changed)
    assert any(name.startswith("backbone.") for name in changed)
    assert any(name.startswith("box_head.") for name in changed)


def test_stark_learns_its_score_second_and_nothing_else():
    network = stark()
    objective = make_objective("stark-score", LossSettings(), network, 2)
    changed, totals = changed_by_steps(objective, network, views(search=128, recent=True), steps=8)
    assert changed == {name for name, _ in network.named_parameters() if name.startswith("cls_head.")}
    assert totals[-1] < totals[0]


def test_objectives_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="stark-score does not fit a Stark"):
        make_objective("stark-score", LossSettings(), stark(score_head=False), 2)
    with pytest.raises(ValueError, match="center does not fit a Stark"):
        make_objective("center", LossSettings(), stark(), 1)
    with pytest.raises(ValueError, match="'both', must be one of"):
        make_objective("both", LossSettings(), stark(), 1)
