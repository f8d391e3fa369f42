"""CNNInMo's backbone: a ResNet-50 of stride 8 whose stages let a search region look at the template (SPEC 3.6).

Entries are named as in the official checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ros2_tracker.models.inmo_attention import InteractionModeler, Interactions
from ros2_tracker.models.inmo_swin import Memory

GROUP = 8
"""Side of the released code's windows."""
_HEADS = 4
DEPTHS = (3, 4, 6, 3)
"""Blocks of ResNet-50's layers."""
WIDTH = 64
"""Of ResNet-50's first bottlenecks; it doubles from layer to layer."""
_EXPANSION = 4
_REDUCTION = 4
"""Width of a map over that of its queries, keys and values."""


class ResNetInMo(nn.Module):
    """Four layers; the maps of the last three are handed on."""

    def __init__(self, interactions: Interactions, depths: Sequence[int] = DEPTHS, width: int = WIDTH) -> None:
        super().__init__()
        self.interactions = interactions
        self.widths = tuple(_EXPANSION * width << i for i in range(len(depths)))
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _layer(width, width, depths[0])
        self.layer2 = _layer(self.widths[0], 2 * width, depths[1], stride=2)
        self.layer3 = _layer(self.widths[1], 4 * width, depths[2], dilation=2)
        self.layer4 = _layer(self.widths[2], 8 * width, depths[3], dilation=4)
        if interactions.attention == "paper":
            self.interaction = nn.ModuleList(
                InteractionModeler(own, own // _REDUCTION, _HEADS, interactions) for own in self.widths
            )
        else:
            kinds = ("cross", "self") if interactions.target_aware else ("self",)
            for kind in kinds:
                for name in ("map_q", "map_k", "map_v"):
                    self.add_module(f"{kind}_{name}", _maps([(own, own // _REDUCTION) for own in self.widths]))
                out = _maps([(own // _REDUCTION, own) for own in self.widths])
                for conv in out:
                    # Unlike a softmax over keys it grows with its input: training starts from the plain backbone.
                    nn.init.zeros_(conv.weight)
                self.add_module(f"{kind}_proj", out)

    def forward(
        self, image: Tensor, memories: Sequence[Memory] | None = None
    ) -> tuple[tuple[Tensor, ...], tuple[Memory, ...]]:
        """Maps of a template (no memories given, one a layer returned) or of a search region (the other way round).

        Args:
            image: (B, 3, S, S), as the weights have it.
            memories: those of the template, with the same batch; empty without target-aware attention.

        Returns:
            Maps of layers 2, 3, 4, (B, 512 / 1024 / 2048, F, F), and the memories.

        """
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(image))), 3, stride=2, padding=1)
        maps, kept = [], []
        for i in range(len(self.widths)):
            x = self.get_submodule(f"layer{i + 1}")(x)
            if memories is None:
                x, memory = self._template(i, x)
                kept += [memory] if self.interactions.target_aware else []
            else:
                x = self._search(i, x, memories[i] if memories else None)
            maps.append(x)
        return tuple(maps[1:]), tuple(kept)

    def _template(self, i: int, z: Tensor) -> tuple[Tensor, Memory | None]:
        """After layer `i`, counted from 0: the released template keeps its map as it is."""
        if self.interactions.attention == "paper":
            mixed, keys, values = self.interaction[i].template(z.permute(0, 2, 3, 1))
            return mixed.permute(0, 3, 1, 2), Memory(keys, values)
        if not self.interactions.target_aware:
            return z, None
        padded = to_whole_windows(z)
        return z, Memory(*(to_places(self.get_submodule(f"cross_map_{name}")[i](padded)) for name in "kv"))

    def _search(self, i: int, x: Tensor, template: Memory | None) -> Tensor:
        if self.interactions.attention == "paper":
            return self.interaction[i].search(x.permute(0, 2, 3, 1), template).permute(0, 3, 1, 2)
        if template is not None:
            query = to_places(self.cross_map_q[i](to_whole_windows(x)))
            x = x + self.cross_proj[i](self._mixed(query, template, x))
        padded = to_whole_windows(x)
        query, *own = (to_places(self.get_submodule(f"self_map_{name}")[i](padded)) for name in "qkv")
        return x + self.self_proj[i](self._mixed(query, Memory(*own), x))

    @staticmethod
    def _mixed(query: Tensor, memory: Memory, like: Tensor) -> Tensor:
        return from_places(linear_attention(query, memory.keys, memory.values), *like.shape[2:])


def linear_attention(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The released code's attention: the softmax is over the queries' channels, and nothing is normalised over keys.

    Args:
        query: (B, 64, heads, nx, d).
        keys: (B, 64, heads, nz, d).
        values: (B, 64, heads, nz, d).

    Returns:
        (B, 64, heads, nx, d).

    """
    weights = (query * query.shape[-1] ** -0.5).softmax(-1) @ keys.transpose(-1, -2)
    return weights @ values


def to_whole_windows(x: Tensor) -> Tensor:
    """(B, C, H, W) with zeros at the right and bottom, to a multiple of the window."""
    return F.pad(x, (0, -x.shape[3] % GROUP, 0, -x.shape[2] % GROUP))


def to_places(x: Tensor) -> Tensor:
    """(B, C, H, W) in whole windows -> (B, 64, heads, windows, d): for each place in a window, a token a window."""
    batch, channels, height, width = x.shape
    cut = x.view(batch, _HEADS, channels // _HEADS, height // GROUP, GROUP, width // GROUP, GROUP)
    return cut.permute(0, 4, 6, 1, 3, 5, 2).reshape(batch, GROUP * GROUP, _HEADS, -1, channels // _HEADS)


def from_places(places: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `to_places`, without what was added by `to_whole_windows` to a map of `height` x `width`."""
    batch, depth = places.shape[0], places.shape[-1]
    rows, columns = -(-height // GROUP), -(-width // GROUP)
    cut = places.view(batch, GROUP, GROUP, _HEADS, rows, columns, depth).permute(0, 3, 6, 4, 1, 5, 2)
    return cut.reshape(batch, _HEADS * depth, rows * GROUP, columns * GROUP)[:, :, :height, :width]


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 to four times the width, and the shortcut."""

    def __init__(
        self, in_channels: int, width: int, stride: int = 1, dilation: int = 1, downsample: nn.Module | None = None
    ) -> None:
        super().__init__()
        # A stride of 2 is without padding: 63 -> 31, with the centres in line.
        padding = 0 if stride == 2 else dilation
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, 4 width, ...)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)) + shortcut)


def _layer(in_channels: int, width: int, depth: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """The first block has half the dilation, and brings the shortcut to its size and width."""
    first = max(dilation // 2, 1)
    if stride == 1 and dilation == 1:
        shortcut = nn.Conv2d(in_channels, 4 * width, 1, bias=False)
    else:
        padding = 0 if stride == 2 else first
        shortcut = nn.Conv2d(in_channels, 4 * width, 3, stride, padding, first, bias=False)
    downsample = nn.Sequential(shortcut, nn.BatchNorm2d(4 * width))
    blocks = [Bottleneck(in_channels, width, stride, first, downsample)]
    blocks += [Bottleneck(4 * width, width, dilation=dilation) for _ in range(depth - 1)]
    return nn.Sequential(*blocks)


def _maps(widths: Sequence[tuple[int, int]]) -> nn.ModuleList:
    return nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in widths)
