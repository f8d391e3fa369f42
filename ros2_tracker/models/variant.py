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
    graph_int8: Path | None
    """The same with int8 matrix products, faster on a CPU; None where there is none."""
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

    @property
    def has_weights(self) -> bool:
        """Whether what this variant runs on is there."""
        path = self.graph or self.weights
        return path is not None and path.is_file()

    def require_graph(self, precision: str = "fp32", weights: str | Path | None = None) -> Path:
        """The file to run: `weights` where given, else the variant's own for a precision (`auto`: fastest on a CPU).

        Raises:
            ValueError: the variant has no graph of that precision.
            WeightsMissingError: the file is not there.

        """
        if weights:
            path = Path(weights)
        elif precision in ("auto", "int8") and self.graph_int8 is not None:
            path = self.graph_int8
        elif precision == "int8":
            raise ValueError(f"precision is 'int8', but model {self.name} has no int8 graph")
        elif self.graph is not None:
            path = self.graph
        else:
            raise WeightsMissingError(
                f"model {self.name}: no ONNX graph of it is shipped, and the tracking loop of the family {self.family} "
                "is not connected to the tracker yet (docs/models.md says what there is)"
            )
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


def _shipped(data: Mapping[str, Any], key: str) -> Path | None:
    return WEIGHTS_DIR / data[key] if data.get(key) else None


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
            graph=_shipped(data, "graph"),
            graph_int8=_shipped(data, "graph_int8"),
            weights=_shipped(data, "weights"),
            reliability=_shipped(data, "reliability"),
            template=InputSettings(int(data["template"]["size"]), float(data["template"]["factor"])),
            search=InputSettings(int(data["search"]["size"]), float(data["search"]["factor"])),
            fill=data["fill"],
            size_update=float(data["size_update"]),
            template_update=TemplateUpdate(**data["template_update"]) if data.get("template_update") else None,
            network=data.get("network", {}),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error!r}") from error
