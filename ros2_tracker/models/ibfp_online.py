"""IBFP's online branch as ATOM's target classification (arXiv 1811.07628, sec. 3.2): a projection and a filter.

    features (256 channels) -> 1x1 -> 64 channels -> 4x4 -> response

Both are fitted to the first frame; later the filter alone learns, from a memory of projected samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ros2_tracker.models.ibfp_optimizer import Tensors, gauss_newton
from ros2_tracker.models.ibfp_settings import OnlineSettings

_KERNEL = 4
_DROPOUTS = 2
"""Copies of the first sample without some of its channels."""
_DROPPED = 0.2
"""Share of the channels."""
_SEED = 1
_LEAST = 1e-8
"""In place of regularisations and weights that would be divided by."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Samples of one target with their labels and weights, which sum to 1."""

    features: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]
    weights: Tensor
    first: int
    """How many of them, the foremost, are of the first frame: nothing takes their place."""

    @classmethod
    def of(cls, features: Sequence[Tensor], labels: Sequence[Tensor]) -> Memory:
        """Of the first frame, of the same weight."""
        count = len(features)
        return cls(tuple(features), tuple(labels), torch.full((count,), 1.0 / count), count)

    def with_sample(self, features: Tensor, label: Tensor, rate: float, settings: OnlineSettings) -> Memory:
        """With one more, which takes `rate` of all weight; a full memory gives up its least important later one."""
        kept_features, kept_labels, weights = list(self.features), list(self.labels), self.weights * (1.0 - rate)
        if len(kept_features) < settings.memory:
            kept_features.append(features)
            kept_labels.append(label)
            weights = torch.cat([weights, torch.tensor([rate])])
        else:
            oldest = self.first + int(weights[self.first :].argmin())
            kept_features[oldest], kept_labels[oldest], weights[oldest] = features, label, rate
        late = weights[self.first :]
        share = max(float(1.0 - late.sum() / weights.sum()), settings.first_weight)
        early = torch.full((self.first,), share / self.first)
        weights = torch.cat([early, late * ((1.0 - share) / late.sum().clamp_min(_LEAST))])
        return Memory(tuple(kept_features), tuple(kept_labels), weights, self.first)


class FilterBranch:
    """Fits projection and filter; see `ibfp_settings.OnlineBranch`."""

    def __init__(self, settings: OnlineSettings) -> None:
        self.settings = settings

    def fitted(self, features: NDArray[np.float32], places: NDArray[np.float32]) -> FilterModel:
        """By Gauss-Newton on both at once, from a random projection (always the same) and no filter."""
        settings = self.settings
        samples, labels = first_samples(features, places, settings, features.shape[-1] + 1, at_corners=True)
        generator = torch.Generator().manual_seed(_SEED)
        channels = samples.shape[1]
        projection = torch.randn(settings.channels, channels, generator=generator) / channels**0.5
        kernel = torch.zeros(_KERNEL**2, settings.channels)
        together = samples.transpose(0, 1)
        weights = torch.full((len(samples),), 1.0 / len(samples))

        # Conjugate gradients see each parameter times the root of its regularisation: ATOM's preconditioner, without
        # which ten of them hardly move the projection.
        scales = [max(r, _LEAST) ** 0.5 for r in (settings.projection_regularisation, settings.filter_regularisation)]

        def residuals(projection: Tensor, kernel: Tensor) -> Tensors:
            # Their product first: a quarter of the work.
            response = responses(together, kernel / scales[1] @ (projection / scales[0]))
            return weighted_errors(response, labels, weights, settings.hinge), kernel, projection

        start = (projection * scales[0], kernel * scales[1])
        projection, kernel = gauss_newton(residuals, start, settings.fit_steps, settings.fit_iterations)
        projection, kernel = projection / scales[0], kernel / scales[1]
        projected = [_projected(sample, projection) for sample in samples]
        return FilterModel(settings, projection, kernel, Memory.of(projected, labels.unbind()))


