r"""Multi-Stage: our reading of "Robust Multi-Stage Tracking" (IEEE TMM 2025), by its abstract alone (SPEC 5).

    template -> stages 1, 2 -> tokens, kept \
                                             one-stream main stage -> integration of levels -> head -> three maps
    search   -> stages 1, 2 -> tokens       /                       /
                       \--- shallow tokens, those of middle blocks -

Both branches of the local stages have the same weights. docs/models.md says what is the paper's and what ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ros2_tracker.models.layers import keep_statistics, to_map
from ros2_tracker.models.local_stages import PATCH, ConvStages, LocalFeatures, MlpStages, light_tower
from ros2_tracker.models.ostrack import Attention, CenterHead, CenterMaps
from ros2_tracker.models.variant import Variant

_SCORE_MIN = 1e-4
_INITIAL_SCORE = 0.01
"""Of an untrained head: nearly all cells are background, and must not drown the rest at first."""
_INITIAL_SIZE = 0.25
"""Of an untrained head, in search sides: that of a square target at a search factor of 4."""


@dataclass(frozen=True, slots=True)
class MultiStageSettings:
    """What differs between the variants; the defaults are those of SPEC 5."""

    template_size: int = 128
    search_size: int = 256
    local: str = "mlp"
    """Stages 1 and 2: `mlp`, as the abstract has them, or `conv`."""
    widths: tuple[int, ...] = (128, 256, 512)
    """Of the three stages."""
    depths: tuple[int, ...] = (2, 2, 20)
    """Blocks of the three stages."""
    local_mixing: bool = False
    """For `mlp`: whether the units of a patch are mixed before they merge."""
    heads: int = 8
    """Of the main stage's attention."""
    mlp_ratio: int = 4
    """Hidden width of the main stage's MLPs over its own."""
    levels: tuple[int, ...] = (5, 10, 15)
    """Blocks of the main stage, from 1, after which the search tokens are kept for the integration."""
    normed_levels: bool = True
    """Whether a level is brought to the main stage's width and normalised before it is integrated."""
    head: str = "center"
    """`center`: OSTrack's; `distances`: two light towers, one of distances to the sides."""
    drop_path: float = 0.0
    """Share of samples that skip the last block's residuals in training, falling to 0 at the first. Higher hinders
    over-fitting, and slows learning."""
    frozen_norms: bool = False
    """Whether batch normalisations keep their statistics in training: for weights that came without (`stand_in`), or
    for batches too small to have any."""

    def __post_init__(self) -> None:
        """ValueError names what does not fit."""
        if self.local not in ("mlp", "conv"):
            raise ValueError(f"local is {self.local!r}, must be mlp or conv")
        if self.head not in ("center", "distances"):
            raise ValueError(f"head is {self.head!r}, must be center or distances")
        if len(self.widths) != 3 or len(self.depths) != 3:
            raise ValueError(f"widths {self.widths} and depths {self.depths} must be of three stages")
        if self.widths[2] % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.widths[2]}")
        if not all(0 < level < self.depths[2] for level in self.levels):
            raise ValueError(f"levels is {self.levels}, must be blocks before the last of {self.depths[2]}")
        if not 0.0 <= self.drop_path < 1.0:
            raise ValueError(f"drop_path is {self.drop_path:g}, must be in [0, 1)")
        for size in (self.template_size, self.search_size):
            if size % PATCH:
                raise ValueError(f"a crop of {size} px has no whole patches of {PATCH} px")


def from_variant(variant: Variant) -> MultiStage:
    """Network of a variant; its `network` holds fields of `MultiStageSettings` other than the sizes."""
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in variant.network.items()}
    strange = given.keys() - {field.name for field in fields(MultiStageSettings)}
    if strange:
        raise ValueError(f"unknown setting {', '.join(sorted(strange))}")
    return MultiStage(MultiStageSettings(variant.template.size, variant.search.size, **given))


