r"""IBFP: our reading of the paper, which comes without code; SPEC 4 says what it leaves open.

    template -> ResNet-18 -> maps of stride 16 and 32, kept \
                                                             IBU 0 (stride 32 -> 16) -> IBU 1 (16 -> 8) -> centre head
    search   -> ResNet-18 -> maps of stride 8, 16 and 32    /

An information bridge unit (IBU) correlates the search map with the target's part of the template map, lets what it
finds go up to the next finer map, and joins that map's own features. Before it, channel selection by the current search
(CSCS) refines the template. The online branch (`models.ibfp_online`) works on the search map of stride 16.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ros2_tracker.models.ibfp_backbone import ResNet18
from ros2_tracker.models.layers import keep_statistics
from ros2_tracker.models.ostrack import CenterMaps
from ros2_tracker.models.variant import Variant

STRIDE = 8
"""Pixels a cell of the head's maps."""
_KERNELS = (3, 5)
"""Cells a side of the target's features at stride 32 and 16: odd, so that padding keeps a map's size."""
_LONGEST = 5.0
"""Largest exponent of a distance: four search sides."""
_INITIAL_SELECTION = 0.01
_SCORE_MIN = 1e-4
_SAMPLES = 2
"""Points a side of each of those cells."""


@dataclass(frozen=True, slots=True)
class IbfpSettings:
    """What can be set; the switches are those of the paper's ablation."""

    size: int = 288
    """Side of template and search region, px."""
    factor: float = 5.0
    """Side of the template's region over the target's."""
    width: int = 64
    """Of ResNet's first layer; 64 is ResNet-18."""
    head_width: int = 256
    ibu: bool = True
    """Whether the deepest level is correlated, too; else its map goes up as it is, and the template enters once."""
    cscs: bool = True
    """Whether the search region selects the template's channels."""
    frozen_norms: bool = False
    """Whether batch normalisations keep their statistics in training: for batches too small to have any."""

    @property
    def cells(self) -> int:
        """Of the head's maps, a side."""
        return self.size // STRIDE

    def __post_init__(self) -> None:
        """ValueError names what does not fit."""
        if self.size <= 0 or self.size % 32:
            raise ValueError(f"a crop of {self.size} px has no whole cells of 32 px")
        if self.factor < 1.0:
            raise ValueError(f"a template factor of {self.factor:g} shows less than the target")
        for name in ("width", "head_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be 1 or more")


def from_variant(variant: Variant) -> Ibfp:
    """Network of a variant; its `network` holds fields of `IbfpSettings` other than size and factor."""
    strange = variant.network.keys() - {field.name for field in fields(IbfpSettings)[2:]}
    if strange:
        raise ValueError(f"unknown setting {', '.join(sorted(strange))}")
    if variant.template.size != variant.search.size:
        raise ValueError(f"template ({variant.template.size} px) and search ({variant.search.size} px) differ in size")
    return Ibfp(IbfpSettings(variant.template.size, variant.template.factor, **variant.network))


class TemplateFeatures(NamedTuple):
    """What is kept of a template."""

    deep: Tensor
    """(B, 512, 9, 9) for the published sizes: stride 32."""
    middle: Tensor
    """(B, 256, 18, 18): stride 16."""
    size: Tensor
    """(B, 2) width and height of the target, which is in the middle, in template sides."""


class IbfpMaps(NamedTuple):
    """What was found; F cells a side."""

    score: Tensor
    """(B, 1, F, F), linear: about 1 at the target, 0 or less elsewhere."""
    sides: Tensor
    """(B, 4, F, F): from a cell's centre to left, top, right, bottom, in search sides."""
    middle: Tensor
    """(B, 256, 18, 18): the search map of stride 16, for the online branch."""