@dataclass(frozen=True, slots=True)
class FilterModel:
    """Projection, filter and memory of one target; see `ibfp_settings.OnlineModel`."""

    settings: OnlineSettings
    projection: Tensor
    """(64, C), the same for ever."""
    kernel: Tensor
    """(16, 64): the filter, a row for each of its places."""
    memory: Memory
    """Of projected samples, (64, F, F) each."""

    @torch.no_grad()
    def response(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `OnlineModel.response`."""
        found = responses(self._projected(features)[:, None], self.kernel)
        return onto_head(found[0], at_corners=True).numpy()

    @torch.no_grad()
    def remembered(self, features: NDArray[np.float32], place: Sequence[float], rate: float) -> FilterModel:
        """See `OnlineModel.remembered`."""
        settings = self.settings
        corners = features.shape[-1] + 1
        label = labels_of(torch.tensor([[*map(float, place)]]), corners, settings.sigma, at_corners=True)[0]
        return replace(self, memory=self.memory.with_sample(self._projected(features), label, rate, settings))

    def updated(self) -> FilterModel:
        """See `OnlineModel.updated`: one Gauss-Newton step of the filter."""
        settings, memory = self.settings, self.memory
        samples, labels = torch.stack(memory.features, dim=1), torch.stack(memory.labels)

        def residuals(kernel: Tensor) -> Tensors:
            errors = weighted_errors(responses(samples, kernel), labels, memory.weights, settings.hinge)
            return errors, settings.filter_regularisation**0.5 * kernel

        (kernel,) = gauss_newton(residuals, (self.kernel,), 1, settings.iterations)
        return replace(self, kernel=kernel)

    def _projected(self, features: NDArray[np.float32]) -> Tensor:
        return _projected(unit_power(torch.from_numpy(features)[None])[0], self.projection)


def _projected(sample: Tensor, projection: Tensor) -> Tensor:
    return (projection @ sample.flatten(1)).unflatten(1, sample.shape[1:])


def responses(samples: Tensor, kernel: Tensor) -> Tensor:
    """Of a 4x4 filter, whose place (u, v) takes what cell (y, x) holds to corner (y + u - 1, x + v - 1).

    As one matrix product for all places, whose answers are then added up: several times as fast as a convolution with
    one output channel.

    Args:
        samples: (C, N, F, F).
        kernel: (16, C).

    Returns:
        (N, F + 1, F + 1), on the corners of the cells.

    """
    _, count, cells, _ = samples.shape
    shares = (kernel @ samples.flatten(1)).view(len(kernel), count, -1).transpose(0, 1)
    return F.fold(shares, cells + 1, _KERNEL, padding=1)[:, 0]


def weighted_errors(response: Tensor, label: Tensor, weights: Tensor, hinge: float) -> Tensor:
    """Residuals: difference to the label where that is `hinge` or more, elsewhere what is above 0.

    (N, n, n) each, weights (N,).
    """
    errors = torch.where(label >= hinge, response - label, response.clamp_min(0.0))
    return weights.sqrt()[:, None, None] * errors


def unit_power(features: Tensor) -> Tensor:
    """(N, C, F, F), each sample with a mean square of 1: the regularisation then means the same for every network."""
    return features / (features.square().mean((1, 2, 3), keepdim=True) + 1e-10).sqrt()


def first_samples(
    features: NDArray[np.float32], places: NDArray[np.float32], settings: OnlineSettings, count: int, at_corners: bool
) -> tuple[Tensor, Tensor]:
    """Samples of the first frame, some without some channels, and their labels; arguments as of `labels_of`."""
    samples = unit_power(torch.from_numpy(features))
    generator = torch.Generator().manual_seed(_SEED)
    kept = torch.rand(_DROPOUTS, samples.shape[1], 1, 1, generator=generator) >= _DROPPED
    labels = labels_of(torch.from_numpy(places), count, settings.sigma, at_corners)
    dropped = samples[:1] * kept / (1.0 - _DROPPED)
    return torch.cat([samples, dropped]), torch.cat([labels, labels[:1].expand(_DROPOUTS, -1, -1)])


def labels_of(places: Tensor, count: int, sigma: float, at_corners: bool) -> Tensor:
    """Gaussians of height 1, round, as ATOM's: (N, 4) in search sides -> (N, count, count).

    `sigma` is of the root of the target's area: a quarter of a narrow target's width is less than half a cell, of
    which the outputs would see no more than a speck.
    """
    at = positions(count, at_corners)
    widths = sigma * (places[:, 2:3] * places[:, 3:4]).sqrt()
    x, y = (torch.exp(-0.5 * ((at - places[:, a : a + 1]) / widths).square()) for a in (0, 1))
    return y[:, :, None] * x[:, None, :]


def positions(count: int, at_corners: bool) -> Tensor:
    """Of `count` outputs along a side, in search sides: at the corners of cells, border included, or at centres."""
    return torch.arange(count) / (count - 1) if at_corners else (torch.arange(count) + 0.5) / count


def onto_head(response: Tensor, at_corners: bool) -> Tensor:
    """(n, n) to the centres of twice as many cells, as the offline map has them.

    Bicubic, our reading: the paper only says "upsampled", and ATOM's interpolation does not flatten peaks, either.
    Around a corner with a peak of 1, a square target's label is 0.93 at these centres; bilinear weights make it 0.78.
    """
    cells = response.shape[-1] - 1 if at_corners else response.shape[-1]
    along = 2.0 * positions(2 * cells, at_corners=False) - 1.0
    grid = torch.stack(torch.meshgrid(along, along, indexing="xy"), dim=-1)
    given = response[None, None]
    return F.grid_sample(given, grid[None], "bicubic", padding_mode="border", align_corners=at_corners)[0, 0]
