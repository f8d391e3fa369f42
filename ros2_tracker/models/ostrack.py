r"""OSTrack (ECCV 2022, arXiv 2203.11991): one ViT over template and search tokens, a centre head (SPEC 1).

    template -> patches + position \
                                     12 joint blocks, 3 of which drop search tokens -> LN -> centre head -> three maps
    search   -> patches + position /

Entries are named as in the official checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ros2_tracker.models.layers import ConvTowers, to_map, to_tokens
from ros2_tracker.models.variant import Variant

PATCH = 16
_SCORE_MIN = 1e-4


class TemplateRange(Enum):
    """Which template tokens judge the search tokens (SPEC 1.3)."""

    ALL = "all"
    """Every template token."""
    CTR_POINT = "ctr_point"
    """One token at the centre; all released weights."""
    CTR_REC = "ctr_rec"
    """The central square of tokens."""
    GT_BOX = "gt_box"
    """Those under the target's box: the caller gives them."""


@dataclass(frozen=True, slots=True)
class Elimination:
    """Candidate elimination (SPEC 1.3); a setting of the running network, not of its weights."""

    blocks: tuple[int, ...] = (3, 6, 9)
    """0-based blocks that drop search tokens between attention and MLP."""
    keep_ratio: float = 0.7
    """Share of the search tokens that stays at each of them. Lower is faster and forgets more of the background."""
    template_range: TemplateRange = TemplateRange.CTR_POINT


@dataclass(frozen=True, slots=True)
class OSTrackSettings:
    """What differs between the variants."""

    template_size: int = 128
    search_size: int = 256
    width: int = 768
    depth: int = 12
    heads: int = 12
    elimination: Elimination | None = None


def from_variant(variant: Variant) -> OSTrack:
    """Network of a variant; its `network` holds `elimination` (the fields of `Elimination`), or nothing for none."""
    chosen = variant.network.get("elimination")
    elimination = chosen and Elimination(
        tuple(chosen["blocks"]), float(chosen["keep_ratio"]), TemplateRange(chosen["template_range"])
    )
    return OSTrack(OSTrackSettings(variant.template.size, variant.search.size, elimination=elimination))


class BackboneOutput(NamedTuple):
    """Tokens after the last LN."""

    template: Tensor
    """(B, Nz, C); (B, 0, C) when they were not asked for."""
    search: Tensor
    """(B, Nx, C) in the order of the search region; exactly 0 where a token was dropped."""
    removed: tuple[Tensor, ...]
    """Per eliminating block: (B, removed) int64 indices in the search region, best score first."""


class CenterMaps(NamedTuple):
    """Output of the centre head; F cells a side."""

    score: Tensor
    """(B, 1, F, F) in [1e-4, 1 - 1e-4]."""
    size: Tensor
    """(B, 2, F, F): w, h in search sides."""
    offset: Tensor
    """(B, 2, F, F): x, y of the centre from the cell's top-left corner, in cells, unbounded."""


class OSTrack(nn.Module):
    """The whole network. `elimination` may be changed between calls."""

    def __init__(self, settings: OSTrackSettings | None = None) -> None:
        super().__init__()
        settings = settings or OSTrackSettings()
        self.settings = settings
        self.elimination = settings.elimination
        self.backbone = JointEncoder(settings)
        self.box_head = CenterHead(settings.width)

    def template(self, image: Tensor) -> Tensor:
        """Template tokens, the same for all frames: (B, 3, T, T) normalised -> (B, (T / 16)^2, C)."""
        return self.backbone.patch_embed(image) + self.backbone.pos_embed_z

    def forward(
        self, template: Tensor, image: Tensor, rows: Tensor | None = None, keep_ratio: float | None = None
    ) -> CenterMaps:
        """Find the target.

        Args:
            template: (B, Nz, C) of `template`.
            image: (B, 3, S, S) normalised search region.
            rows: (B, m) or (1, m) int64, the template tokens that judge; None takes those of the settings' range.
            keep_ratio: share of tokens that stays in this call; None takes the settings'.

        """
        found = self.backbone(template, image, self.elimination, rows, keep_ratio, keep_template=False)
        return self.box_head(to_map(found.search))


