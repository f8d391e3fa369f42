#!/usr/bin/env python3
"""Time ostrack-b256's whole update beside the official code's `track()`, frame by frame in turns, and print JSON.

FOLDER is a clone of the authors' repository (botaoye/OSTrack), which is not part of this one. Its imports of timm,
easydict, torchvision and visdom are replaced by the few lines of them that inference on a CPU needs. Both sides have
the same random weights, start every frame from the same box and must end on the same box.

Example: python scripts/against_official.py ~/src/OSTrack --frames 20
(needs `pip install 'ros2-tracker[export]'` and pyyaml)
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.abc
import importlib.machinery
import io
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from ros2_tracker.engines.base import Engines
from ros2_tracker.engines.export import export_onnx
from ros2_tracker.engines.onnxruntime import load_onnx_engines
from ros2_tracker.engines.torch import torch_engines
from ros2_tracker.evaluation.synthetic import SyntheticClip
from ros2_tracker.models.build import build_network
from ros2_tracker.models.variant import load_variant
from ros2_tracker.tracking.network import TrackingNetwork
from ros2_tracker.tracking.tracker import Tracker

_MODEL = "ostrack-b256"
_CONFIG = "vitb_256_mae_ce_32x4_ep300"
_WARM_UP = 2
_MISSING = ("timm", "easydict", "torchvision", "visdom", "jpeg4py", "lmdb", "pycocotools", "pandas", "tensorboardX")


class _Dict(dict):
    """easydict's: entries are attributes, at all depths."""

    __getattr__ = dict.__getitem__

    def __init__(self, entries: dict[str, Any] | None = None) -> None:
        for name, value in (entries or {}).items():
            self[name] = _Dict(value) if isinstance(value, dict) else value

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = _Dict(value) if isinstance(value, dict) else value


class _Mlp(nn.Module):
    """timm's, with its names."""

    def __init__(self, in_features: int, hidden_features: int, act_layer: Callable[[], nn.Module], drop: float) -> None:
        super().__init__()
        self.fc1, self.act = nn.Linear(in_features, hidden_features), act_layer()
        self.fc2, self.drop = nn.Linear(hidden_features, in_features), nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


_KNOWN: dict[str, Any] = {
    "EasyDict": _Dict,
    "Mlp": _Mlp,
    "DropPath": lambda _: nn.Identity(),
    "to_2tuple": lambda x: tuple(x) if isinstance(x, Sequence) else (x, x),
    "trunc_normal_": nn.init.trunc_normal_,
    "register_model": lambda function: function,
    "__version__": "1.0",
    "IMAGENET_DEFAULT_MEAN": (0.485, 0.456, 0.406),
    "IMAGENET_DEFAULT_STD": (0.229, 0.224, 0.225),
    "IMAGENET_INCEPTION_MEAN": (0.5, 0.5, 0.5),
    "IMAGENET_INCEPTION_STD": (0.5, 0.5, 0.5),
}


class _Stub(ModuleType):
    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in _KNOWN:
            raise AttributeError(name)
        return _KNOWN.get(name, _unused)


