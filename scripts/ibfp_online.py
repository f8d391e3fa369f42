"""What IBFP's online branch is worth, and what it costs.

    python scripts/ibfp_online.py margin WEIGHTS.safetensors SEQUENCES [NAME ...] [--config TRAINING.yaml] [--frames N]
                                         [--set SETTING=VALUE ...] [--true-lessons]
    python scripts/ibfp_online.py cost

`margin` searches each frame around the true box of the frame before, so that every map is asked the same, and takes
the highest score inside the true box less the highest one more than a target's size away from it: of the offline map,
of the online one and of both mixed, with the branch as fitted to the first frame and as it goes on learning. Beside it
the same as a share of the higher of both scores, which does not depend on a map's scale (1 less the ratio of the peaks
where the target is ahead; 1 where nothing else answers), and the share of frames in which the target is ahead.
`--set` changes settings of the branch; with `--true-lessons` it learns from the true boxes, not from those it found.
`cost` times the branch with as many features as the published network has, beside that network, on one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
import yaml
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
from ros2_tracker.tracking.ibfp import Lesson
from ros2_tracker.tracking.ibfp_crop import first_views
from ros2_tracker.tracking.network import TrackingNetwork
from ros2_tracker.training.config import load_config

_APART = 1.0
"""A distractor's cell is at least so far from the true box, in widths and heights."""


_MAPS = ("offline", "fitted alone", "fitted, mixed", "learning alone", "learning, mixed")
_LEAST_SCORE = 1e-3


@dataclass(frozen=True)
class Peaks:
    """Highest scores of one sequence, (frames, maps): inside the true box, and far from it."""

    inside: NDArray[np.floating]
    outside: NDArray[np.floating]

    @property
    def summary(self) -> NDArray[np.floating]:
        """(3, maps): mean margin, mean margin as a share of the higher score, share of frames with the target ahead."""
        inside, outside = np.maximum(self.inside, 0.0), np.maximum(self.outside, 0.0)
        shares = (inside - outside) / np.maximum(np.maximum(inside, outside), _LEAST_SCORE)
        ahead = self.inside > self.outside
        return np.stack([(self.inside - self.outside).mean(0), shares.mean(0), ahead.mean(0)])


def text(summary: NDArray[np.floating]) -> str:
    """As cells of a table."""
    return " | ".join(f"{margin:+.2f}, {share:+.2f}, {ahead:.0%}" for margin, share, ahead in summary.T)


def network_of(weights: Path, config: Path | None, online: dict[str, object]) -> TrackingNetwork:
    """In torch; `config` is of the run that made the weights, `online` settings of the branch."""
    variant = load_variant("ibfp-r18")
    variant = replace(variant, online={**variant.online, **online})
    if config is not None:
        variant = replace(variant, network={**variant.network, **load_config(config).network})
    network = build_network(variant)
    network.load_state_dict(load_file(weights))
    return TrackingNetwork(variant, torch_engines(network, variant, weights.name))


def peaks_of(network: TrackingNetwork, folder: Path, frames: int, true_lessons: bool) -> Peaks:
    """Through one sequence."""
    source = ImageFolder(folder / "img", folder / "groundtruth_rect.txt")
    family = network.family
    weight = family.settings.weight
    boxes = [Box(*row) for row in source.ground_truth[: frames + 1]]
    first = frame_from_array(cv2.imread(str(source.files[0])))
    appearance = start = family.appearance(first, boxes[0])
    found = []
    for number, (last, box) in enumerate(pairwise(boxes), start=1):
        if not np.isfinite([*last.as_tuple(), *box.as_tuple()]).all():
            continue
        frame = frame_from_array(cv2.imread(str(source.files[number])))
        look = family.look(appearance, frame, last)
        (answer,) = network.infer([look])
        maps = [answer["linear_map"]]
        for each in (start, appearance):
            response = each.online.response(answer["features"])
            maps += [response, (1.0 - weight) * answer["linear_map"] + weight * response]
        found.append([peaks(each, look.region, box) for each in maps])
        proposal = family.proposal(look, answer)
        if true_lessons:
            side = look.region.side
            place = ((box.cx - look.region.x) / side, (box.cy - look.region.y) / side, box.w / side, box.h / side)
            hard = proposal.lesson is not None and proposal.lesson.hard
            proposal = replace(proposal, lesson=Lesson(np.asarray(answer["features"], np.float32), place, hard))
        appearance = family.renewed(appearance, frame, proposal, number)
    inside, outside = np.moveaxis(np.array(found), 2, 0)
    known = np.isfinite(inside[:, 0] - outside[:, 0])
    return Peaks(inside[known], outside[known])


def peaks(score_map: NDArray[np.floating], region: Region, box: Box) -> tuple[float, float]:
    """Highest scores in the box and far from it; NaN where there is no such cell."""
    cells = score_map.shape[0]
    places = (np.arange(cells) + 0.5) / cells * region.side
    x, y = np.abs(region.x + places - box.cx) / box.w, np.abs(region.y + places - box.cy) / box.h
    inside = (y[:, None] <= 0.5) & (x[None, :] <= 0.5)
    outside = (y[:, None] > 0.5 + _APART) | (x[None, :] > 0.5 + _APART)
    if not inside.any() or not outside.any():
        return float("nan"), float("nan")
    return float(score_map[inside].max()), float(score_map[outside].max())


def show_margins(arguments: argparse.Namespace) -> None:
    """A row a sequence."""
    online = dict(setting.split("=", 1) for setting in arguments.set)
    network = network_of(arguments.weights, arguments.config, {k: yaml.safe_load(v) for k, v in online.items()})
    names = arguments.names or sorted(p.name for p in arguments.sequences.iterdir() if (p / "img").is_dir())
    print(f"| sequence | {' | '.join(_MAPS)} |\n|{'---|' * (1 + len(_MAPS))}")
    summaries = []
    for name in names:
        found = peaks_of(network, arguments.sequences / name, arguments.frames, arguments.true_lessons)
        summaries.append(found.summary)
        print(f"| {name} | {text(summaries[-1])} |", flush=True)
    print(f"| mean of {len(names)} sequences | {text(np.mean(summaries, axis=0))} |")
    margin, share, _ = np.mean(np.array(summaries)[:, :, -1] > np.array(summaries)[:, :, 0], axis=0)
    print(f"learning and mixed: margin higher than offline in {margin:.0%} of the sequences, its share in {share:.0%}")


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
    one.add_argument("--set", nargs="*", default=[], metavar="SETTING=VALUE")
    one.add_argument("--true-lessons", action="store_true")
    one.set_defaults(run=show_margins)
    verbs.add_parser("cost").set_defaults(run=show_cost)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