class JointEncoder(nn.Module):
    """ViT over [template, search] with candidate elimination (SPEC 1.2, 1.3). LN eps 1e-6."""

    def __init__(self, settings: OSTrackSettings) -> None:
        super().__init__()
        width = settings.width
        self.template_side = settings.template_size // PATCH
        self.patch_embed = PatchEmbedding(width)
        self.pos_embed_z = nn.Parameter(torch.zeros(1, self.template_side**2, width))
        self.pos_embed_x = nn.Parameter(torch.zeros(1, (settings.search_size // PATCH) ** 2, width))
        self.blocks = nn.ModuleList(Block(width, settings.heads) for _ in range(settings.depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(
        self,
        template: Tensor,
        image: Tensor,
        elimination: Elimination | None = None,
        rows: Tensor | None = None,
        keep_ratio: float | None = None,
        keep_template: bool = True,
    ) -> BackboneOutput:
        """Tokens of template and search region after all blocks; arguments as those of `OSTrack.forward`.

        Without `keep_template` the last block leaves out the template tokens: nobody reads them any more.
        """
        count_z = template.shape[1]
        tokens = torch.cat([template, self.patch_embed(image) + self.pos_embed_x], dim=1)
        count_x = tokens.shape[1] - count_z
        if elimination is not None and rows is None:
            rows = self._default_rows(elimination, tokens.device)
        kept: Tensor | None = None
        removed: list[Tensor] = []
        last = len(self.blocks) - 1
        left_z = count_z
        for i, block in enumerate(self.blocks):
            ratio = 1.0
            if elimination is not None and i in elimination.blocks:
                ratio = _call_ratio(elimination.keep_ratio, keep_ratio)
            stay = math.ceil(ratio * (tokens.shape[1] - count_z))
            if stay == tokens.shape[1] - count_z:
                if i == last and not keep_template:
                    left_z = 0
                tokens = block(tokens, skip=count_z - left_z)
                continue
            if kept is None:
                kept = torch.arange(count_x, device=tokens.device).expand(tokens.shape[0], -1)
            tokens, order = block.eliminate(tokens, count_z, stay, rows)
            kept = kept.gather(1, order)
            kept, dropped = kept[:, :stay], kept[:, stay:]
            removed.append(dropped)
        tokens = self.norm(tokens)
        template, search = tokens[:, : left_z if keep_template else 0], tokens[:, left_z:]
        if kept is not None:
            # After the LN: a dropped token is 0, not the LN's bias.
            places = kept.unsqueeze(-1).expand_as(search)
            search = search.new_zeros(search.shape[0], count_x, search.shape[2]).scatter(1, places, search)
        return BackboneOutput(template, search, tuple(removed))

    def _default_rows(self, elimination: Elimination, device: torch.device) -> Tensor | None:
        rows = template_rows(elimination.template_range, self.template_side)
        return None if rows is None else torch.tensor([rows], device=device)


class PatchEmbedding(nn.Module):
    """16 x 16 patches as tokens, without a norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, stride=PATCH)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, (S / 16)^2, C)."""
        return to_tokens(self.proj(image))


class Block(nn.Module):
    """Pre-norm transformer block: `x += attn(LN x)`, then `x += mlp(LN x)`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = FeedForward(width)

    def forward(self, x: Tensor, skip: int = 0) -> Tensor:
        """(B, N, C) -> (B, N - skip, C), the first `skip` tokens only being looked at."""
        normed = self.norm1(x)
        if skip:
            q, (k, v) = self.attn.queries(normed[:, skip:]), self.attn.keys_values(normed)
        else:
            q, k, v = self.attn.project(normed)
        x = x[:, skip:] + self.attn(q, k, v)
        return x + self.mlp(self.norm2(x))

    def eliminate(self, x: Tensor, count_z: int, stay: int, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        """The block with fewer search tokens after its attention (SPEC 1.3).

        Args:
            x: (B, count_z + n, C).
            count_z: number of template tokens.
            stay: how many of the n search tokens stay.
            rows: (B, m) or (1, m) int64 template tokens whose attention is averaged; None for all.

        Returns:
            (B, count_z + stay, C), and (B, n) int64: the search tokens by falling score, of which the first stay.

        """
        normed = self.norm1(x)
        k, v = self.attn.keys_values(normed)
        judges = normed[:, :count_z]
        if rows is not None:
            judges = judges.gather(1, rows[..., None].expand(x.shape[0], -1, x.shape[2]))
        found = self.attn.weights(self.attn.queries(judges), k)[..., count_z:]
        order = found.mean(2).mean(1).argsort(dim=1, descending=True)
        # Nobody reads what the others would find: they are looked at, but do not look.
        staying = order[:, :stay, None].expand(-1, -1, x.shape[2])
        x, normed = (torch.cat([t[:, :count_z], t[:, count_z:].gather(1, staying)], dim=1) for t in (x, normed))
        x = x + self.attn(self.attn.queries(normed), k, v)
        return x + self.mlp(self.norm2(x)), order


class Attention(nn.Module):
    """Multi-head self-attention; one layer holds the projections to q, k and v (in this order, head-major inside)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, C) -> q, k, v of (B, heads, N, C / heads) each."""
        return self._heads(self.qkv(x), 3)

    def queries(self, x: Tensor) -> Tensor:
        """Of tokens that look: (B, N, C) -> q."""
        return self._heads(F.linear(x, self._parts(self.qkv.weight)[0], self._parts(self.qkv.bias)[0]), 1)[0]

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of tokens that are looked at: (B, N, C) -> k, v."""
        return self._heads(F.linear(x, self._parts(self.qkv.weight)[1], self._parts(self.qkv.bias)[1]), 2)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend: (B, heads, Nq, d) and (B, heads, Nk, d) -> (B, Nq, C)."""
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def weights(self, q: Tensor, k: Tensor) -> Tensor:
        """Attention of a few queries over all keys, which the fused kernels do not return: (B, heads, Nq, Nk)."""
        return (q @ k.transpose(-2, -1) * self.scale).softmax(-1)

    def _parts(self, entry: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of an entry of `qkv` for q, and for k and v."""
        return entry.split((len(entry) // 3, 2 * len(entry) // 3))

    def _heads(self, projected: Tensor, count: int) -> tuple[Tensor, ...]:
        return projected.unflatten(-1, (count, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


class FeedForward(nn.Module):
    """Two linear layers with the exact (erf) GELU between them, hidden width 4 C."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        return self.fc2(F.gelu(self.fc1(x)))


class CenterHead(ConvTowers):
    """Score, size and offset of a box centre in each cell (SPEC 1.4)."""

    def __init__(self, in_channels: int) -> None:
        super().__init__(in_channels, {"ctr": 1, "offset": 2, "size": 2})

    def forward(self, features: Tensor) -> CenterMaps:
        """(B, C, F, F) -> maps."""
        score = self.tower("ctr", features).sigmoid().clamp(_SCORE_MIN, 1.0 - _SCORE_MIN)
        size = self.tower("size", features).sigmoid().clamp(_SCORE_MIN, 1.0 - _SCORE_MIN)
        return CenterMaps(score, size, self.tower("offset", features))


def decode_centers(maps: CenterMaps, window: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Box at the highest score (SPEC 1.4): `c = (cell + offset) / F`, without half a cell.

    Args:
        maps: of the centre head.
        window: (F, F) weights of the score for the choice of the cell.

    Returns:
        (B, 4) cx, cy, w, h in search sides, and (B,) its score before windowing.

    """
    side = maps.score.shape[-1]
    weighted = maps.score if window is None else maps.score * window
    cell = weighted.flatten(1).argmax(1, keepdim=True)
    at = cell.unsqueeze(1).expand(-1, 2, -1)
    offset = maps.offset.flatten(2).gather(2, at).squeeze(2)
    size = maps.size.flatten(2).gather(2, at).squeeze(2)
    corner = torch.cat([cell % side, cell // side], dim=1)
    box = torch.cat([(corner + offset) / side, size], dim=1)
    return box, maps.score.flatten(1).gather(1, cell).squeeze(1)


def template_rows(
    chosen: TemplateRange, side: int, box: Sequence[float] | None = None
) -> tuple[int, ...] | None:
    """Template tokens that judge the search tokens (SPEC 1.3).

    Args:
        chosen: which.
        side: template tokens a side.
        box: (x, y, w, h) of the target in the template, as fractions of its side; for GT_BOX.

    Returns:
        Ascending token indices, or None for all.

    Raises:
        ValueError: the mode is not defined for this number of tokens, or GT_BOX has no box.

    """
    if chosen is TemplateRange.ALL:
        return None
    if chosen is TemplateRange.GT_BOX:
        if box is None:
            raise ValueError("template range gt_box needs the target's box in the template, or its tokens")
        xs, ys = _cells_under(box[0], box[2], side), _cells_under(box[1], box[3], side)
    else:
        central = {
            TemplateRange.CTR_POINT: {8: (3,), 12: (5,), 7: (3,), 14: (6,)},
            TemplateRange.CTR_REC: {8: (3, 4), 12: (5, 6), 7: (3,)},
        }[chosen]
        if side not in central:
            raise ValueError(f"template range {chosen.value} is not defined for {side}x{side} tokens")
        xs = ys = central[side]
    return tuple(y * side + x for y in ys for x in xs)


def _cells_under(start: float, length: float, side: int) -> tuple[int, ...]:
    """Cells along one axis that a painted box touches after bilinear reduction by 1/16.

    Such a reduction reads just the two middle pixels of each patch.
    """
    start, length = start * side * PATCH, length * side * PATCH
    painted = range(int(start), int(start + length - 1))
    middle = PATCH // 2
    return tuple(i for i in range(side) if i * PATCH + middle - 1 in painted or i * PATCH + middle in painted)


def _call_ratio(configured: float, for_this_call: float | None) -> float:
    """Keep ratio of an eliminating block (SPEC 1.3): the call's where there is one and both are below 1."""
    if for_this_call is None or configured >= 1.0:
        return configured
    return min(for_this_call, 1.0)
