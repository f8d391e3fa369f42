"""Layers that several families share. Tensors are batch-first; images (B, C, H, W), tokens (B, N, C), row-major."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGE_MEAN = (0.485, 0.456, 0.406)
"""Of ImageNet, RGB in [0, 1] (SPEC 0.2)."""
IMAGE_STD = (0.229, 0.224, 0.225)


def normalized(crops: Tensor) -> Tensor:
    """Network input from crops: (B, S, S, 3) uint8 RGB -> (B, 3, S, S) float32, `(x / 255 - mean) / std` (SPEC 0.2)."""
    mean = torch.tensor(IMAGE_MEAN, device=crops.device).view(1, 3, 1, 1)
    std = torch.tensor(IMAGE_STD, device=crops.device).view(1, 3, 1, 1)
    # The cast comes first: TensorRT does nothing else with uint8.
    return (crops.float().permute(0, 3, 1, 2) / 255.0 - mean) / std


def to_tokens(features: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H * W, C)."""
    return features.flatten(2).transpose(1, 2)


def to_map(tokens: Tensor) -> Tensor:
    """(B, F * F, C) -> (B, C, F, F)."""
    batch, count, channels = tokens.shape
    side = round(count**0.5)
    return tokens.transpose(1, 2).reshape(batch, channels, side, side)


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation whose statistics and scale are buffers (SPEC 2.2); eps 1e-5."""

    eps = 1e-5

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)


def keep_statistics(network: nn.Module) -> None:
    """Put its batch normalisations into evaluation, also where the rest is in training."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


class Mlp(nn.Module):
    """Linear layers `layers.0`, `layers.1`, ... with ReLU between them: the widths are those of all their ends."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """(..., widths[0]) -> (..., widths[-1])."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class MultiheadAttention(nn.Module):
    """`nn.MultiheadAttention` by name and value, batch-first, on scaled_dot_product_attention, without dropout."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, padded: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            query: (B, Nq, C).
            key: (B, Nk, C).
            value: (B, Nk, C).
            padded: (B, Nk) bool, True on keys that nobody may look at.

        Returns:
            (B, Nq, C).

        """
        weights = self.in_proj_weight.chunk(3)
        biases = self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, w, b).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, w, b in zip((query, key, value), weights, biases, strict=True)
        )
        visible = None if padded is None else ~padded[:, None, None, :]
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class ConvTowers(nn.Module):
    """Parallel heads on one feature map: per tower four 3x3 convolutions with BN and ReLU, then a 1x1 (SPEC 1.4, 2.5).

    Entries are named `conv1_<tower>` ... `conv5_<tower>`.
    """

    def __init__(self, in_channels: int, towers: dict[str, int], width: int = 256) -> None:
        """`towers` maps a tower's name to its number of output channels."""
        super().__init__()
        widths = (in_channels, width, width // 2, width // 4, width // 8)
        for tower, out_channels in towers.items():
            for i, (a, b) in enumerate(pairwise(widths), start=1):
                block = nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU())
                self.add_module(f"conv{i}_{tower}", block)
            self.add_module(f"conv5_{tower}", nn.Conv2d(widths[-1], out_channels, 1))

    def tower(self, name: str, features: Tensor) -> Tensor:
        """(B, in_channels, F, F) -> (B, towers[name], F, F), no activation at the end."""
        for i in range(1, 6):
            features = self.get_submodule(f"conv{i}_{name}")(features)
        return features


class RepVggBlock(nn.Module):
    """ReLU of 3x3 conv + BN, 1x1 conv + BN and where possible BN alone; `fuse` makes one 3x3 of it (SPEC 2.7)."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, norm: Callable[[int], nn.Module] = nn.BatchNorm2d
    ) -> None:
        """`norm` makes a normalisation: `nn.BatchNorm2d` or `FrozenBatchNorm2d`."""
        super().__init__()
        self.rbr_dense = _conv_norm(in_channels, out_channels, 3, stride, norm)
        self.rbr_1x1 = _conv_norm(in_channels, out_channels, 1, stride, norm)
        self.rbr_identity = norm(in_channels) if in_channels == out_channels and stride == 1 else None
        self.fused: nn.Conv2d | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H / stride, W / stride)."""
        if self.fused is not None:
            return F.relu(self.fused(x))
        y = self.rbr_dense(x) + self.rbr_1x1(x)
        if self.rbr_identity is not None:
            y = y + self.rbr_identity(x)
        return F.relu(y)

    @torch.no_grad()
    def fuse(self) -> None:
        """Replace the branches by one convolution with their sum; for inference only, the entries change."""
        if self.fused is not None:
            return
        dense: nn.Conv2d = self.rbr_dense.conv
        kernel, bias = _folded(dense.weight, self.rbr_dense.bn)
        kernel_1x1, bias_1x1 = _folded(F.pad(self.rbr_1x1.conv.weight, (1, 1, 1, 1)), self.rbr_1x1.bn)
        kernel, bias = kernel + kernel_1x1, bias + bias_1x1
        if self.rbr_identity is not None:
            channels = torch.arange(dense.out_channels)
            identity = torch.zeros_like(dense.weight)
            identity[channels, channels, 1, 1] = 1.0
            kernel_same, bias_same = _folded(identity, self.rbr_identity)
            kernel, bias = kernel + kernel_same, bias + bias_same
        fused = nn.Conv2d(dense.in_channels, dense.out_channels, 3, dense.stride, padding=1).to(kernel)
        fused.weight.copy_(kernel)
        fused.bias.copy_(bias)
        self.fused = fused
        del self.rbr_dense, self.rbr_1x1, self.rbr_identity


def fuse_repvgg(network: nn.Module) -> None:
    """Fuse all RepVGG blocks of a network in place."""
    for module in network.modules():
        if isinstance(module, RepVggBlock):
            module.fuse()


def _conv_norm(
    in_channels: int, out_channels: int, kernel: int, stride: int, norm: Callable[[int], nn.Module]
) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
    block = nn.Sequential()
    block.add_module("conv", conv)
    block.add_module("bn", norm(out_channels))
    return block


def _folded(kernel: Tensor, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Kernel and bias of a convolution followed by a batch normalisation in evaluation."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return kernel * scale.view(-1, 1, 1, 1), norm.bias - norm.running_mean * scale
