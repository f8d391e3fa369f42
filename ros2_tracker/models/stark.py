r"""STARK (ICCV 2021, arXiv 2103.17154): CNN features, a transformer over templates and search, corners (SPEC 2).

    template(s) -> CNN -> tokens, kept \
                                        encoder -> decoder (one query) -> corner head -> box
    search      -> CNN -> tokens       /                              \-> score head (ST): renew a template?

STARK-Lightning has a RepVGG for the CNN, one encoder layer from search to all tokens, no decoder and a lighter head.
Entries are named as in the official checkpoints.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ros2_tracker.models.layers import (
    ConvTowers,
    FrozenBatchNorm2d,
    Mlp,
    MultiheadAttention,
    RepVggBlock,
    to_map,
    to_tokens,
)
from ros2_tracker.models.variant import Variant

STRIDE = 16


@dataclass(frozen=True, slots=True)
class StarkSettings:
    """What differs between STARK-S50, ST50 and ST101 (SPEC 2.1)."""

    depths: tuple[int, ...] = (3, 4, 6)
    """Bottleneck blocks of the ResNet's layers 1, 2, 3."""
    score_head: bool = False
    """Whether the network judges its own box, for the dynamic template."""
    width: int = 256
    heads: int = 8
    layers: int = 6
    """Of the encoder and of the decoder."""
    hidden: int = 2048


def from_variant(variant: Variant) -> Stark | StarkLightning:
    """Network of a variant; its `network` holds `backbone` (resnet50, resnet101, repvgg-a0) and `score_head`."""
    backbone = variant.network["backbone"]
    if backbone == "repvgg-a0":
        return StarkLightning(variant.template.size, variant.search.size)
    depths = {"resnet50": (3, 4, 6), "resnet101": (3, 4, 23)}[backbone]
    return Stark(StarkSettings(depths, score_head=bool(variant.network["score_head"])))


class Features(NamedTuple):
    """One image's tokens as the transformer takes them; of a template computed once and kept."""

    tokens: Tensor
    """(B, N, C)."""
    position: Tensor
    """(B, N, C)."""
    padded: Tensor
    """(B, N) bool, True outside the camera's image."""


class StarkOutput(NamedTuple):
    """What the network found; F cells a side."""

    box: Tensor
    """(B, 4) cx, cy, w, h in search sides; w and h are negative where the corners crossed."""
    confidence: Tensor | None
    """(B,) logit of the score head, None without one."""
    corner_logits: Tensor
    """(B, 2, F, F) top-left, bottom-right."""


class Stark(nn.Module):
    """STARK-S and STARK-ST."""

    def __init__(self, settings: StarkSettings | None = None) -> None:
        super().__init__()
        settings = settings or StarkSettings()
        self.settings = settings
        # Two levels, for the official names: backbone.0.body.
        self.backbone = nn.Sequential(nn.Sequential(OrderedDict(body=ResNet(settings.depths))))
        self.bottleneck = nn.Conv2d(256 * 4, settings.width, 1)
        self.transformer = Transformer(settings)
        self.query_embed = nn.Embedding(1, settings.width)
        self.box_head = CornerHead(settings.width)
        self.cls_head = Mlp(*[settings.width] * 3, 1) if settings.score_head else None

    def template(self, image: Tensor, padded: Tensor) -> Features:
        """Tokens of a template.

        Args:
            image: (B, 3, S, S), normalised.
            padded: (B, S, S) bool, True outside the camera's image.

        """
        cells = padded[:, ::STRIDE, ::STRIDE]
        tokens = to_tokens(self.bottleneck(self.backbone(image)))
        position = sine_position(cells, self.settings.width)
        return Features(tokens, position.flatten(1, 2).to(tokens.dtype), cells.flatten(1))

    search = template
    """Tokens of a search region: the same way."""

    def forward(self, templates: Sequence[Features], search: Features) -> StarkOutput:
        """Find the target; `templates` in the order first, dynamic."""
        tokens, position, padded = (torch.cat(parts, dim=1) for parts in zip(*templates, search, strict=True))
        memory = self.transformer.encoder(tokens, position, padded)
        query = self.query_embed.weight.unsqueeze(0).expand(tokens.shape[0], -1, -1)
        found = self.transformer.decoder(query, memory, position, padded)
        box, corner_logits = self.box_head(memory[:, -search.tokens.shape[1] :], found)
        confidence = None if self.cls_head is None else self.cls_head(found)[:, 0, 0]
        return StarkOutput(box, confidence, corner_logits)


