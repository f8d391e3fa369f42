"""InMo's losses."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from ros2_tracker.models.build import build_network  # noqa: E402
from ros2_tracker.models.variant import load_variant  # noqa: E402
from ros2_tracker.training.inmo_objective import cell_loss, center_loss, target_cells  # noqa: E402
from ros2_tracker.training.objectives import LossSettings, make_objective  # noqa: E402

NARROW = {"depths": [1, 1, 1, 1], "width": 12}
BOX = torch.tensor([[0.5, 0.4, 0.25, 0.125], [0.9, 0.9, 0.001, 0.001]])


def places(cells):
    return (torch.arange(cells) + 0.5) / cells


def test_cells_of_the_target():
    inside = target_cells(BOX, places(16))
    # Columns of 0.375 to 0.625, rows of 0.3375 to 0.4625.
    assert inside[0].nonzero().tolist() == [[y, x] for y in (5, 6) for x in range(6, 10)]
    # One cell at least.
    assert inside[1].nonzero().tolist() == [[14, 14]]


def test_background_counts_less():
    inside = target_cells(BOX, places(16))
    used = torch.tensor([True, True])
    logit = torch.where(inside, 2.0, -2.0)
    wrong_target, wrong_background = logit.clone(), logit.clone()
    wrong_target[0, 6, 6], wrong_background[0, 0, 0] = -2.0, 2.0
    right = cell_loss(logit, inside, used, 1 / 16)
    a, b = (cell_loss(wrong, inside, used, 1 / 16) - right for wrong in (wrong_target, wrong_background))
    assert a == pytest.approx(16 * float(b), rel=1e-3)
    # Balanced: the background's cells count together as much as the target's.
    everywhere = cell_loss(torch.full_like(logit, 3.0), inside, used, None)
    nowhere = cell_loss(torch.full_like(logit, -3.0), inside, used, None)
    assert everywhere == pytest.approx(float(nowhere))
    unused = torch.tensor([True, False])
    spoilt = logit.clone()
    spoilt[1] = 9.0
    inside[1] = False
    assert cell_loss(spoilt, inside, unused, 1 / 16) == pytest.approx(float(cell_loss(logit, inside, unused, 1 / 16)))


def test_centerness_is_one_in_the_middle():
    place = places(17)
    box = torch.tensor([[0.5, 0.5, 0.5, 0.5]])
    inside = target_cells(box, place)
    middle = torch.zeros_like(inside)
    middle[0, 8, 8] = True
    sure = torch.full((1, 17, 17), 8.0)
    assert center_loss(sure, box, place, middle) < 1e-3
    assert center_loss(-sure, box, place, middle) > 7.0
    assert center_loss(sure, box, place, inside) > 1.0


@pytest.mark.parametrize(
    ("name", "sizes", "changed"),
    [
        ("transinmo", (128, 256), {}),
        ("transinmo-star", (128, 256), {"layers": 1, "neck_width": 64}),
        ("cnninmo", (127, 255), {}),
    ],
)
def test_a_few_steps_learn(name, sizes, changed):
    """One pair, again and again: the loss falls, and every weight has a part in it."""
    torch.manual_seed(2)
    variant = load_variant(name)
    network = build_network(replace(variant, network={**variant.network, **NARROW, **changed, "attention": "paper"}))
    objective = make_objective("inmo", LossSettings(score=4.0), network, 1)
    template, search = torch.zeros(1, 3, sizes[0], sizes[0]), torch.zeros(1, 3, sizes[1], sizes[1])
    template[:, :, 32:96, 32:96] = 2.0
    search[:, :, 80:144, 112:176] = 2.0
    box = torch.tensor([[144.0, 112.0, 64.0, 64.0]]) / sizes[1]
    yes = torch.tensor([True])
    views = SimpleNamespace(template=template, search=search, box=box, present=yes, used=yes)
    objective.set_training(network)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-4)
    totals = []
    for _ in range(8):
        losses = objective.loss(network, views)
        assert tuple(losses) == objective.losses
        totals.append(sum(losses.values()))
        optimizer.zero_grad()
        totals[-1].backward()
        optimizer.step()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert totals[-1] < 0.85 * totals[0]
    found = objective.boxes(network, views)
    assert found.shape == (1, 4)
    assert found.isfinite().all()


def test_it_fits_inmo_only():
    network = build_network(load_variant("multistage-tiny"), empty=True)
    with pytest.raises(ValueError, match="objective inmo does not fit a MultiStage"):
        make_objective("inmo", LossSettings(), network, 1)
    with pytest.raises(ValueError, match="objective center does not fit a TransInMo"):
        make_objective("center", LossSettings(), build_network(load_variant("transinmo"), empty=True), 1)
