"""What follows InMo's backbones: how template and search region are compared, and the heads (SPEC 3.5, 3.6, 3.10).

Entries are named as in the official checkpoints.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ros2_tracker.models.layers import Mlp, to_map, to_tokens
from ros2_tracker.models.stark import sine_position

_HEADS = 4
_NEIGHBOURS = (4, 3, 4, 3)
"""Zeros left, right, above and below a search map that keep its size in a correlation with 8x8 cells."""
_CENTER = 8
"""Cells a side of the template map's middle, which the target fills."""
_CENTER_CNN = slice(4, 11)


class TokenMaps(NamedTuple):
    """What TransInMo says of each cell of the search region, F x F cells row by row."""

    logits: Tensor
    """(B, F * F, 2); the first is the target."""
    boxes: Tensor
    """(B, F * F, 4) cx, cy, w, h in search sides."""


class CellMaps(NamedTuple):
    """What CNNInMo says of each cell."""

    logits: Tensor
    """(B, 2, F, F); the second is the target."""
    ltrb: Tensor
    """(B, 4, F, F) distances to left, top, right and bottom, in pixels of the search region."""
    centerness: Tensor
    """(B, 1, F, F) logits."""


# --- TransInMo* ---------------------------------------------------------------------------------------------------


class EncoderNeck(nn.Module):
    """Template and search tokens look at themselves and each other, then search looks at template once more."""

    def __init__(self, width: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.input_proj = nn.Conv2d(width, width, 1)
        self.encoder = nn.Sequential(
            OrderedDict(layers=nn.ModuleList(EncoderLayer(width, hidden) for _ in range(layers)))
        )
        self.decoder = Decoder(width, hidden)

    def template(self, features: Tensor) -> Tensor:
        """(B, C, 16, 16) -> tokens that are kept, (B, 256, C)."""
        return to_tokens(self.input_proj(features))

    def forward(self, template: Tensor, search: Tensor) -> Tensor:
        """Tokens of the template and (B, C, F, F) -> (B, F * F, C)."""
        x = to_tokens(self.input_proj(search))
        position_z, position_x = (_position(tokens) for tokens in (template, x))
        z = template
        for layer in self.encoder.layers:
            z, x = layer(z, x, position_z, position_x)
        return self.decoder(z, x, position_z, position_x)


class EncoderLayer(nn.Module):
    """Post-norm; numbers 1 are the template's, 2 the search region's."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        for name in ("self_attn1", "self_attn2", "multihead_attn1", "multihead_attn2"):
            self.add_module(name, PlainAttention(width))
        for i in (1, 2):
            self.add_module(f"linear{i}1", nn.Linear(width, hidden))
            self.add_module(f"linear{i}2", nn.Linear(hidden, width))
            for j in (1, 2, 3):
                self.add_module(f"norm{i}{j}", nn.LayerNorm(width))

    def forward(self, z: Tensor, x: Tensor, position_z: Tensor, position_x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, Nz, C), (B, Nx, C) and their positions -> the same shapes."""
        q, p = z + position_z, x + position_x
        z = self.norm11(z + self.self_attn1(q, q, z))
        x = self.norm21(x + self.self_attn2(p, p, x))
        q, p = z + position_z, x + position_x
        z, x = self.norm12(z + self.multihead_attn1(q, p, x)), self.norm22(x + self.multihead_attn2(p, q, z))
        z = self.norm13(z + self.linear12(F.relu(self.linear11(z))))
        x = self.norm23(x + self.linear22(F.relu(self.linear21(x))))
        return z, x


class Decoder(nn.Module):
    """The search region looks at the template; LN after the last layer."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([DecoderLayer(width, hidden)])
        self.norm = nn.LayerNorm(width)

    def forward(self, z: Tensor, x: Tensor, position_z: Tensor, position_x: Tensor) -> Tensor:
        """(B, Nz, C), (B, Nx, C) and their positions -> (B, Nx, C)."""
        for layer in self.layers:
            x = layer(z, x, position_z, position_x)
        return self.norm(x)


class DecoderLayer(nn.Module):
    """Attention to the template, MLP."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.multihead_attn = PlainAttention(width)
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, z: Tensor, x: Tensor, position_z: Tensor, position_x: Tensor) -> Tensor:
        """(B, Nz, C), (B, Nx, C) and their positions -> (B, Nx, C)."""
        x = self.norm1(x + self.multihead_attn(x + position_x, z + position_z, z))
        return self.norm2(x + self.linear2(F.relu(self.linear1(x))))


