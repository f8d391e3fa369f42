"""What IBFP's online branch is worth, and what it costs.

    python scripts/ibfp_online.py margin WEIGHTS.safetensors SEQUENCES [NAME ...] [--config TRAINING.yaml] [--frames N]
    python scripts/ibfp_online.py cost

`margin` searches each frame around the true box of the frame before, so that every map is asked the same, and takes
the highest score inside the true box less the highest one more than a target's size away from it: the offline map's,
that of the mixed map with the branch as fitted to the first frame, and that with the branch as it goes on learning.
`cost` times the branch with as many features as the published network has, beside that network, on one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from ros2_tracker.engines.torch import torch_engines
from ros2_tracker.evaluation.sequences import ImageFolder
from ros2_tracker.models.build import build_network
from ros2_tracker.models.graphs import graphs_of
from ros2_tracker.models.ibfp_settings import OnlineSettings, load_online_branch
from ros2_tracker.models.prepare import prepared
from ros2_tracker.models.variant import Variant, load_variant
from ros2_tracker.tracking.crop import Region
from ros2_tracker.tracking.frame import frame_from_array
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.ibfp_crop import first_views
from ros2_tracker.tracking.network import TrackingNetwork
from ros2_tracker.training.config import load_config

_APART = 1.0
"""A distractor's cell is at least so far from the true box, in widths and heights."""


@dataclass
class Margins:
    """Of one sequence, a value a frame."""

    offline: list[float] = field(default_factory=list)
    fitted: list[float] = field(default_factory=list)
    learning: list[float] = field(default_factory=list)

    def text(self) -> str:
        """Mean margins, and shares of frames in which the target is ahead."""
        parts = (np.array(part) for part in (self.offline, self.fitted, self.learning))
        return " | ".join(f"{part.mean():+.2f}, {(part > 0).mean():4.0%}" for part in parts)


def network_of(weights: Path, config: Path | None) -> TrackingNetwork:
    """In torch; `config` is of the run that made the weights."""
    variant = load_variant("ibfp-r18")
    if config is not None:
        variant = replace(variant, network={**variant.network, **load_config(config).network})
    network = build_network(variant)
    network.load_state_dict(load_file(weights))
    return TrackingNetwork(variant, torch_engines(network, variant, weights.name))


def margins(network: TrackingNetwork, folder: Path, frames: int) -> Margins:
    """Through one sequence."""
    source = ImageFolder(folder / "img", folder / "groundtruth_rect.txt")
    found, family = Margins(), network.family
    weight = family.settings.weight
    boxes = [Box(*row) for row in source.ground_truth[: frames + 1]]
    first = frame_from_array(cv2.imread(str(source.files[0])))
    appearance = start = family.appearance(first, boxes[0])
    for number, (last, box) in enumerate(pairwise(boxes), start=1):
        if not np.isfinite([*last.as_tuple(), *box.as_tuple()]).all():
            continue
        frame = frame_from_array(cv2.imread(str(source.files[number])))
        look = family.look(appearance, frame, last)
        (answer,) = network.infer([look])
        offline = answer["linear_map"]
        maps = [(1.0 - weight) * offline + weight * a.online.response(answer["features"]) for a in (start, appearance)]
        values = [margin(each, look.region, box) for each in (offline, *maps)]
        appearance = family.renewed(appearance, frame, family.proposal(look, answer), number)
        if np.isfinite(values).all():
            for kept, value in zip((found.offline, found.fitted, found.learning), values, strict=True):
                kept.append(value)
    return found


def margin(score_map: NDArray[np.floating], region: Region, box: Box) -> float:
    """Highest score in the box less the highest far from it; NaN where the box has no cell."""
    cells = score_map.shape[0]
    places = (np.arange(cells) + 0.5) / cells * region.side
    x, y = np.abs(region.x + places - box.cx) / box.w, np.abs(region.y + places - box.cy) / box.h
    inside = (y[:, None] <= 0.5) & (x[None, :] <= 0.5)
    outside = (y[:, None] > 0.5 + _APART) | (x[None, :] > 0.5 + _APART)
    if not inside.any() or not outside.any():
        return float("nan")
    return float(score_map[inside].max() - score_map[outside].max())


