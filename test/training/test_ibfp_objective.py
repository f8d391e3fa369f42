"""IBFP's objective: its losses against NumPy, what learns, and its configs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from ros2_tracker.models.ibfp import Ibfp, IbfpSettings  # noqa: E402
from ros2_tracker.training.config import load_config  # noqa: E402
from ros2_tracker.training.losses import focal_hinge_loss, gaussian_label  # noqa: E402
from ros2_tracker.training.objectives import (  # noqa: E402
    LossSettings,
    Trainee,
    make_objective,
    sides_loss,
    trained_parameters,
)
from ros2_tracker.training.render import Views  # noqa: E402
from ros2_tracker.training.setup import layout  # noqa: E402

CONFIGS = Path(__file__).parents[2] / "config" / "training"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network():
    torch.manual_seed(0)
    return Ibfp(IbfpSettings(size=96, width=4, head_width=8)).requires_grad_(True)


def views(count=4, size=96):
    generator = torch.Generator().manual_seed(1)
    box = torch.rand(count, 4, generator=generator) * 0.2 + torch.tensor([0.4, 0.4, 0.2, 0.2])
    z, x = (torch.randn(count, 3, size, size, generator=generator) for _ in range(2))
    padded = torch.zeros(count, size, size, dtype=torch.bool)
    present = torch.arange(count) % 2 == 0
    size = torch.rand(count, 2, generator=generator) * 0.2 + 0.1
    return Views(z, None, x, padded, None, padded, size, box, present, torch.ones(count, dtype=torch.bool))


def test_sides_are_compared_at_the_points_near_the_centre():
    """SPEC 4.1: |dx| <= 0.25 w and |dy| <= 0.25 h, transcribed."""
    count, rng = 24, np.random.default_rng(0)
    sides = rng.uniform(0.0, 0.3, (3, 4, count, count)).astype(np.float32)
    boxes = np.array([[0.5, 0.45, 0.4, 0.3], [0.3, 0.6, 0.2, 0.5], [0.5, 0.5, 0.6, 0.6]], np.float32)
    used = [True, True, False]
    terms = []
    for sample in np.flatnonzero(used):
        cx, cy, w, h = boxes[sample]
        for row in range(count):
            for column in range(count):
                x, y = (column + 0.5) / count, (row + 0.5) / count
                if abs(x - cx) <= 0.25 * w and abs(y - cy) <= 0.25 * h:
                    truth = [x - (cx - w / 2), y - (cy - h / 2), cx + w / 2 - x, cy + h / 2 - y]
                    terms.append(np.abs(sides[sample, :, row, column] - truth).mean())
    found = sides_loss(torch.from_numpy(sides), torch.from_numpy(boxes), torch.tensor(used))
    assert len(terms) > 5
    assert found.item() == pytest.approx(np.mean(terms), rel=1e-4)


def test_a_thin_target_has_the_cell_of_its_centre():
    sides = torch.full((1, 4, 12, 12), 0.5)
    box = torch.tensor([[0.5, 0.5, 0.4, 1e-3]])
    assert sides_loss(sides, box, torch.tensor([True])).item() > 0.0
    assert sides_loss(sides, box, torch.tensor([False])).item() == 0.0


def test_losses_are_the_papers_and_weighted():
    net, inputs = network().eval(), views()
    losses = make_objective("ibfp", LossSettings(score=3.0, l1=2.0, sigma=0.25), net, 1).loss(net, inputs)
    maps = net.find(net.template(inputs.template, inputs.template_size), inputs.search)
    label = gaussian_label(inputs.box, 12, 0.25) * inputs.present[:, None, None]
    score = focal_hinge_loss(maps.score[:, 0], label, inputs.used)
    assert losses["score"].item() == pytest.approx(3.0 * score.item())
    sides = sides_loss(maps.sides, inputs.box, inputs.present)
    assert losses["l1"].item() == pytest.approx(2.0 * sides.item())


def test_a_narrow_network_is_not_laid_out_as_torch_crashes():
    """A strided 1x1 convolution of few channels."""
    assert layout(network()) == torch.contiguous_format
    assert layout(Ibfp(IbfpSettings(size=96, width=16, head_width=8))) == torch.channels_last


def test_all_of_it_learns():
    net, inputs = network(), views()
    net.to(memory_format=layout(net))
    objective = make_objective("ibfp", LossSettings(), net, 1)
    objective.set_training(net)
    optimizer = torch.optim.AdamW(dict(trained_parameters(net, objective)).values(), lr=2e-3)
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    totals = []
    for _ in range(12):
        losses = Trainee(net, objective, None)(inputs)
        assert tuple(losses) == objective.losses
        total = sum(losses.values())
        totals.append(total.item())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert [name for name, value in net.named_parameters() if torch.equal(value, before[name])] == []
    assert totals[-1] < 0.7 * totals[0]
    assert objective.boxes(net, inputs).shape == (4, 4)


def test_painted_targets_of_a_batch_are_found_after_some_steps():
    torch.manual_seed(0)
    net = Ibfp(IbfpSettings(size=160, width=8, head_width=16)).requires_grad_(True)
    inputs = views(6, 160)
    box = inputs.box.clone()
    box[:, :2] = torch.tensor([[0.3, 0.4], [0.6, 0.3], [0.5, 0.7], [0.7, 0.6], [0.35, 0.65], [0.5, 0.45]])
    box[:, 2:] = 0.2
    colours = 2.0 * torch.randn(6, 3, 1, 1, generator=torch.Generator().manual_seed(4))
    template, search = 0.3 * inputs.template, 0.3 * inputs.search
    for i, (cx, cy) in enumerate((box[:, :2] * 160).long().tolist()):
        template[i, :, 64:96, 64:96] += colours[i]
        search[i, :, cy - 16 : cy + 16, cx - 16 : cx + 16] += colours[i]
    everywhere = torch.ones(6, dtype=torch.bool)
    shown = {"template": template, "template_size": torch.full((6, 2), 0.2), "search": search, "box": box}
    painted = replace(inputs, **shown, present=everywhere)
    objective = make_objective("ibfp", LossSettings(score=5.0, l1=1.0, sigma=0.25), net, 1)
    objective.set_training(net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for _ in range(25):
        optimizer.zero_grad()
        sum(objective.loss(net, painted).values()).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    found = objective.boxes(net, painted)
    assert (found - box).abs().max() < 0.1


def test_the_highest_score_is_found_also_below_0():
    net, inputs = network().eval(), views()
    where = torch.zeros(4, 1, 12, 12)
    where[:, :, 7, 4] = 1.0
    found = net.find(net.template(inputs.template, inputs.template_size), inputs.search)
    net.find = lambda template, search: found._replace(score=where - 2.0)
    boxes = make_objective("ibfp", LossSettings(), net, 1).boxes(net, inputs)
    left, top, right, bottom = found.sides[:, :, 7, 4].T
    torch.testing.assert_close(boxes[:, 0], 4.5 / 12 + (right - left) / 2)
    torch.testing.assert_close(boxes[:, 3], top + bottom)


def test_objectives_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="center does not fit a Ibfp"):
        make_objective("center", LossSettings(), network(), 1)
    with pytest.raises(ValueError, match="ibfp does not fit a Linear"):
        make_objective("ibfp", LossSettings(), torch.nn.Linear(1, 1), 1)


def test_start_learns_where_the_target_is_from_scores_on_the_papers_scale():
    net, inputs = network(), views()
    start = make_objective("ibfp-start", LossSettings(score=1.0, l1=0.0, sigma=0.25), net, 1)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = sum(start.loss(net, inputs).values())
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        score = net.find(net.template(inputs.template, inputs.template_size), inputs.search).score[:, 0]
    label = gaussian_label(inputs.box, score.shape[-1], 0.25)
    there, absent = score[inputs.present], score[~inputs.present]
    assert (there[label[inputs.present] == 1.0] > 0.5).all(), "nearer to the label's 1 than to 0"
    assert (absent < 0.5).all()


@pytest.mark.parametrize("name", ["ibfp-r18", "ibfp-r18-cpu"])
def test_configs_are_complete(name):
    config = load_config(CONFIGS / f"{name}.yaml")
    assert config.objective == "ibfp"
    assert config.loss.giou == 0.0
    assert config.optimizer.weight_decay == 0.0
