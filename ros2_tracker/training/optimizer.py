"""AdamW's groups, its learning rate at each step, and the moving average of the weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ros2_tracker.training.config import OptimizerConfig


def make_optimizer(parameters: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW with a group per weight decay and rate factor; ValueError for a factor whose name starts no parameter's.

    Parameters of factor 0 are left out, and their `requires_grad` is cleared: no gradient is computed for them.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    unmatched = set(config.rate_factors)
    for name, parameter in parameters:
        starts = [start for start in config.rate_factors if name.startswith(start)]
        unmatched -= set(starts)
        factor = config.rate_factors[max(starts, key=len)] if starts else 1.0
        if factor == 0.0:
            parameter.requires_grad_(False)
            continue
        # Biases, norms, and learned positions (1, N, C) are no matrices.
        matrix = parameter.squeeze().ndim >= 2 and not (parameter.ndim == 3 and parameter.shape[0] == 1)
        groups.setdefault((config.weight_decay if matrix else 0.0, factor), []).append(parameter)
    if unmatched:
        raise ValueError(f"rate_factors: no trained parameter's name starts with {', '.join(sorted(unmatched))}")
    if not groups:
        raise ValueError("there is no parameter to train")
    return torch.optim.AdamW(
        [{"params": found, "weight_decay": decay, "factor": factor} for (decay, factor), found in groups.items()],
        lr=config.learning_rate,
    )


def learning_rate(step: int, config: OptimizerConfig) -> float:
    """Linear from 0 during the warm-up, then a cosine down to `final_rate` of the highest at the last step."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    part = (step - config.warmup_steps) / max(config.steps - 1 - config.warmup_steps, 1)
    share = 0.5 * (1.0 + math.cos(math.pi * min(part, 1.0)))
    return config.learning_rate * (config.final_rate + (1.0 - config.final_rate) * share)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


class MovingAverage:
    """Exponential average of weights and statistics; young averages follow faster."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Start with the network as it is."""
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay = decay
        theirs, mine = network.state_dict(keep_vars=True), self.network.state_dict(keep_vars=True)
        self._pairs = [(mine[name], theirs[name]) for name in mine if mine[name].is_floating_point()]
        self._counts = [(mine[name], theirs[name]) for name in mine if not mine[name].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the network after a step."""
        decay = min(self._decay, (1.0 + step) / (10.0 + step))
        averaged = [mine for mine, _ in self._pairs]
        get_ema_multi_avg_fn(decay)(averaged, [theirs.detach() for _, theirs in self._pairs], None)
        for count, value in self._counts:
            count.copy_(value)


class Statistics:
    """The buffers (of batch normalisations) as they were, in case a bad batch has to be forgotten."""

    def __init__(self, network: nn.Module) -> None:
        self._buffers = list(network.buffers())
        self._kept = [buffer.clone() for buffer in self._buffers]

    def keep(self) -> None:
        """Remember them."""
        for kept, buffer in zip(self._kept, self._buffers, strict=True):
            kept.copy_(buffer)

    def forget_batch(self) -> None:
        """Back to what was remembered."""
        for kept, buffer in zip(self._kept, self._buffers, strict=True):
            buffer.copy_(kept)