class PlainAttention(nn.Module):
    """Attention whose queries, keys and values are the tokens themselves, cut in heads; one linear map after it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # Two levels, for the official names: attn.fc.
        self.attn = nn.Sequential(OrderedDict(fc=nn.Linear(width, width, bias=False)))

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(B, Nq, C), (B, Nk, C), (B, Nk, C) -> (B, Nq, C)."""
        q, k, v = (part.unflatten(-1, (_HEADS, -1)).transpose(1, 2) for part in (query, key, value))
        return self.attn(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def _position(tokens: Tensor) -> Tensor:
    """(1, N, C) of a square map without padding."""
    side = round(tokens.shape[1] ** 0.5)
    nothing = torch.zeros(1, side, side, dtype=torch.bool, device=tokens.device)
    return sine_position(nothing, tokens.shape[2]).flatten(1, 2).to(tokens.dtype)


class TokenHead(nn.Module):
    """Two MLPs over the tokens of the search region."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.class_embed = Mlp(width, width, width, 2)
        self.bbox_embed = Mlp(width, width, width, 4)

    def forward(self, tokens: Tensor) -> TokenMaps:
        """(B, F * F, C) -> maps."""
        return TokenMaps(self.class_embed(tokens), self.bbox_embed(tokens).sigmoid())


# --- TransInMo ----------------------------------------------------------------------------------------------------


class CorrelationNeck(nn.Module):
    """Depth-wise correlation in place of the encoder; the paper says no more of it, the rest is ours (SPEC 3.10).

    The head says where in the search region a box is, and a correlation does not know where it is: the encoder's
    positions are added to its tokens.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.input_proj = nn.Conv2d(width, width, 1)
        self.mix = nn.Conv2d(width, width, 1)
        self.norm = nn.LayerNorm(width)

    def template(self, features: Tensor) -> Tensor:
        """(B, C, 16, 16) -> the middle, where the target is, as tokens (B, 64, C)."""
        margin = (features.shape[-1] - _CENTER) // 2
        return to_tokens(self.input_proj(features)[:, :, margin : margin + _CENTER, margin : margin + _CENTER])

    def forward(self, template: Tensor, search: Tensor) -> Tensor:
        """Tokens of the template and (B, C, F, F) -> (B, F * F, C)."""
        x = F.pad(self.input_proj(search), _NEIGHBOURS)
        # So that the response is of the features' size however many cells the template has.
        response = correlate(x, to_map(template)) * template.shape[1] ** -0.5
        tokens = self.norm(to_tokens(self.mix(response)))
        return tokens + _position(tokens)


# --- CNNInMo ------------------------------------------------------------------------------------------------------


class AdjustNeck(nn.Module):
    """All levels to one width; of a template only the middle."""

    def __init__(self, widths: Sequence[int], width: int) -> None:
        super().__init__()
        self.levels = tuple(range(2, 2 + len(widths)))
        for level, own in zip(self.levels, widths, strict=True):
            adjust = nn.Sequential(nn.Conv2d(own, width, 1, bias=False), nn.BatchNorm2d(width))
            self.add_module(f"downsample{level}", nn.Sequential(OrderedDict(downsample=adjust)))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(B, widths[i], F, F) each -> (B, levels * width, F, F)."""
        adjusted = [self.get_submodule(f"downsample{level}")(x) for level, x in zip(self.levels, maps, strict=True)]
        return torch.cat(adjusted, dim=1)

    def template(self, maps: Sequence[Tensor]) -> Tensor:
        """The same, 7x7 cells of it."""
        return self(maps)[:, :, _CENTER_CNN, _CENTER_CNN]


class CellHead(nn.Module):
    """SiamCAR's: correlation of all levels, two towers, three maps."""

    def __init__(self, width: int, levels: int) -> None:
        super().__init__()
        self.down = Reduction(levels * width, width)
        self.cls_tower = _tower(width)
        self.bbox_tower = _tower(width)
        self.cls_logits = nn.Conv2d(width, 2, 3, padding=1)
        self.bbox_pred = nn.Conv2d(width, 4, 3, padding=1)
        self.centerness = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, template: Tensor, search: Tensor) -> CellMaps:
        """(B, levels * width, 7, 7), (B, levels * width, F, F) -> maps of F - 6 cells a side."""
        response = self.down(correlate(search, template))
        named, boxed = self.cls_tower(response), self.bbox_tower(response)
        return CellMaps(self.cls_logits(named), self.bbox_pred(boxed).exp(), self.centerness(named))


class Reduction(nn.Module):
    """A 1x1 convolution whose weight lies as that of a transposed one."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_channels, out_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        nn.init.normal_(self.weight, std=in_channels**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        return F.conv2d(x, self.weight.transpose(0, 1), self.bias)


def _tower(width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(32, width), nn.ReLU()]
    return nn.Sequential(*layers)


def correlate(search: Tensor, template: Tensor) -> Tensor:
    """Depth-wise correlation.

    Args:
        search: (B, C, H, W).
        template: (B, C, h, w).

    Returns:
        (B, C, H - h + 1, W - w + 1).

    """
    # A convolution with a kernel a sample would fix the batch of an exported graph. Instead each row of a template
    # becomes a band matrix that slides it along a row, and all of them meet the rows they slide over in one product.
    side, room = template.shape[3], search.shape[3]
    count, rows = room - side + 1, search.shape[2] - template.shape[2] + 1
    slid = torch.arange(room, device=search.device)[:, None] - torch.arange(count, device=search.device)
    # Where the template is not, the zero that is added at its end.
    slid = torch.where((slid >= 0) & (slid < side), slid, side).flatten()
    bands = F.pad(template, (0, 1))[..., slid].unflatten(-1, (room, count)).flatten(2, 3)
    under = torch.cat([search[:, :, i : i + rows] for i in range(template.shape[2])], dim=3)
    return under @ bands
