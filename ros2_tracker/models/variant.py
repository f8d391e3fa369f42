"""Model variants by name: what each YAML under variants/ says, checked."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_PACKAGE = Path(__file__).resolve().parent.parent
VARIANTS_DIR = _PACKAGE / "models" / "variants"
WEIGHTS_DIR = _PACKAGE / "weights"
DEFAULT = "multistage-tiny"
"""What the name `default` stands for."""
EXPLICIT_INT8 = "int8-qdq"
"""Among a variant's graphs: its explicitly quantised one, which is int8, too. TensorRT takes no other."""


MOTION_NOISE = ("acceleration", "size_rate", "position_noise", "size_noise")
"""What a variant's `motion` may set: fields of `tracking.settings.MotionSettings`."""

_OUR_READINGS = ("ibfp", "multistage", "transinmo")
"""Families, and variants of other families, whose authors published neither code nor weights."""


class WeightsMissingError(FileNotFoundError):
    """A variant's weights are not there; the text says which file and what to do."""


@dataclass(frozen=True, slots=True)
class InputSettings:
    """One network input: a square crop around the target."""

    size: int
    """Side of the network's input, px."""
    factor: float
    """Side of the region over sqrt(w * h) of the target."""


@dataclass(frozen=True, slots=True)
class TemplateUpdate:
    """When a second template is cut from the video (STARK-ST, SPEC 2.6)."""

    interval: int
    """Frames between two attempts; lower follows a changing look sooner, and mistakes too."""
    confidence: float
    """The score head must be above this, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One model variant."""

    name: str
    family: str
    description: str
    parameters: float
    gmacs: float
    graphs: Mapping[str, str]
    """Precision, or EXPLICIT_INT8 -> name of its ONNX file: shipped, or written by `ros2-tracker`."""
    weights: str | None
    """Name of the safetensors file for `models.build`, or None; absent until a checkpoint was imported."""
    reliability: Path | None
    """The fitted reliability model: the user's own, or else a shipped one; None without either."""
    template: InputSettings
    search: InputSettings
    fill: str
    """Outside the image: `mean` colour of the first frame, `zero`, or `replicate`, the nearest pixel (IBFP)."""
    size_update: float
    """Weight of a newly predicted width and height against the old ones."""
    hold_in_doubt: bool
    """Whether a doubtful box leaves the search where it is. The published loops always follow their own box."""
    template_update: TemplateUpdate | None = None
    network: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the family's network; its module says which there are."""
    loop: Mapping[str, Any] = field(default_factory=dict)
    """Settings of InMo's tracking loop: a `dataset` whose published ones to take, and fields of
    `tracking.inmo_settings.LoopSettings`."""
    online: Mapping[str, Any] = field(default_factory=dict)
    """Settings of IBFP's online branch: fields of `models.ibfp_settings.OnlineSettings`."""
    motion: Mapping[str, float] = field(default_factory=dict)
    """Noise of the motion model that suits this network better than the general one: some of `MOTION_NOISE`."""

    @property
    def templates(self) -> int:
        """How many templates the network looks at."""
        return 1 if self.template_update is None else 2

    @property
    def has_weights(self) -> bool:
        """Whether something that this variant runs from is there."""
        names = [*self.graphs.values(), *([self.weights] if self.weights else [])]
        return any(find_weights(name) for name in names)

    def require_weights(self, weights: str | Path | None = None) -> Path:
        """The safetensors file: `weights` where given, else the variant's; WeightsMissingError if it is not there."""
        if weights:
            path: Path | None = Path(weights)
        elif self.weights is None:
            raise WeightsMissingError(f"model {self.name}: it is run from its graph and has no weights file")
        else:
            path = find_weights(self.weights)
        if path is None:
            raise WeightsMissingError(self.how_to_get_weights())
        if not path.is_file():
            raise WeightsMissingError(f"model {self.name}: the weights file {path} does not exist")
        return path

    def how_to_get_weights(self) -> str:
        """For people: which file is missing and what makes it."""
        if self.weights is None:
            return f"model {self.name}: no weights of it are shipped"
        folder = user_weights_dir()
        if self.family in _OUR_READINGS or self.name in _OUR_READINGS:
            return (
                f"model {self.name}: the weights file {folder / self.weights} does not exist; it is our reading of the "
                "paper, no weights are published: train one with `ros2-tracker train` (docs/models.md)"
            )
        return (
            f"model {self.name}: the weights file {folder / self.weights} does not exist; `ros2-tracker "
            f"import-checkpoint FILE --model {self.name} -o {folder / self.weights}` makes it from the checkpoint that "
            "the authors publish (docs/models.md says where)"
        )


def user_weights_dir() -> Path:
    """The user's own folder of imported weights and exported graphs (XDG base directories)."""
    base = os.environ.get("XDG_DATA_HOME", "")
    data = Path(base) if base.startswith("/") else Path.home() / ".local" / "share"
    return data / "ros2_tracker" / "weights"


def find_weights(name: str) -> Path | None:
    """A file in the user's folder, or else in the package's; None where neither has it."""
    candidates = (folder / name for folder in (user_weights_dir(), WEIGHTS_DIR))
    return next((path for path in candidates if path.is_file()), None)


def template_graph(graph: Path) -> Path:
    """Where the template graph of a family with template features lies: beside the one of every frame."""
    return graph.with_name(f"{graph.stem}.template.onnx")


def variant_names() -> list[str]:
    """Names of all variants, sorted."""
    return sorted(path.stem for path in VARIANTS_DIR.glob("*.yaml"))


def load_variant(name: str) -> Variant:
    """Variant by name; `default` is the shipped one. ValueError for an unknown name or a malformed file."""
    resolved = DEFAULT if name == "default" else name
    if resolved not in variant_names():
        raise ValueError(f"unknown model {name!r}; known: default, {', '.join(variant_names())}")
    path = VARIANTS_DIR / f"{resolved}.yaml"
    data: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        if data["fill"] not in ("mean", "zero", "replicate"):
            raise ValueError(f"fill is {data['fill']!r}, must be mean, zero or replicate")
        return Variant(
            name=resolved,
            family=data["family"],
            description=data["description"],
            parameters=float(data["parameters"]),
            gmacs=float(data["gmacs"]),
            graphs=data["graphs"],
            weights=data.get("weights"),
            reliability=find_weights(data.get("reliability", f"{resolved}.reliability.json")),
            template=InputSettings(int(data["template"]["size"]), float(data["template"]["factor"])),
            search=InputSettings(int(data["search"]["size"]), float(data["search"]["factor"])),
            fill=data["fill"],
            size_update=float(data["size_update"]),
            hold_in_doubt=bool(data["hold_in_doubt"]),
            template_update=TemplateUpdate(**data["template_update"]) if data.get("template_update") else None,
            network=data.get("network", {}),
            loop=data.get("loop", {}),
            online=data.get("online", {}),
            motion=_motion_noise(data.get("motion", {})),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error!r}") from error


def _motion_noise(values: Mapping[str, Any]) -> dict[str, float]:
    """The `motion` block, checked; ValueError names what is wrong."""
    noise = {}
    for name, value in values.items():
        if name not in MOTION_NOISE:
            raise ValueError(f"motion.{name} is none of {', '.join(MOTION_NOISE)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value < math.inf:
            raise ValueError(f"motion.{name} is {value!r}, must be a positive number")
        noise[name] = float(value)
    return noise
