"""IBFP's online branch as the paper words it: four convolutions, fitted and updated by SGD.

The paper gives no optimiser; steps, rate and momentum are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ros2_tracker.models.ibfp_online import (
    Memory,
    first_samples,
    labels_of,
    onto_head,
    unit_power,
    weighted_errors,
)
from ros2_tracker.models.ibfp_settings import OnlineSettings

_LAYERS = 4
_BATCH = 8
_STEPS_A_FIT = 10
"""Of SGD for each of `fit_steps`."""
_RATE, _MOMENTUM = 0.02, 0.9
_LONGEST_GRADIENT = 1.0
_SEED = 1


class LayersBranch:
    """Fits four 3x3 convolutions; see `ibfp_settings.OnlineBranch`."""

    def __init__(self, settings: OnlineSettings) -> None:
        self.settings = settings

    def fitted(self, features: NDArray[np.float32], places: NDArray[np.float32]) -> LayersModel:
        """From random weights, always the same."""
        settings = self.settings
        samples, labels = first_samples(features, places, settings, features.shape[-1], at_corners=False)
        generator = torch.Generator().manual_seed(_SEED)
        widths = (samples.shape[1], *[settings.hidden] * (_LAYERS - 1), 1)
        kernels = []
        for i in range(_LAYERS):
            gain = (2.0 if i < _LAYERS - 1 else 0.01) / (9 * widths[i])
            kernels.append(torch.randn(widths[i + 1], widths[i], 3, 3, generator=generator) * gain**0.5)
        model = LayersModel(settings, tuple(kernels), Memory.of(samples.unbind(), labels.unbind()), 0)
        return model.trained(_STEPS_A_FIT * settings.fit_steps)


@dataclass(frozen=True, slots=True)
class LayersModel:
    """Kernels and memory of one target; see `ibfp_settings.OnlineModel`."""

    settings: OnlineSettings
    kernels: tuple[Tensor, ...]
    memory: Memory
    steps: int
    """Of SGD so far: the seed of what is drawn next."""

    @torch.no_grad()
    def response(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `OnlineModel.response`."""
        found = _responses(unit_power(torch.from_numpy(features)[None]), self.kernels)
        return onto_head(found[0], at_corners=False).numpy()

    @torch.no_grad()
    def remembered(self, features: NDArray[np.float32], place: Sequence[float], rate: float) -> LayersModel:
        """See `OnlineModel.remembered`."""
        settings = self.settings
        sample = unit_power(torch.from_numpy(features)[None])[0]
        at = torch.tensor([[*map(float, place)]])
        label = labels_of(at, features.shape[-1], settings.sigma, at_corners=False)[0]
        return replace(self, memory=self.memory.with_sample(sample, label, rate, settings))

    def updated(self) -> LayersModel:
        """See `OnlineModel.updated`."""
        return self.trained(self.settings.iterations)

    def trained(self, steps: int) -> LayersModel:
        """After so many steps of SGD, each on a few samples drawn by their weights."""
        memory = self.memory
        generator = torch.Generator().manual_seed(_SEED + self.steps)
        kernels = [kernel.clone().requires_grad_(True) for kernel in self.kernels]
        optimizer = torch.optim.SGD(kernels, _RATE, _MOMENTUM)
        equal = torch.full((_BATCH,), 1.0 / _BATCH)
        for _ in range(steps):
            drawn = torch.multinomial(memory.weights, _BATCH, replacement=True, generator=generator).tolist()
            samples, labels = (torch.stack([kept[i] for i in drawn]) for kept in (memory.features, memory.labels))
            loss = weighted_errors(_responses(samples, kernels), labels, equal, self.settings.hinge).square().sum()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(kernels, _LONGEST_GRADIENT)
            optimizer.step()
        return replace(self, kernels=tuple(kernel.detach() for kernel in kernels), steps=self.steps + steps)


def _responses(features: Tensor, kernels: Sequence[Tensor]) -> Tensor:
    """(N, C, F, F) -> (N, F, F)."""
    for kernel in kernels[:-1]:
        features = F.relu(F.conv2d(features, kernel, padding=1))
    return F.conv2d(features, kernels[-1], padding=1)[:, 0]