def show_margins(arguments: argparse.Namespace) -> None:
    """A row a sequence."""
    network = network_of(arguments.weights, arguments.config)
    names = arguments.names or sorted(p.name for p in arguments.sequences.iterdir() if (p / "img").is_dir())
    total = Margins()
    print("| sequence | offline: margin, ahead | fitted to the first frame | learning |\n|---|---|---|---|")
    for name in names:
        found = margins(network, arguments.sequences / name, arguments.frames)
        for all_of, own in zip(vars(total).values(), vars(found).values(), strict=True):
            all_of.append(float(np.mean(own)))
        print(f"| {name} | {found.text()} |", flush=True)
    wins = np.mean(np.array(total.learning) > np.array(total.offline))
    print(f"| mean of {len(names)} sequences | {' | '.join(f'{np.mean(v):+.2f}' for v in vars(total).values())} |")
    print(f"margin higher than the offline map's in {wins:.0%} of the sequences")


def show_cost(arguments: argparse.Namespace) -> None:
    """Medians; of a frame with its share of updates."""
    del arguments
    variant = load_variant("ibfp-r18")
    rng = np.random.default_rng(0)
    count = len(first_views())
    features = np.maximum(rng.normal(size=(count, 256, 18, 18)), 0.0).astype(np.float32)
    places = np.tile(np.array([0.5, 0.5, 0.2, 0.2], np.float32), (count, 1))
    frame_s = median_of(network_runs(variant), 5)
    print(f"network {1e3 * frame_s:.0f} ms a frame")
    for kind, repeats in (("filter", 5), ("layers", 1)):
        settings = OnlineSettings(kind=kind)
        branch = load_online_branch(variant, settings)
        started = time.perf_counter()
        model = branch.fitted(features, places)
        fit_s = time.perf_counter() - started
        response_s = median_of(lambda m=model: m.response(features[0]), repeats)
        remember_s = median_of(lambda m=model: m.remembered(features[0], places[0], 0.01), repeats)
        few_s = median_of(model.updated, repeats)
        while len(model.memory.features) < settings.memory:
            model = model.remembered(features[0], places[0], 0.01)
        many_s = median_of(model.updated, repeats)
        per_frame = [response_s + remember_s + s / settings.interval for s in (few_s, many_s)]
        print(
            f"{kind}: fit {fit_s:.2f} s and {count} template runs; response {1e3 * response_s:.2f} ms, remembering "
            f"{1e3 * remember_s:.2f} ms, update {1e3 * few_s:.0f} ms, with a full memory {1e3 * many_s:.0f} ms: "
            f"{1e3 * per_frame[0]:.1f} to {1e3 * per_frame[1]:.1f} ms a frame, {per_frame[0] / frame_s:.2f} to "
            f"{per_frame[1] / frame_s:.2f} of the network's"
        )


def network_runs(variant: Variant) -> Callable[[], object]:
    """One frame of the published network in torch, with random weights."""
    torch.manual_seed(0)
    per_frame, per_template = graphs_of(prepared(build_network(variant).requires_grad_(False)))
    crop = torch.zeros(1, variant.search.size, variant.search.size, 3, dtype=torch.uint8)
    with torch.inference_mode():
        kept = per_template(crop)

    def run() -> object:
        with torch.inference_mode():
            return per_frame(*kept, crop)

    return run


def median_of(run: Callable[[], object], repeats: int) -> float:
    """Seconds, after one run that is not counted unless it is the only one."""

    def taken() -> Iterator[float]:
        for _ in range(repeats + (repeats > 1)):
            started = time.perf_counter()
            run()
            yield time.perf_counter() - started

    return float(np.median(list(taken())[-repeats:]))


def main() -> None:
    """Run."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    one = verbs.add_parser("margin")
    one.add_argument("weights", type=Path)
    one.add_argument("sequences", type=Path)
    one.add_argument("names", nargs="*")
    one.add_argument("--config", type=Path)
    one.add_argument("--frames", type=int, default=100)
    one.set_defaults(run=show_margins)
    verbs.add_parser("cost").set_defaults(run=show_cost)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
