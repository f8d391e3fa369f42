"""A tiny OSTrack as a variant `narrow`, for runs in this process and, as a program, in others."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import yaml

VARIANT = {
    "family": "narrow",
    "description": "a narrow OSTrack",
    "parameters": 1e4,
    "gmacs": 0.01,
    "graphs": {},
    "weights": "narrow.safetensors",
    "template": {"size": 32, "factor": 2.0},
    "search": {"size": 64, "factor": 4.0},
    "fill": "mean",
    "size_update": 1.0,
    "hold_in_doubt": False,
}


def from_variant(variant):
    """The family's network. Settings: width, dropout, nan_calls (0-based calls in training that answer with NaN)."""
    from torch import nn

    from ros2_tracker.models.ostrack import CenterHead, OSTrack, OSTrackSettings

    class Narrow(OSTrack):
        calls = 0
        nan_calls = range(0)

        def template(self, image):
            nan = self.training and self.calls in self.nan_calls
            self.calls += self.training
            return super().template(image * float("nan") if nan else image)

    settings = dict(variant.network)
    width = settings.pop("width", 16)
    network = Narrow(OSTrackSettings(variant.template.size, variant.search.size, width, 2, 2))
    network.nan_calls = range(*settings.pop("nan_calls", (0,)))
    network.box_head = CenterHead(width)
    for name in ("ctr", "offset", "size"):
        # The official towers are wider than the whole rest.
        for i, (a, b) in enumerate([(width, 8), (8, 8), (8, 8), (8, 8)], start=1):
            block = nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU())
            network.box_head.add_module(f"conv{i}_{name}", block)
        network.box_head.add_module(f"conv5_{name}", nn.Conv2d(8, 1 if name == "ctr" else 2, 1))
    for name, parameter in network.named_parameters():
        if name.startswith("backbone.pos"):
            nn.init.normal_(parameter, std=0.02)
    network.backbone.norm = nn.Sequential(network.backbone.norm, nn.Dropout(settings.pop("dropout", 0.0)))
    if settings:
        raise ValueError(f"unknown settings {settings}")
    return network


def register(folder: Path, **changes) -> None:
    """Make the variant known to this process; its YAML is written to a folder."""
    from ros2_tracker.models import build, variant

    module = types.ModuleType("narrow_family")
    module.from_variant = from_variant
    sys.modules["narrow_family"] = module
    build.FAMILIES["narrow"] = "narrow_family"
    (folder / "narrow.yaml").write_text(yaml.safe_dump(VARIANT | changes))
    variant.VARIANTS_DIR = folder


def run(folder, *arguments) -> None:
    """`ros2-tracker ARGUMENTS` with the variant, to the end of this process."""
    import torch

    from ros2_tracker.cli import main

    torch.set_num_threads(1)
    register(Path(folder))
    raise SystemExit(main(arguments))


if __name__ == "__main__":
    run(*sys.argv[1:])