class Ibfp(nn.Module):
    """The offline network, with random weights to train from."""

    def __init__(self, settings: IbfpSettings | None = None) -> None:
        super().__init__()
        settings = settings or IbfpSettings()
        self.settings = settings
        self.backbone = ResNet18(settings.width)
        fine, middle, deep = self.backbone.widths
        self.selections = nn.ModuleList([ChannelSelection(deep), ChannelSelection(middle)] if settings.cscs else [])
        self.bridges = nn.ModuleList([InformationBridge(deep, settings.ibu), InformationBridge(middle)])
        self.box_head = SidesHead(fine, settings.head_width)
        self.apply(_initialise)
        for selection in self.selections:
            selection.initialise()
        self.box_head.initialise(0.5 * settings.size / settings.factor)

    def train(self, mode: bool = True) -> Ibfp:
        """As of every module, but see `IbfpSettings.frozen_norms`."""
        super().train(mode)
        if self.settings.frozen_norms:
            keep_statistics(self)
        return self

    def template(self, image: Tensor, size: Tensor) -> TemplateFeatures:
        """Maps of a template, the same for all frames: (B, 3, S, S) normalised; `size` as it is kept."""
        _, middle, deep = self.backbone(image)
        return TemplateFeatures(deep, middle, size)

    def find(self, template: TemplateFeatures, image: Tensor) -> IbfpMaps:
        """Find the target in (B, 3, S, S), the normalised search region."""
        fine, middle, deep = self.backbone(image)
        searched = deep
        levels = ((template.deep, middle), (template.middle, fine))
        for level, (shown, finer) in enumerate(levels):
            if self.settings.cscs:
                shown = self.selections[level](shown, searched)
            # After the selection, which looks at all of the template.
            target = roi_align(shown, _KERNELS[level], template.size)
            searched = self.bridges[level](target, searched, finer)
        score, sides = self.box_head(searched)
        return IbfpMaps(score, sides / self.settings.size, middle)

    def forward(self, template: TemplateFeatures, image: Tensor) -> CenterMaps:
        """As the centre maps that other families have; arguments as those of `find`."""
        return as_centers(self.find(template, image))


class InformationBridge(nn.Module):
    """IBU (Eq. 3 to 5): what the template says of a level, taken up to the next finer one."""

    def __init__(self, channels: int, informed: bool = True) -> None:
        """`channels` of this level, the next has half; `informed`: whether it looks at the template."""
        super().__init__()
        self.informed = informed
        half = channels // 2
        self.reduce = _block(nn.Conv2d(2 * channels if informed else channels, channels, 1, bias=False), channels)
        # 4x4 with stride 2: exactly twice the size, each output from as many inputs.
        self.up = _block(nn.ConvTranspose2d(channels, half, 4, stride=2, padding=1, bias=False), half)
        self.fuse = _block(nn.Conv2d(2 * half, half, 3, padding=1, bias=False), half)

    def forward(self, target: Tensor, searched: Tensor, finer: Tensor) -> Tensor:
        """Up one level.

        Args:
            target: (B, C, k, k) of the template.
            searched: (B, C, F, F).
            finer: (B, C / 2, 2F, 2F), the search map of the next level.

        Returns:
            (B, C / 2, 2F, 2F).

        """
        if self.informed:
            searched = torch.cat([depthwise_correlation(target, searched), searched], dim=1)
        return self.fuse(torch.cat([self.up(self.reduce(searched)), finer], dim=1))