class MultiStage(nn.Module):
    """The whole network, with random weights to train from."""

    def __init__(self, settings: MultiStageSettings | None = None) -> None:
        super().__init__()
        settings = settings or MultiStageSettings()
        self.settings = settings
        first, second, width = settings.widths
        cells_z, cells_x = ((size // PATCH) ** 2 for size in (settings.template_size, settings.search_size))
        self.local: MlpStages | ConvStages
        if settings.local == "mlp":
            self.local = MlpStages(settings.widths, settings.depths, settings.local_mixing)
        else:
            self.local = ConvStages(settings.widths, settings.depths)
        self.pos_z = nn.Parameter(torch.zeros(1, cells_z, width))
        self.pos_x = nn.Parameter(torch.zeros(1, cells_x, width))
        self.main = MainStage(settings)
        widths = (16 * first, 4 * second, *[width] * (len(settings.levels) + 1))
        self.integration = LevelIntegration(widths, width, settings.normed_levels)
        self.box_head: CenterHead | DistanceHead
        self.box_head = CenterHead(width) if settings.head == "center" else DistanceHead(width)
        self.apply(_initialise)
        for position in (self.pos_z, self.pos_x):
            nn.init.trunc_normal_(position, std=0.02)
        nn.init.zeros_(self.integration.fuse.weight)
        _initialise_head(self.box_head)

    def train(self, mode: bool = True) -> MultiStage:
        """As of every module, but see `MultiStageSettings.frozen_norms`."""
        super().train(mode)
        if self.settings.frozen_norms:
            keep_statistics(self)
        return self

    def template(self, image: Tensor) -> Tensor:
        """Template tokens, the same for all frames: (B, 3, T, T) normalised -> (B, (T / 16)^2, C)."""
        return self.local(image).tokens + self.pos_z

    def forward(self, template: Tensor, image: Tensor) -> CenterMaps:
        """Find the target; arguments as those of `with_tokens`."""
        return self.with_tokens(template, image)[0]

    def with_tokens(self, template: Tensor, image: Tensor) -> tuple[CenterMaps, Tensor]:
        """Find the target, and say what the search region looks like.

        Args:
            template: (B, Nz, C) of `template`.
            image: (B, 3, S, S) normalised search region.

        Returns:
            The maps, and (B, Nx, C) search tokens after the first of the levels: there they tell objects apart, and
            do not yet say only how much they are like the template.

        """
        search: LocalFeatures = self.local(image)
        deep = self.main(template, search.tokens + self.pos_x)
        return self.box_head(to_map(self.integration([*search.shallow, *deep]))), deep[0]


class MainStage(nn.Module):
    """One transformer over [template, search]. LN eps 1e-6."""

    def __init__(self, settings: MultiStageSettings) -> None:
        super().__init__()
        width, depth = settings.widths[2], settings.depths[2]
        self.levels = settings.levels
        rates = [settings.drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(Block(width, settings.heads, settings.mlp_ratio, rate) for rate in rates)
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, template: Tensor, search: Tensor) -> list[Tensor]:
        """(B, Nz, C) and (B, Nx, C) -> (B, Nx, C) search tokens after each of the levels, and after the last LN."""
        count_z = template.shape[1]
        tokens = torch.cat([template, search], dim=1)
        found = []
        for i, block in enumerate(self.blocks, start=1):
            # Nobody reads the template tokens of the last block.
            tokens = block(tokens, skip=count_z if i == len(self.blocks) else 0)
            if i in self.levels:
                found.append(tokens[:, count_z:])
        return [*found, self.norm(tokens)]


class Block(nn.Module):
    """Pre-norm transformer block: `x += attn(LN x)`, then `x += mlp(LN x)`, with the exact GELU."""

    def __init__(self, width: int, heads: int, mlp_ratio: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, mlp_ratio * width), nn.GELU(), nn.Linear(mlp_ratio * width, width))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, skip: int = 0) -> Tensor:
        """(B, N, C) -> (B, N - skip, C), the first `skip` tokens only being looked at."""
        normed = self.norm1(x)
        if skip:
            q, (k, v) = self.attn.queries(normed[:, skip:]), self.attn.keys_values(normed)
        else:
            q, k, v = self.attn.project(normed)
        x = x[:, skip:] + self.drop_path(self.attn(q, k, v))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class DropPath(nn.Module):
    """Stochastic depth: in training a residual is left out for some samples, and as much larger for the others."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> the same shape."""
        if not self.training or self.rate == 0.0:
            return x
        kept = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) >= self.rate
        return x * (kept / (1.0 - self.rate)).to(x.dtype)


class LevelIntegration(nn.Module):
    """Adds a linear map of all levels, shallow to last, to the last one. It starts at zero: with the plain network."""

    def __init__(self, widths: Sequence[int], width: int, normed: bool) -> None:
        """`widths` are those of the levels, the last of which is `width` wide."""
        super().__init__()
        self.entries = nn.ModuleList(_entry(own, width) if normed else nn.Identity() for own in widths)
        self.fuse = nn.Linear(len(widths) * width if normed else sum(widths), width)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """(B, N, widths[i]) of each level -> (B, N, C)."""
        entered = [entry(level) for entry, level in zip(self.entries, levels, strict=True)]
        return levels[-1] + self.fuse(torch.cat(entered, dim=-1))


class DistanceHead(nn.Module):
    """The centre head's maps from two light towers: score, and distances from a cell's centre to the box's sides."""

    def __init__(self, in_channels: int, width: int = 128, depth: int = 3) -> None:
        super().__init__()
        self.cls = light_tower(in_channels, width, depth, 1)
        self.reg = light_tower(in_channels, width, depth, 4)

    def forward(self, features: Tensor) -> CenterMaps:
        """(B, C, F, F) -> maps."""
        # In fp32 also under autocast: half precision knows no score between 0.9995 and 1.
        score = self.cls(features).float().sigmoid().clamp(_SCORE_MIN, 1.0 - _SCORE_MIN)
        # Left, top, right, bottom in search sides.
        before, after = (F.softplus(self.reg(features).float()) / 4.0).chunk(2, dim=1)
        offset = 0.5 + (after - before) * (0.5 * features.shape[-1])
        return CenterMaps(score, before + after, offset)


def _entry(own: int, width: int) -> nn.Sequential:
    project = [nn.Linear(own, width)] if own != width else []
    return nn.Sequential(*project, nn.LayerNorm(width, eps=1e-6))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.groups > 1:  # of which fan_out knows nothing
            module.weight.data.mul_(math.sqrt(module.groups))
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def _initialise_head(head: CenterHead | DistanceHead) -> None:
    """Little score everywhere, and a box of common size in the middle of each cell."""
    if isinstance(head, CenterHead):
        score, size, offset = (head.get_submodule(f"conv5_{tower}") for tower in ("ctr", "size", "offset"))
        nn.init.constant_(size.bias, math.log(_INITIAL_SIZE / (1.0 - _INITIAL_SIZE)))
        nn.init.constant_(offset.bias, 0.5)
        last = (score, size, offset)
    else:
        score, distances = head.cls[-1], head.reg[-1]
        # The inverse of softplus(r) / 4.
        nn.init.constant_(distances.bias, math.log(math.expm1(4.0 * _INITIAL_SIZE / 2.0)))
        last = (score, distances)
    for conv in last:
        nn.init.normal_(conv.weight, std=0.01)
    nn.init.constant_(score.bias, math.log(_INITIAL_SCORE / (1.0 - _INITIAL_SCORE)))
