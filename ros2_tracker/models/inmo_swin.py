"""TransInMo's backbone: Swin-T whose stages let a search region look at the template (SPEC 3.2 to 3.4).

Maps inside are (B, H, W, C). Entries are named as in the official checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ros2_tracker.models.inmo_attention import InteractionModeler, Interactions

WINDOW = 7
_SHIFT = 3
_MASKED = -100.0
DEPTHS = (2, 2, 6, 2)
"""Blocks of Swin-T's stages."""
WIDTH = 96
"""Of Swin-T's first stage, whose attention has three heads; both double from stage to stage."""
_FIRST_HEADS = 3


class Memory(NamedTuple):
    """What a stage of the search branch reads of the template."""

    keys: Tensor
    values: Tensor


class SwinInMo(nn.Module):
    """Four stages and the map that is fused from them."""

    def __init__(
        self, interactions: Interactions, fused: int = 256, depths: Sequence[int] = DEPTHS, width: int = WIDTH
    ) -> None:
        """`fused` is the width of the fused map."""
        super().__init__()
        self.patch_embed = PatchEmbed(width)
        widths = [width << i for i in range(len(depths))]
        self.layers = nn.ModuleList(
            Stage(own, _FIRST_HEADS << i, depth, i == len(depths) - 1, interactions)
            for i, (own, depth) in enumerate(zip(widths, depths, strict=True))
        )
        for i, own in enumerate(widths):
            self.add_module(f"norm{i}", nn.LayerNorm(own))
        reductions = [nn.Conv2d(own, fused, 1) for own in widths]
        self.down_and_cat = nn.ModuleList([*reductions, nn.Conv2d(len(depths) * fused, fused, 1)])

    def forward(self, image: Tensor, memories: Sequence[Memory] | None = None) -> tuple[Tensor, tuple[Memory, ...]]:
        """Features of a template (no memories given, one a stage returned) or of a search region (the other way round).

        Args:
            image: (B, 3, S, S), normalised.
            memories: those of the template, with the same batch; empty without target-aware attention.

        Returns:
            (B, fused, S / 8, S / 8), and the memories.

        """
        side = image.shape[-1] // 8
        x = self.patch_embed(image)
        kept: list[Memory] = []
        reduced = []
        for i, stage in enumerate(self.layers):
            if memories is None:
                x, memory = stage.template(x)
                kept += [] if memory is None else [memory]
            else:
                x = stage.search(x, memories[i] if memories else None)
            normed = self.get_submodule(f"norm{i}")(x).permute(0, 3, 1, 2)
            level = self.down_and_cat[i](normed)
            reduced.append(F.interpolate(level, size=(side, side), mode="bicubic", align_corners=False))
            if stage.downsample is not None:
                x = stage.downsample(x)
        return self.down_and_cat[-1](torch.cat(reduced, dim=1)), tuple(kept)


class PatchEmbed(nn.Module):
    """Patches of 4x4 px to tokens, normalised."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, 4, stride=4)
        self.norm = nn.LayerNorm(width)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, S / 4, S / 4, C)."""
        return self.norm(self.proj(image).permute(0, 2, 3, 1))


class Stage(nn.Module):
    """Blocks, of which every other one has shifted windows, and the merge before the next stage.

    `released`: the last block holds the interaction. `paper`: a module of its own after the blocks.
    """

    def __init__(self, width: int, heads: int, depth: int, last: bool, interactions: Interactions) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, shifted=i % 2 == 1) for i in range(depth))
        self.downsample = None if last else PatchMerging(width)
        self.interaction = None
        if interactions.attention == "paper":
            self.interaction = InteractionModeler(width, width, heads, interactions)
        self.target_aware = interactions.target_aware

    def template(self, x: Tensor) -> tuple[Tensor, Memory | None]:
        """(B, H, W, C) -> the same shape, and what the search branch will look at."""
        memory = None
        for block in self.blocks:
            x, memory = block(x)
        if self.interaction is not None:
            x, keys, values = self.interaction.template(x)
            memory = Memory(keys, values)
        return x, memory if self.target_aware else None

    def search(self, x: Tensor, memory: Memory | None) -> Tensor:
        """(B, H, W, C) -> the same shape."""
        for block in self.blocks[:-1]:
            x, _ = block(x)
        if self.interaction is None:
            return self.blocks[-1](x, memory)[0]
        x, _ = self.blocks[-1](x)
        return self.interaction.search(x, memory)


