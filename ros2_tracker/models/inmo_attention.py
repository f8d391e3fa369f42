"""InMo's interaction as the paper describes it, with projections of its own (SPEC 3; docs/models.md: what is ours).

For maps `x` of the search region and `z` of the template:

    (1) window process: P(x) cuts a map in G x G windows; tokens at the same place of all windows form a group
    (2) attention: A(Q, K, V) = softmax(Q K^T / sqrt(d)) V, within a group
    (3) context-aware self-attention: x' = x + A(P(x) Wq, P(x) Wk, P(x) Wv) Wo, and z' alike with the same weights
    (4) target-aware cross-attention: x'' = x' + A(P(x') Uq, P(z') Uk, P(z') Uv) Uo

where each projection reads a layer normalisation. The number of windows is fixed, so that a larger image makes more
groups, not larger ones: the cost is linear in the image's area.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SEARCH_GRID = 8
"""Windows a side of a search region; half as many of a template, whose map is half as large: windows are alike."""


class KeysValues(Protocol):
    """What a search region reads of a template."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True)
class Interactions:
    """How the branches of the backbone meet."""

    attention: str = "released"
    """`released`: as the authors' code, for their weights; `paper`: as described above."""
    target_aware: bool = True
    """TCA of the paper's table: whether the search region looks at the template at all in the backbone."""
    window_process: bool = True
    """WP of the paper's table; only `paper` can do without: every token then looks at all others."""

    def __post_init__(self) -> None:
        """ValueError names what does not fit."""
        if self.attention not in ("released", "paper"):
            raise ValueError(f"attention is {self.attention!r}, must be released or paper")
        if not self.window_process and self.attention != "paper":
            raise ValueError("window_process is false, which needs attention: paper")


class InteractionModeler(nn.Module):
    """CSA on both branches, then TCA from search to template. Maps are (B, H, W, C)."""

    def __init__(self, width: int, inner: int, heads: int, interactions: Interactions) -> None:
        """`inner` is the width of queries, keys and values."""
        super().__init__()
        self.grids = (SEARCH_GRID // 2, SEARCH_GRID) if interactions.window_process else (None, None)
        self.norm_context = nn.LayerNorm(width)
        self.context = GroupAttention(width, inner, heads)
        self.target = None
        if interactions.target_aware:
            self.norm_template, self.norm_search = nn.LayerNorm(width), nn.LayerNorm(width)
            self.target = GroupAttention(width, inner, heads)

    def template(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The template with its context; keys and values (B, groups, Nz, inner) for `search`, empty without TCA."""
        z = self._with_context(z, self.grids[0])
        if self.target is None:
            return z, z.new_zeros(0), z.new_zeros(0)
        groups = to_groups(self.norm_template(z), self.grids[0])
        return z, self.target.k(groups), self.target.v(groups)

    def search(self, x: Tensor, template: KeysValues | None) -> Tensor:
        """(B, H, W, C) -> the same shape."""
        grid = self.grids[1]
        x = self._with_context(x, grid)
        if self.target is None or template is None:
            return x
        groups = to_groups(self.norm_search(x), grid)
        if groups.shape[1] != template.keys.shape[1]:
            raise ValueError(
                f"a search map of {tuple(x.shape[1:3])} has windows of {groups.shape[1]} places, the template's have "
                f"{template.keys.shape[1]}: the search region must be twice as large as the template"
            )
        taken = self.target(self.target.q(groups), template.keys, template.values)
        return x + from_groups(taken, grid, *x.shape[1:3])

    def _with_context(self, x: Tensor, grid: int | None) -> Tensor:
        groups, own = to_groups(self.norm_context(x), grid), self.context
        return x + from_groups(own(own.q(groups), own.k(groups), own.v(groups)), grid, *x.shape[1:3])


class GroupAttention(nn.Module):
    """Eq. 2 within groups of tokens, and the projections around it."""

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(width, inner) for _ in range(3))
        self.proj = nn.Linear(inner, width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Projected (B, groups, Nq, inner), (B, groups, Nk, inner) twice -> (B, groups, Nq, width)."""
        batch = q.shape[0]
        q, k, v = (part.flatten(0, 1).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.proj(attended.transpose(1, 2).flatten(2).unflatten(0, (batch, -1)))


def to_groups(x: Tensor, grid: int | None) -> Tensor:
    """Eq. 1: (B, H, W, C) -> (B, places in a window, windows, C); None: one group of all.

    Where `grid` windows a side do not fit exactly, the last row and column are repeated.
    """
    if grid is None:
        return x.flatten(1, 2).unsqueeze(1)
    for axis in (1, 2):
        missing = -x.shape[axis] % grid
        if missing:
            last = x.narrow(axis, x.shape[axis] - 1, 1)
            x = torch.cat([x, *[last] * missing], dim=axis)
    batch, height, width, channels = x.shape
    x = x.view(batch, grid, height // grid, grid, width // grid, channels)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, grid * grid, channels)


def from_groups(groups: Tensor, grid: int | None, height: int, width: int) -> Tensor:
    """The inverse of `to_groups`, for a map of `height` x `width`."""
    batch, channels = groups.shape[0], groups.shape[-1]
    if grid is None:
        return groups.view(batch, height, width, channels)
    rows, columns = -(-height // grid), -(-width // grid)
    x = groups.view(batch, rows, columns, grid, grid, channels).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(batch, grid * rows, grid * columns, channels)[:, :height, :width]