class StarkLightning(nn.Module):
    """STARK-Lightning (SPEC 2.7). `layers.fuse_repvgg` makes it faster at equal output."""

    width = 128

    def __init__(self, template_size: int = 128, search_size: int = 320) -> None:
        super().__init__()
        self.backbone = nn.Sequential(OrderedDict(body=RepVgg()))
        self.bottleneck = nn.Conv2d(RepVgg.out_channels, self.width, 1)
        self.transformer = nn.Sequential(OrderedDict(encoder=CrossEncoder(self.width)))
        self.box_head = LiteCornerHead(self.width)
        self.pos_emb_x = LearnedPosition(search_size // STRIDE, self.width)
        self.pos_emb_z0 = LearnedPosition(template_size // STRIDE, self.width)

    def template(self, image: Tensor, padded: Tensor) -> Features:
        """Tokens of the template; arguments as those of `Stark.template`."""
        return self._features(image, padded, self.pos_emb_z0)

    def search(self, image: Tensor, padded: Tensor) -> Features:
        """Tokens of the search region; arguments as those of `Stark.template`."""
        return self._features(image, padded, self.pos_emb_x)

    def _features(self, image: Tensor, padded: Tensor, position: LearnedPosition) -> Features:
        tokens = to_tokens(self.bottleneck(self.backbone(image)))
        cells = padded[:, ::STRIDE, ::STRIDE].flatten(1)
        return Features(tokens, position().expand(tokens.shape[0], -1, -1), cells)

    def forward(self, templates: Sequence[Features], search: Features) -> StarkOutput:
        """Find the target; `templates` holds one."""
        (template,) = templates
        box, corner_logits = self.box_head(self.transformer.encoder(template, search))
        return StarkOutput(box, None, corner_logits)


# --- CNNs ---------------------------------------------------------------------------------------------------------


class ResNet(nn.Module):
    """ResNet with bottlenecks up to `layer3`, stride 16, 1024 channels, all norms frozen (SPEC 2.2)."""

    def __init__(self, depths: Sequence[int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = FrozenBatchNorm2d(64)
        in_channels = 64
        for i, depth in enumerate(depths):
            width, stride = 64 * 2**i, 1 if i == 0 else 2
            blocks = [Bottleneck(in_channels, width, stride)]
            blocks += [Bottleneck(4 * width, width, 1) for _ in range(depth - 1)]
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
            in_channels = 4 * width

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, 1024, S / 16, S / 16)."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(image))), 3, stride=2, padding=1)
        return self.layer3(self.layer2(self.layer1(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 to four times the width, and the shortcut."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = 4 * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = FrozenBatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = FrozenBatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = FrozenBatchNorm2d(out_channels)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), FrozenBatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, 4 width, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)) + shortcut)


class RepVgg(nn.Module):
    """RepVGG-A0 with the last stage cut to four blocks: stride 16, 192 channels (SPEC 2.7)."""

    out_channels = 192

    def __init__(self) -> None:
        super().__init__()
        self.stage0 = RepVggBlock(3, 48, stride=2, norm=FrozenBatchNorm2d)
        self.stage1 = _repvgg_stage(48, 48, 2)
        self.stage2 = _repvgg_stage(48, 96, 4)
        self.stage3 = _repvgg_stage(96, self.out_channels, 4)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, 192, S / 16, S / 16)."""
        return self.stage3(self.stage2(self.stage1(self.stage0(image))))


def _repvgg_stage(in_channels: int, out_channels: int, depth: int) -> nn.Sequential:
    first = RepVggBlock(in_channels, out_channels, stride=2, norm=FrozenBatchNorm2d)
    others = (RepVggBlock(out_channels, out_channels, norm=FrozenBatchNorm2d) for _ in range(depth - 1))
    return nn.Sequential(first, *others)


# --- Position -----------------------------------------------------------------------------------------------------


def sine_position(padded: Tensor, width: int, temperature: float = 10000.0) -> Tensor:
    """Sine encoding of the place among the cells that are not padded (SPEC 2.3).

    Args:
        padded: (B, F, F) bool.
        width: channels; the first half encodes y, the second x.
        temperature: base of the wave lengths.

    Returns:
        (B, F, F, width) float32.

    """
    visible = (~padded).float()
    feature = torch.arange(width // 2, device=padded.device)
    divisor = temperature ** (2.0 * (feature // 2) / (width // 2))
    encoded = []
    for axis in (1, 2):
        place = visible.cumsum(axis)
        place = place / (place.amax(axis, keepdim=True) + 1e-6) * (2.0 * math.pi)
        angle = place.unsqueeze(-1) / divisor
        encoded.append(torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], dim=-1).flatten(-2))
    return torch.cat(encoded, dim=-1)


class LearnedPosition(nn.Module):
    """Learned tables per column and row; the first half of the channels encodes x (SPEC 2.7)."""

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.row_embed = nn.Embedding(side, width // 2)
        self.col_embed = nn.Embedding(side, width // 2)

    def forward(self) -> Tensor:
        """(1, side * side, width)."""
        rows, columns = self.row_embed.weight, self.col_embed.weight
        side = rows.shape[0]
        x = columns.unsqueeze(0).expand(side, -1, -1)
        y = rows.unsqueeze(1).expand(-1, side, -1)
        return torch.cat([x, y], dim=-1).flatten(0, 1).unsqueeze(0)


# --- Transformer (post-norm, LN eps 1e-5) -------------------------------------------------------------------------


class Transformer(nn.Module):
    """Encoder and decoder of DETR (SPEC 2.4)."""

    def __init__(self, settings: StarkSettings) -> None:
        super().__init__()
        self.encoder = Encoder(settings)
        self.decoder = Decoder(settings)


class Encoder(nn.Module):
    """Self-attention over templates and search, no LN after the last layer."""

    def __init__(self, settings: StarkSettings) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(settings) for _ in range(settings.layers))

    def forward(self, tokens: Tensor, position: Tensor, padded: Tensor) -> Tensor:
        """(B, N, C), (B, N, C), (B, N) -> (B, N, C)."""
        for layer in self.layers:
            tokens = layer(tokens, position, padded)
        return tokens


class EncoderLayer(nn.Module):
    """Position added to queries and keys, not to values."""

    def __init__(self, settings: StarkSettings) -> None:
        super().__init__()
        width = settings.width
        self.self_attn = MultiheadAttention(width, settings.heads)
        self.linear1 = nn.Linear(width, settings.hidden)
        self.linear2 = nn.Linear(settings.hidden, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, position: Tensor, padded: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        q = x + position
        x = self.norm1(x + self.self_attn(q, q, x, padded))
        return self.norm2(x + self.linear2(F.relu(self.linear1(x))))


class Decoder(nn.Module):
    """One query that asks the memory where the target is; LN after the last layer."""

    def __init__(self, settings: StarkSettings) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(settings) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(settings.width)

    def forward(self, query: Tensor, memory: Tensor, position: Tensor, padded: Tensor) -> Tensor:
        """(B, 1, C), (B, N, C), (B, N, C), (B, N) -> (B, 1, C)."""
        found = torch.zeros_like(query)
        key = memory + position
        for layer in self.layers:
            found = layer(found, query, key, memory, padded)
        return self.norm(found)


class DecoderLayer(nn.Module):
    """Self-attention of the query, attention to the memory, MLP."""

    def __init__(self, settings: StarkSettings) -> None:
        super().__init__()
        width = settings.width
        self.self_attn = MultiheadAttention(width, settings.heads)
        self.multihead_attn = MultiheadAttention(width, settings.heads)
        self.linear1 = nn.Linear(width, settings.hidden)
        self.linear2 = nn.Linear(settings.hidden, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)

    def forward(self, x: Tensor, query: Tensor, key: Tensor, memory: Tensor, padded: Tensor) -> Tensor:
        """(B, 1, C) -> (B, 1, C); `key` is the memory with its position."""
        x = self.norm1(x + self.self_attn(x + query, x + query, x))
        x = self.norm2(x + self.multihead_attn(x + query, key, memory, padded))
        return self.norm3(x + self.linear2(F.relu(self.linear1(x))))


class CrossEncoder(nn.Module):
    """Lightning's only layer: search tokens look at template and search (SPEC 2.7)."""

    def __init__(self, width: int, heads: int = 8, hidden: int = 1024) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(width, heads)
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, template: Features, search: Features) -> Tensor:
        """Search tokens after the layer, (B, N, C)."""
        query = search.tokens + search.position
        key = torch.cat([template.tokens + template.position, query], dim=1)
        value = torch.cat([template.tokens, search.tokens], dim=1)
        padded = torch.cat([template.padded, search.padded], dim=1)
        # The residual keeps the position, unlike that of the other encoders.
        x = self.norm1(query + self.self_attn(query, key, value, padded))
        return self.norm2(x + self.linear2(F.relu(self.linear1(x))))


# --- Heads --------------------------------------------------------------------------------------------------------


class CornerHead(ConvTowers):
    """Expected corners on search features weighted by their similarity to the query (SPEC 2.5)."""

    def __init__(self, width: int) -> None:
        super().__init__(width, {"tl": 1, "br": 1})

    def forward(self, search: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F * F, C) of the encoder, (B, 1, C) of the decoder -> (B, 4) box, (B, 2, F, F) logits."""
        features = to_map(search * (search @ found.transpose(1, 2)))
        logits = torch.cat([self.tower("tl", features), self.tower("br", features)], dim=1)
        return corners_to_box(logits, cell_origin=0.0), logits


class LiteCornerHead(nn.Module):
    """Lightning's head: two RepVGG blocks and one convolution to both corner maps (SPEC 2.7)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_tower = nn.Sequential(
            RepVggBlock(width, width), RepVggBlock(width, width), nn.Conv2d(width, 2, 3, padding=1)
        )

    def forward(self, search: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F * F, C) -> (B, 4) box, (B, 2, F, F) logits."""
        logits = self.conv_tower(to_map(search))
        return corners_to_box(logits, cell_origin=0.5), logits


def corners_to_box(logits: Tensor, cell_origin: float) -> Tensor:
    """Box between the expected corners.

    Args:
        logits: (B, 2, F, F) top-left, bottom-right; softmax over the cells.
        cell_origin: where in its cell a corner lies, 0 (SPEC 2.5) or 0.5 (SPEC 2.7).

    Returns:
        (B, 4) cx, cy, w, h in search sides.

    """
    side = logits.shape[-1]
    probability = logits.float().flatten(2).softmax(-1).unflatten(-1, (side, side))
    place = (torch.arange(side, device=logits.device, dtype=probability.dtype) + cell_origin) / side
    x = (probability.sum(2) * place).sum(-1)
    y = (probability.sum(3) * place).sum(-1)
    return torch.stack([x.mean(1), y.mean(1), x[:, 1] - x[:, 0], y[:, 1] - y[:, 0]], dim=1)
