"""Learning rate, parameter groups, moving average, and statistics that forget a bad batch."""

from __future__ import annotations

from itertools import pairwise

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from torch import nn  # noqa: E402

from ros2_tracker.training.config import OptimizerConfig  # noqa: E402
from ros2_tracker.training.optimizer import (  # noqa: E402
    MovingAverage,
    Statistics,
    learning_rate,
    make_optimizer,
    set_learning_rate,
)


def test_learning_rate_warms_up_and_falls_to_its_final_share():
    config = OptimizerConfig(steps=101, learning_rate=2.0, final_rate=0.1, warmup_steps=10)
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[4] == pytest.approx(1.0)
    assert rates[9] == rates[10] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(0.1 * 2 + 0.9 * 2 * 0.5)
    assert rates[100] == pytest.approx(0.2)
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert learning_rate(0, OptimizerConfig(steps=1, warmup_steps=0)) > 0.0


def network():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    net.position = nn.Parameter(torch.zeros(1, 5, 4))
    return net


def test_groups_by_weight_decay_and_rate_factor():
    net = network()
    config = OptimizerConfig(learning_rate=1.0, weight_decay=0.3, rate_factors={"0.": 0.1})
    optimizer = make_optimizer(net.named_parameters(), config)
    set_learning_rate(optimizer, 0.5)
    found = {}
    for group in optimizer.param_groups:
        for name, parameter in net.named_parameters():
            if any(parameter is p for p in group["params"]):
                found[name] = (group["weight_decay"], group["lr"])
    assert found == {
        "0.weight": (0.3, 0.05),
        "0.bias": (0.0, 0.05),
        "1.weight": (0.0, 0.5),
        "1.bias": (0.0, 0.5),
        "3.weight": (0.3, 0.5),
        "3.bias": (0.0, 0.5),
        "position": (0.0, 0.5),
    }
    with pytest.raises(ValueError, match=r"starts with head\."):
        make_optimizer(net.named_parameters(), OptimizerConfig(rate_factors={"head.": 0.1}))
    with pytest.raises(ValueError, match="no parameter to train"):
        make_optimizer([], OptimizerConfig())


def test_parameters_of_factor_zero_stay_and_need_no_gradient():
    net = network()
    before = net[0].weight.detach().clone()
    optimizer = make_optimizer(net.named_parameters(), OptimizerConfig(rate_factors={"0.": 0.0}))
    net(torch.ones(2, 3, 3, 3)).sum().backward()
    optimizer.step()
    assert net[0].weight.grad is None
    assert net[0].bias.grad is None
    assert torch.equal(net[0].weight, before)
    assert net[3].weight.grad is not None
    assert not any(p is net[0].weight for group in optimizer.param_groups for p in group["params"])


def test_moving_average_by_hand():
    net = nn.Linear(1, 1)
    nn.init.constant_(net.weight, 1.0)
    average = MovingAverage(net, 0.9)
    nn.init.constant_(net.weight, 2.0)
    average.update(0)  # young: (1 + 0) / (10 + 0)
    assert average.network.weight.item() == pytest.approx(0.1 * 1.0 + 0.9 * 2.0)
    average.update(1000)
    assert average.network.weight.item() == pytest.approx(0.9 * 1.9 + 0.1 * 2.0)
    assert not average.network.weight.requires_grad
    assert not average.network.training


def test_moving_average_counts_batches_as_the_network():
    net = network()
    average = MovingAverage(net, 0.9)
    net[:2](torch.randn(4, 3, 5, 5))
    average.update(3)
    assert average.network[1].num_batches_tracked == 1
    assert not torch.equal(average.network[1].running_mean, torch.zeros(4))


def test_statistics_forget_a_batch():
    net = network()
    net[:2](torch.randn(4, 3, 5, 5))
    statistics = Statistics(net)
    before = [buffer.clone() for buffer in net.buffers()]
    statistics.keep()
    net[:2](torch.full((4, 3, 5, 5), float("nan")))
    assert net[1].running_mean.isnan().all()
    statistics.forget_batch()
    assert all(torch.equal(a, b) for a, b in zip(before, net.buffers(), strict=True))
