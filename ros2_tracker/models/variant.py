"""Model variants by name: what each YAML under variants/ says, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_PACKAGE = Path(__file__).resolve().parent.parent
VARIANTS_DIR = _PACKAGE / "models" / "variants"
WEIGHTS_DIR = _PACKAGE / "weights"
DEFAULT = "onestream-192"
"""What the name `default` stands for."""


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
    graph: Path | None
    """The ONNX file that is shipped, or None."""
    weights: Path | None
    """The safetensors file for `models.build.build_network`, or None; absent until a checkpoint was imported."""
    reliability: Path | None
    """The fitted reliability model, or None."""
    template: InputSettings
    search: InputSettings
    fill: str
    """Outside the image: `mean` colour of the first frame, or `zero`."""
    size_update: float
    """Weight of a newly predicted width and height against the old ones."""
    template_update: TemplateUpdate | None = None
    network: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the family's network; its module says which there are."""

    def require_graph(self, weights: str | Path | None = None) -> Path:
        """The graph to run: `weights` where given, else the variant's own; WeightsMissingError if it is not there."""
        path = Path(weights) if weights else self.graph
        if path is None:
            raise WeightsMissingError(f"model {self.name}: no ONNX graph is shipped; export one and name it as weights")
        if not path.is_file():
            raise WeightsMissingError(f"model {self.name}: the weights file {path} does not exist")
        return path

    def require_weights(self, weights: str | Path | None = None) -> Path:
        """The safetensors file: `weights` where given, else the variant's; WeightsMissingError if it is not there."""
        path = Path(weights) if weights else self.weights
        if path is None:
            raise WeightsMissingError(f"model {self.name}: it is run from its graph and has no weights file")
        if not path.is_file():
            raise WeightsMissingError(
                f"model {self.name}: the weights file {path} does not exist; "
                f"ros2-tracker import-checkpoint FILE --model {self.name} -o {path} makes it"
            )
        return path


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
        if data["fill"] not in ("mean", "zero"):
            raise ValueError(f"fill is {data['fill']!r}, must be mean or zero")
        return Variant(
            name=resolved,
            family=data["family"],
            description=data["description"],
            parameters=float(data["parameters"]),
            gmacs=float(data["gmacs"]),
            graph=WEIGHTS_DIR / data["graph"] if data.get("graph") else None,
            weights=WEIGHTS_DIR / data["weights"] if data.get("weights") else None,
            reliability=WEIGHTS_DIR / data["reliability"] if data.get("reliability") else None,
            template=InputSettings(int(data["template"]["size"]), float(data["template"]["factor"])),
            search=InputSettings(int(data["search"]["size"]), float(data["search"]["factor"])),
            fill=data["fill"],
            size_update=float(data["size_update"]),
            template_update=TemplateUpdate(**data["template_update"]) if data.get("template_update") else None,
            network=data.get("network", {}),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error!r}") from error
