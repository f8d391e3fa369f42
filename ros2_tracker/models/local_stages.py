"""Stages 1 and 2 of the Multi-Stage family: an image, template or search, to tokens of 16-px patches, on its own.

Both kinds look at 4-px and then at 8-px units, and give what they saw there to the later integration of levels, put
together patch by patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor, nn

from ros2_tracker.models.layers import to_tokens

PATCH = 16
_RATIO = 3
"""Hidden width of a local block over its own (SPEC 5)."""


class LocalFeatures(NamedTuple):
    """One image's tokens, N = (S / 16)^2 row-major patches."""

    tokens: Tensor
    """(B, N, C3) for the main stage."""
    shallow: tuple[Tensor, Tensor]
    """(B, N, 16 * C1) after stage 1 and (B, N, 4 * C2) after stage 2."""


class MlpStages(nn.Module):
    """Local scale awareness by plain MLPs, no convolution and no windows: the layout of HiViT (SPEC 5). LN eps 1e-6.

    A patch is 16 units of 4 px, its quadrants one after another, so that four neighbours merge by a reshape.
    """

    def __init__(self, widths: Sequence[int], depths: Sequence[int], mixing: bool = False) -> None:
        """With `mixing` an MLP over the units of a patch comes first in each step of a stage."""
        super().__init__()
        self.embed = nn.Conv2d(3, widths[0], 4, stride=4)
        self.norm = nn.LayerNorm(widths[0], eps=1e-6)
        self.stage1 = _mlp_stage(widths[0], depths[0], 16 if mixing else 0)
        self.merge1 = _merge(widths[0], widths[1])
        self.stage2 = _mlp_stage(widths[1], depths[1], 4 if mixing else 0)
        self.merge2 = _merge(widths[1], widths[2])

    def forward(self, image: Tensor) -> LocalFeatures:
        """(B, 3, S, S) -> tokens."""
        units = self.stage1(self.norm(_by_patches(self.embed(image))))
        quadrants = self.stage2(self.merge1(units.unflatten(2, (4, 4)).flatten(3)))
        return LocalFeatures(self.merge2(quadrants.flatten(2)), (units.flatten(2), quadrants.flatten(2)))


class MlpBlock(nn.Module):
    """`x += mlp(LN x)` over the channels of each unit."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, _RATIO * width), nn.GELU(), nn.Linear(_RATIO * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, units, C) -> the same shape."""
        return x + self.mlp(self.norm(x))


class MixingBlock(nn.Module):
    """`x += mlp(LN x)` over the units of each patch, the same for every channel."""

    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(units, _RATIO * units), nn.GELU(), nn.Linear(_RATIO * units, units))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, units, C) -> the same shape."""
        return x + self.mlp(self.norm(x).transpose(2, 3)).transpose(2, 3)


class ConvStages(nn.Module):
    """The same places seen by convolutions: inverted residuals, which learn more from little data.

    Not what the paper has; the layout of the stand-in network, whose weights fit.
    """

    def __init__(self, widths: Sequence[int], depths: Sequence[int]) -> None:
        super().__init__()
        first, second, last = widths
        entry = first * 3 // 4
        self.embed = nn.Sequential(*_conv_norm(3, entry, 3, stride=2), nn.ReLU())
        same1 = (InvertedResidual(first, first, 3) for _ in range(depths[0]))
        self.stage1 = nn.Sequential(InvertedResidual(entry, first, 3, stride=2), *same1)
        same2 = (InvertedResidual(second, second, 5) for _ in range(depths[1]))
        self.stage2 = nn.Sequential(InvertedResidual(first, second, 3, stride=2), *same2)
        self.merge2 = nn.Sequential(*_conv_norm(second, last, 3, stride=2))

    def forward(self, image: Tensor) -> LocalFeatures:
        """(B, 3, S, S) -> tokens."""
        fine = self.stage1(self.embed(image))
        coarse = self.stage2(fine)
        return LocalFeatures(to_tokens(self.merge2(coarse)), (_gathered(fine, 4), _gathered(coarse, 2)))


class InvertedResidual(nn.Sequential):
    """1x1 to three times the width, depth-wise, 1x1 back; plus its input where the shapes are the same."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        hidden = _RATIO * in_channels
        super().__init__(
            *_conv_norm(in_channels, hidden, 1),
            nn.ReLU(),
            *_conv_norm(hidden, hidden, kernel, stride, groups=hidden),
            nn.ReLU(),
            *_conv_norm(hidden, out_channels, 1),
        )
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H / stride, W / stride)."""
        y = super().forward(x)
        return x + y if self.residual else y


def light_tower(in_channels: int, width: int, depth: int, out_channels: int) -> nn.Sequential:
    """A head of depth-wise 5x5 and 1x1 convolutions with BN and ReLU, then a 1x1 without: (B, C, F, F) maps."""
    layers: list[nn.Module] = []
    for a, b in pairwise((in_channels, *[width] * depth)):
        layers += [*_conv_norm(a, a, 5, groups=a), nn.ReLU(), *_conv_norm(a, b, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, out_channels, 1))


def _gathered(features: Tensor, cells: int) -> Tensor:
    """What a patch of cells x cells holds as one token: (B, C, F, F) -> (B, (F / cells)^2, C * cells^2)."""
    channels, side = features.shape[1], features.shape[2] // cells
    split = features.reshape(-1, channels, side, cells, side, cells)
    return split.permute(0, 2, 4, 1, 3, 5).reshape(-1, side * side, channels * cells * cells)


def _by_patches(units: Tensor) -> Tensor:
    """(B, C, 4f, 4f) -> (B, f * f, 16, C): patches row-major, in each the quadrants, in each the units."""
    channels, side = units.shape[1], units.shape[2] // 4
    split = units.reshape(-1, channels, side, 2, 2, side, 2, 2)
    return split.permute(0, 2, 5, 3, 6, 4, 7, 1).reshape(-1, side * side, 16, channels)


def _mlp_stage(width: int, depth: int, mixed: int) -> nn.Sequential:
    """Two blocks a step of depth, as many as a transformer has residuals."""
    blocks: list[nn.Module] = []
    for _ in range(depth):
        blocks += [MixingBlock(width, mixed)] if mixed else []
        blocks += [MlpBlock(width), MlpBlock(width)]
    return nn.Sequential(*blocks)


def _merge(width: int, into: int) -> nn.Sequential:
    """Four neighbours into one."""
    return nn.Sequential(nn.LayerNorm(4 * width, eps=1e-6), nn.Linear(4 * width, into, bias=False))


def _conv_norm(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return conv, nn.BatchNorm2d(out_channels)