class Block(nn.Module):
    """Attention inside windows, then an MLP, both pre-norm. LN eps 1e-5, exact GELU."""

    def __init__(self, width: int, heads: int, shifted: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = TwoLayers(width, 4 * width)
        self.shifted = shifted

    def forward(self, x: Tensor, template: Memory | None = None) -> tuple[Tensor, Memory]:
        """(B, H, W, C) -> the same shape, and the block's own keys and values as a template's."""
        height, width = x.shape[1:3]
        # Zeros come in after the normalisation, and take part as any token.
        padded = F.pad(self.norm1(x), (0, 0, 0, -width % WINDOW, 0, -height % WINDOW))
        rows, columns = padded.shape[1:3]
        mask = None
        if self.shifted:
            padded = padded.roll((-_SHIFT, -_SHIFT), dims=(1, 2))
            mask = shift_mask(rows, columns, x.device)
        windows = to_windows(padded)
        if template is not None:
            windows = windows + self.attn.across(windows, template)
        attended, memory = self.attn(windows, mask)
        attended = from_windows(attended, rows, columns)
        if self.shifted:
            attended = attended.roll((_SHIFT, _SHIFT), dims=(1, 2))
        x = x + attended[:, :height, :width]
        return x + self.mlp(self.norm2(x)), memory


class WindowAttention(nn.Module):
    """Swin's attention inside a window, and the released code's attention across windows with the same projection."""

    relative_position_index: Tensor

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_index())
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, windows: Tensor, mask: Tensor | None) -> tuple[Tensor, Memory]:
        """Attend inside windows.

        Args:
            windows: (B, n, 49, C).
            mask: (n, 49, 49), added to the attention's logits.

        Returns:
            (B, n, 49, C), and keys and values laid out as `across` takes them.

        """
        batch, count, tokens, width = windows.shape
        projected = self.qkv(windows).view(batch * count, tokens, 3, self.heads, width // self.heads)
        q, k, v = projected.permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        bias = bias.view(tokens, tokens, self.heads).permute(2, 0, 1)
        if mask is not None:
            bias = (bias + mask.unsqueeze(1)).expand(batch, -1, -1, -1, -1).flatten(0, 1)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        attended = self.proj(attended.transpose(1, 2).reshape(batch, count, tokens, width))
        return attended, Memory(*(self._whole_windows(part, batch) for part in (k, v)))

    def _whole_windows(self, part: Tensor, batch: int) -> Tensor:
        """(B * n, heads, 49, d) -> (B, heads, n, 49 * d): a vector a window and head."""
        return part.unflatten(0, (batch, -1)).transpose(1, 2).flatten(3)

    def across(self, windows: Tensor, template: Memory) -> Tensor:
        """What search windows take from template windows, each being one vector (SPEC 3.3).

        A window's vector is cut in as many pieces as there are heads, whole tokens together, while keys and values
        are cut by channels: so did the authors' code, and its weights were trained with it.

        Args:
            windows: (B, nx, 49, C).
            template: (B, heads, nz, 49 * d).

        Returns:
            (B, nx, 49, C).

        """
        batch, count, tokens, width = windows.shape
        query = windows.reshape(batch, count, self.heads, -1).transpose(1, 2)
        weights = (query * (width // self.heads) ** -0.5) @ template.keys.transpose(2, 3)
        taken = weights.softmax(-1) @ template.values
        return self.proj(taken.transpose(1, 2).reshape(batch, count, tokens, width))


class TwoLayers(nn.Module):
    """Swin's MLP."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.fc2(F.gelu(self.fc1(x)))


class PatchMerging(nn.Module):
    """2x2 neighbours to one token of twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)
        self.norm = nn.LayerNorm(4 * width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H / 2, W / 2, 2 C)."""
        # The channels' order: (even row, even column), (odd, even), (even, odd), (odd, odd).
        batch, height, width, channels = x.shape
        corners = x.view(batch, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 4, 2, 5)
        return self.reduction(self.norm(corners.flatten(3)))


def to_windows(x: Tensor) -> Tensor:
    """(B, H, W, C) in whole windows -> (B, n, 49, C)."""
    batch, height, width, channels = x.shape
    cut = x.view(batch, height // WINDOW, WINDOW, width // WINDOW, WINDOW, channels)
    return cut.transpose(2, 3).reshape(batch, -1, WINDOW * WINDOW, channels)


def from_windows(windows: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `to_windows`."""
    cut = windows.view(windows.shape[0], height // WINDOW, width // WINDOW, WINDOW, WINDOW, -1)
    return cut.transpose(2, 3).reshape(windows.shape[0], height, width, -1)


def shift_mask(height: int, width: int, device: torch.device) -> Tensor:
    """(n, 49, 49), -100 between tokens that only the shift brought into one window."""
    rows, columns = (_parts(length, device) for length in (height, width))
    parts = to_windows((3 * rows[:, None] + columns[None, :])[None, :, :, None]).squeeze(-1).squeeze(0)
    return (parts.unsqueeze(1) != parts.unsqueeze(2)).float() * _MASKED


def _parts(length: int, device: torch.device) -> Tensor:
    place = torch.arange(length, device=device)
    return (place >= length - WINDOW).long() + (place >= length - _SHIFT).long()


def relative_index() -> Tensor:
    """(49, 49): row of the bias table for each pair of places in a window."""
    place = torch.stack(torch.meshgrid(torch.arange(WINDOW), torch.arange(WINDOW), indexing="ij")).flatten(1)
    apart = place[:, :, None] - place[:, None, :] + WINDOW - 1
    return apart[0] * (2 * WINDOW - 1) + apart[1]
