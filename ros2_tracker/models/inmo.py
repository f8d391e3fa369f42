r"""InMo (IJCAI 2022, arXiv 2201.02526): a backbone in which the search region looks at the template (SPEC 3).

    template -> backbone -> keys and values of every stage, kept
                       \--> features, kept \
    search   -> backbone with them -------> neck -> head -> maps

TransInMo: Swin-T, an encoder-decoder neck (`transinmo-star`) or a depth-wise correlation (`transinmo`), a box a token.
CNNInMo: ResNet-50, SiamCAR's correlation and head. Entries are named as in the official checkpoints.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, fields
from typing import NamedTuple

from torch import Tensor, nn

from ros2_tracker.models import inmo_resnet, inmo_swin
from ros2_tracker.models.inmo_attention import Interactions
from ros2_tracker.models.inmo_heads import (
    AdjustNeck,
    CellHead,
    CellMaps,
    CorrelationNeck,
    EncoderNeck,
    PlainAttention,
    TokenHead,
    TokenMaps,
)
from ros2_tracker.models.inmo_resnet import ResNetInMo
from ros2_tracker.models.inmo_swin import Memory, SwinInMo
from ros2_tracker.models.variant import Variant

STRIDE = 8


@dataclass(frozen=True, slots=True)
class InMoSettings:
    """What differs between the variants."""

    backbone: str = "swin-t"
    """`swin-t` or `resnet50`."""
    neck: str = "encoder"
    """Of Swin: `encoder` or `correlation`."""
    layers: int = 4
    """Of the encoder."""
    depths: tuple[int, ...] = ()
    """Blocks of the backbone's stages; those of its name where none are given."""
    width: int = 0
    """Of the backbone's first stage; 0: that of its name."""
    neck_width: int = 256
    """Of what follows the backbone."""
    search_size: int = 256
    """Side of the search region, px."""
    interactions: Interactions = field(default_factory=Interactions)

    def __post_init__(self) -> None:
        """ValueError names what does not fit."""
        if self.backbone not in ("swin-t", "resnet50"):
            raise ValueError(f"backbone is {self.backbone!r}, must be swin-t or resnet50")
        if self.neck not in ("encoder", "correlation"):
            raise ValueError(f"neck is {self.neck!r}, must be encoder or correlation")
        if self.layers < 1:
            raise ValueError(f"layers is {self.layers}, must be at least 1")
        if len(self.depths) not in (0, 4) or min(self.depths, default=1) < 1:
            raise ValueError(f"depths is {self.depths}, must be of four stages")
        parts = 12 if self.backbone == "swin-t" else 4
        if self.width < 0 or self.width % parts:
            raise ValueError(f"width is {self.width}, must be a multiple of {parts}")
        if self.neck_width < 32 or self.neck_width % 32:
            raise ValueError(f"neck_width is {self.neck_width}, must be a multiple of 32")

    @property
    def cells(self) -> int:
        """Of the maps that the network returns, a side."""
        if self.backbone == "swin-t":
            return self.search_size // STRIDE
        # Convolutions without padding, then a correlation with 7x7 cells.
        return ((self.search_size - 7) // 4 + 1 - 3) // 2 + 1 - 6


def from_variant(variant: Variant) -> TransInMo | CnnInMo:
    """Network of a variant; its `network` holds fields of `InMoSettings` and of `Interactions`."""
    inner = {item.name for item in fields(Interactions)}
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in variant.network.items() if name not in inner}
    strange = given.keys() - {"backbone", "neck", "layers", "depths", "width", "neck_width"}
    if strange:
        raise ValueError(f"unknown setting {', '.join(sorted(strange))}")
    interactions = Interactions(**{name: value for name, value in variant.network.items() if name in inner})
    settings = InMoSettings(**given, search_size=variant.search.size, interactions=interactions)
    return TransInMo(settings) if settings.backbone == "swin-t" else CnnInMo(settings)


class Template(NamedTuple):
    """Everything about a template that does not depend on the search region."""

    tokens: Tensor
    """What the neck compares: (B, N, C) of TransInMo, (B, C, 7, 7) of CNNInMo."""
    memories: tuple[Memory, ...]
    """Of each stage of the backbone; empty without target-aware attention."""


class TransInMo(nn.Module):
    """TransInMo* and TransInMo."""

    def __init__(self, settings: InMoSettings | None = None) -> None:
        super().__init__()
        settings = settings or InMoSettings()
        self.settings = settings
        # Two levels, for the official names: backbone.0.body.
        depths, width = settings.depths or inmo_swin.DEPTHS, settings.width or inmo_swin.WIDTH
        neck_width = settings.neck_width
        body = SwinInMo(settings.interactions, neck_width, depths, width)
        self.backbone = nn.Sequential(nn.Sequential(OrderedDict(body=body)))
        self.neck: EncoderNeck | CorrelationNeck
        if settings.neck == "encoder":
            self.neck = EncoderNeck(neck_width, 4 * neck_width, settings.layers)
        else:
            self.neck = CorrelationNeck(neck_width)
        self.head = TokenHead(neck_width)
        self.apply(_initialise)

    def template(self, image: Tensor) -> Template:
        """(B, 3, T, T) normalised -> what is kept."""
        features, memories = self.backbone[0].body(image)
        return Template(self.neck.template(features), memories)

    def forward(self, template: Template, image: Tensor) -> TokenMaps:
        """Find the target in (B, 3, S, S), normalised."""
        features, _ = self.backbone[0].body(image, template.memories)
        return self.head(self.neck(template.tokens, features))


class CnnInMo(nn.Module):
    """CNNInMo. Images are BGR in 0..255."""

    def __init__(self, settings: InMoSettings | None = None) -> None:
        super().__init__()
        settings = settings or InMoSettings("resnet50", search_size=255)
        self.settings = settings
        depths, width = settings.depths or inmo_resnet.DEPTHS, settings.width or inmo_resnet.WIDTH
        self.backbone = ResNetInMo(settings.interactions, depths, width)
        levels = self.backbone.widths[1:]
        self.neck = AdjustNeck(levels, settings.neck_width)
        self.head = CellHead(settings.neck_width, len(levels))

    def template(self, image: Tensor) -> Template:
        """(B, 3, T, T) -> what is kept."""
        maps, memories = self.backbone(image)
        return Template(self.neck.template(maps), memories)

    def forward(self, template: Template, image: Tensor) -> CellMaps:
        """Find the target in (B, 3, S, S)."""
        maps, _ = self.backbone(image, template.memories)
        return self.head(template.tokens, self.neck(maps))


def _initialise(module: nn.Module) -> None:
    """What a layer makes of its input is to outweigh its bias, and to keep its size at any width.

    Otherwise tokens that are normalised after a few layers say next to nothing of the image. The encoder's attention
    starts as nothing: without projections it answers all cells alike, and more than they differ in.
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
    if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
        nn.init.zeros_(module.bias)
    # After its own layer's turn: `apply` goes from the inside out.
    if isinstance(module, PlainAttention):
        nn.init.zeros_(module.attn.fc.weight)