def _unused(*_: object, **__: object) -> None:
    """Of those packages, but not called when a CPU tracks."""


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds what is not installed."""

    def find_spec(self, name: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        known = name == "torch._six" or name.split(".")[0] in _MISSING
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if known else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Stub(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


@torch.no_grad()
def randomize(network: nn.Module) -> None:
    """Weights whose activations stay in range and whose score map has a clear maximum, as those of training do."""
    for parameter in network.parameters():
        values = torch.randn_like(parameter)
        if parameter.dim() in (2, 4):
            parameter.copy_(values * (1.6 / parameter[0].numel()) ** 0.5)
        elif parameter.dim() == 3:  # positions
            parameter.copy_(0.5 * values)
        else:
            parameter.add_(0.1 * values)


def official_tracker(folder: Path, weights: dict[str, Tensor]) -> Any:
    """Their tracker on the CPU with our weights."""
    sys.meta_path.insert(0, _Finder())
    sys.path.insert(0, str(folder))
    for kind in (Tensor, nn.Module):
        kind.cuda = lambda self, *_, **__: self  # type: ignore[method-assign,assignment]
    with contextlib.redirect_stdout(io.StringIO()):
        from lib.config.ostrack.config import cfg, update_config_from_file
        from lib.models.ostrack import build_ostrack
        from lib.test.tracker.ostrack import OSTrack

        update_config_from_file(str(folder / f"experiments/ostrack/{_CONFIG}.yaml"))
        state = build_ostrack(cfg, training=False).state_dict()
    strange = set(weights) ^ set(state)
    if not strange <= {"backbone.cls_token", "backbone.pos_embed"}:
        sys.exit(f"the official network has other entries: {sorted(strange)[:5]}")
    with tempfile.TemporaryDirectory() as temporary:
        checkpoint = Path(temporary) / "random.pth"
        torch.save({"net": state | weights}, checkpoint)
        parameters = SimpleNamespace(
            cfg=cfg, checkpoint=str(checkpoint), debug=0, save_all_boxes=False,
            template_factor=cfg.TEST.TEMPLATE_FACTOR, template_size=cfg.TEST.TEMPLATE_SIZE,
            search_factor=cfg.TEST.SEARCH_FACTOR, search_size=cfg.TEST.SEARCH_SIZE,
        )  # fmt: skip
        with contextlib.redirect_stdout(io.StringIO()):
            return OSTrack(parameters, "none")


def our_trackers(network: nn.Module, threads: int) -> dict[str, Tracker]:
    """Ours by engine, all with the official's one setting that differs: none."""
    variant = load_variant(_MODEL)
    made: dict[str, Engines] = {"torch": torch_engines(network, variant, "random weights")}
    with tempfile.TemporaryDirectory() as temporary:
        file, *_ = export_onnx(network, variant, Path(temporary) / f"{_MODEL}.onnx")
        made["onnxruntime"] = load_onnx_engines(variant, file, threads)
    return {name: Tracker(TrackingNetwork(variant, engines)) for name, engines in made.items()}


def measure(official: Any, ours: dict[str, Tracker], frames: int, size: tuple[int, int]) -> dict[str, Any]:
    """Times in ms and their ratios, frame by frame; the largest difference of a box in px."""
    width, height = size
    clip = SyntheticClip(width=width, height=height)
    times: dict[str, list[float]] = {name: [] for name in ("official", *ours)}
    differences = dict.fromkeys(ours, 0.0)
    first = clip.render(0)
    last = list(first.box.as_tuple())
    official.initialize(cv2.cvtColor(first.image, cv2.COLOR_BGR2RGB), {"init_bbox": last})
    for tracker in ours.values():
        tracker.init(first.image, last)
    order = itertools.cycle(itertools.permutations(times))
    for index in range(1, frames + _WARM_UP + 1):
        image = clip.render(index).image
        rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        boxes: dict[str, Sequence[float]] = {}
        for name in next(order):
            if name == "official":
                official.state = list(last)
                start = time.perf_counter()
                boxes[name] = official.track(rgb)["target_bbox"]
            else:
                start = time.perf_counter()
                boxes[name] = ours[name].update(image).candidate
            times[name].append(1e3 * (time.perf_counter() - start))
        for name in ours:
            difference = float(np.abs(np.subtract(boxes[name], boxes["official"])).max())
            differences[name] = max(differences[name], difference)
        last = list(boxes["torch"])
    timed = {name: each[_WARM_UP:] for name, each in times.items()}
    return {
        "official_ms": round(statistics.median(timed["official"]), 1),
        "frames": frames,
        "ours": {
            name: {
                "ms": round(statistics.median(timed[name]), 1),
                "median_of_ratios": _ratio(timed[name], timed["official"]),
                "ratio_of_medians": round(statistics.median(timed[name]) / statistics.median(timed["official"]), 3),
                "largest_box_difference_px": float(f"{differences[name]:.2g}"),
            }
            for name in ours
        },
    }


def _ratio(times: Sequence[float], of: Sequence[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(times, of, strict=True)), 3)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="clone of the official repository")
    parser.add_argument("--frames", type=int, default=20, help="that are timed (default: 20)")
    parser.add_argument("--size", default="1280x720", help="of the frames (default: 1280x720)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    network = build_network(load_variant(_MODEL)).requires_grad_(False)
    randomize(network)
    width, height = (int(side) for side in arguments.size.split("x"))
    official = official_tracker(arguments.folder, dict(network.state_dict()))
    ours = our_trackers(network, arguments.threads)
    torch.set_num_threads(arguments.threads)
    print(json.dumps(measure(official, ours, arguments.frames, (width, height)), indent=1))


if __name__ == "__main__":
    main()