class ChannelSelection(nn.Module):
    """CSCS (Eq. 6 to 8): the search region weights the template's channels, compressed to half as many."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.average, self.highest, self.compress = (nn.Conv2d(channels, half, 1) for _ in range(3))
        self.expand = nn.Conv2d(half, channels, 1)

    def initialise(self) -> None:
        """Hardly any change of the template: two products of features would drown all else before a norm has learnt."""
        self.expand.weight.data.mul_(_INITIAL_SELECTION)

    def forward(self, template: Tensor, searched: Tensor) -> Tensor:
        """(B, C, H, W) of the template and (B, C, F, F) of the search region -> (B, C, H, W)."""
        weights = self.average(searched.mean((2, 3), keepdim=True)) + self.highest(searched.amax((2, 3), keepdim=True))
        return self.expand(weights * self.compress(template)) + template


class SidesHead(nn.Module):
    """Two towers of five 3x3 convolutions: a linear score, and the distances to a box's sides."""

    def __init__(self, in_channels: int, width: int = 256) -> None:
        super().__init__()
        self.cls = _tower(in_channels, width, 1)
        self.reg = _tower(in_channels, width, 4)
        self.scale = nn.Parameter(torch.ones(1))

    def initialise(self, distance: float) -> None:
        """No score anywhere, and `distance` px to each side."""
        for conv in (self.cls[-1], self.reg[-1]):
            nn.init.normal_(conv.weight, std=0.01)
        nn.init.zeros_(self.cls[-1].bias)
        nn.init.constant_(self.reg[-1].bias, math.log(distance / STRIDE))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, F, F) -> score (B, 1, F, F), and left, top, right, bottom (B, 4, F, F) in px, float32."""
        sides = (self.scale * self.reg(features).float()).clamp_max(_LONGEST).exp() * STRIDE
        return self.cls(features).float(), sides


def depthwise_correlation(target: Tensor, searched: Tensor) -> Tensor:
    """Each channel of the search map with that of its own sample's target (Eq. 3), a mean over the k x k places.

    As sums of products, not as a grouped convolution: kernels that are computed are not what run times expect.

    Args:
        target: (B, C, k, k), k odd.
        searched: (B, C, F, F).

    Returns:
        (B, C, F, F); beyond the border the search map counts as 0.

    """
    k, cells = target.shape[-1], searched.shape[-1]
    padded = F.pad(searched, [k // 2] * 4)
    kernel = target / (k * k)
    columns = torch.stack([padded[..., x : x + cells] for x in range(k)], dim=2)
    rows = [(kernel[:, :, y, :, None, None] * columns[..., y : y + cells, :]).sum(2) for y in range(k)]
    return torch.stack(rows).sum(0)


def roi_align(features: Tensor, k: int, size: Tensor) -> Tensor:
    """A box in the middle of a map as k x k means of bilinear samples (arXiv 1703.06870, sec. 3).

    Args:
        features: (B, C, F, F).
        k: places a side.
        size: (B, 2) width and height of the box, in sides of the map.

    Returns:
        (B, C, k, k).

    """
    channels, cells = features.shape[1], features.shape[-1]
    steps = (torch.arange(k * _SAMPLES, device=features.device) + 0.5) / (k * _SAMPLES) - 0.5
    # With the centre of the first cell at 0.
    places = ((0.5 + size.float().unsqueeze(-1) * steps) * cells - 0.5).clamp(0.0, cells - 1.0)
    weights = F.relu(1.0 - (places.unsqueeze(-1) - torch.arange(cells, device=features.device)).abs())
    columns, rows = weights.unflatten(2, (k, _SAMPLES)).mean(3).to(features.dtype).transpose(2, 3).unbind(1)
    across = features.flatten(1, 2) @ columns  # (B, C * F, k)
    both = across.unflatten(1, (channels, cells)).transpose(2, 3).flatten(1, 2) @ rows  # (B, C * k, k), turned
    return both.unflatten(1, (channels, k)).transpose(2, 3)


def as_centers(maps: IbfpMaps) -> CenterMaps:
    """Score, size and offset from score and distances; a score below 0 says no less than none."""
    before, after = maps.sides.chunk(2, dim=1)
    offset = 0.5 + (after - before) * (0.5 * maps.sides.shape[-1])
    return CenterMaps(maps.score.clamp_min(_SCORE_MIN), before + after, offset)


def _block(conv: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())


def _tower(in_channels: int, width: int, out_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for own in (in_channels, width, width, width):
        layers += [nn.Conv2d(own, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, out_channels, 3, padding=1))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
