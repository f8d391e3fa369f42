"""Is an exported graph the network? Both are asked about the same crops.

ONNX Runtime computes fp16 graphs on a CPU in fp32 with weights of fp16: that shows a wrong graph and what rounding the
weights costs. Values beyond fp16's range are looked for in torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from ros2_tracker.engines.origin import batch_of
from ros2_tracker.evaluation.synthetic import SyntheticClip
from ros2_tracker.models.graphs import Graph, MultiStageSearchGraph, OSTrackGraph, graphs_of
from ros2_tracker.models.ibfp import Ibfp
from ros2_tracker.models.inmo_graphs import InMoSearchGraph
from ros2_tracker.models.layers import normalized
from ros2_tracker.models.learnt import LEARNT
from ros2_tracker.models.ostrack import Attention, OSTrack, decode_centers
from ros2_tracker.models.prepare import prepared
from ros2_tracker.models.variant import Variant
from ros2_tracker.tracking.frame import Frame, frame_from_array
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.sample_target import SampleRegion, padding_mask, sample_crop

TOLERANCES: Mapping[str, float] = {"fp32": 1e-4, "fp16": 2e-3}
"""Largest error of a box by precision, in search sides."""
CANDIDATE_GAPS: Mapping[str, float] = {"fp32": 1e-4, "fp16": 1e-2}
"""Largest `Agreement.candidate_gap` by precision. Measured with random weights: 0 and 4e-4."""
FEATURE_TOLERANCES: Mapping[str, float] = {"fp32": 1e-4, "fp16": 1e-2}
"""Largest error of a number of a cell's unit vector by precision."""
FP16_LARGEST = 65504.0
_RENDERED = 6
# Of a corner's map, in search sides: two cells of 20.
_SPREAD = 0.1
# Crops whose values are watched: one more hardly shows larger ones, and watching takes longer than running.
_WATCHED = 2

Arrays = Mapping[str, NDArray]


class Question(NamedTuple):
    """What a tracker asks of a network."""

    first: Frame
    target: Box
    """In `first`, px."""
    frame: Frame
    last: Box
    """Around which `frame` is searched, px."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a comparison came to: largest errors against torch in fp32."""

    precision: str
    crops: int
    other_candidates: int
    """Crops in which the graph eliminated other candidates than torch. Torch is then asked again without those that
    the graph dropped: their own cells are 0, which is no error of the rest."""
    candidate_gap: float
    """By how much of the mean score a candidate that the graph dropped is better, in torch, than one that it kept."""
    other_cell: int
    """Crops in which another cell was chosen than in torch. The box is then held against torch's box in that cell,
    which must be as good as torch's best up to the error of the score map."""
    other_chosen: int
    """Crops in which the graph names another cell than the one that its own score map has as the best."""
    box: float
    """In search sides."""
    steady_box: float
    """The same, less where torch wavers: STARK's corner is the mean of a map, and an error of the map's logits moves it
    by that times the map's spread. Divided by the spread over _SPREAD where that is above 1, as with random weights."""
    score: float
    score_map: float
    largest_value: float | None
    """Of what convolutions and matrix products take and give in torch; only for fp16."""
    features: float | None = None
    """Of the cells' unit vectors that a target's surroundings are learnt from, for networks that hand them out."""

    @property
    def tolerance(self) -> float:
        """Of the box."""
        return TOLERANCES[self.precision]

    @property
    def problem(self) -> str:
        """What is wrong, for people; empty when nothing is."""
        if not self.candidate_gap <= CANDIDATE_GAPS[self.precision]:
            return f"it drops candidates that are {self.candidate_gap:.0%} better than some that it keeps"
        if self.other_chosen:
            return f"the cell that it names is not that of its best score, in {self.other_chosen} crops"
        if not self.steady_box <= self.tolerance:  # NaN is a problem, too
            return f"a box is {self.box:.1e} search sides off torch's, allowed are {self.tolerance:.0e}"
        if self.features is not None and not self.features <= FEATURE_TOLERANCES[self.precision]:
            return f"the features of a cell are {self.features:.1e} off torch's"
        if self.largest_value is not None and not self.largest_value <= FP16_LARGEST:
            return f"it has values up to {self.largest_value:.3g}, and fp16 ends at {FP16_LARGEST:g}"
        return ""

    def as_text(self) -> str:
        """For people, one line."""
        features = "" if self.features is None else f", features {self.features:.1e}"
        largest = "" if self.largest_value is None else f", largest value {self.largest_value:.0f}"
        return (
            f"{self.crops} crops compared with torch: box within {self.box:.1e}, score {self.score:.1e}, score map "
            f"{self.score_map:.1e}{features}{largest}"
        )


def rendered_questions(count: int = _RENDERED) -> list[Question]:
    """Questions about the rendered clip, every other one at a border, where crops reach beyond the image."""
    clip = SyntheticClip(count)
    first = clip.render(0)
    questions = []
    for i, found in enumerate(clip.frames()):
        box = found.box
        last = box if i % 2 == 0 else Box(-0.3 * box.w, 60.0 * i, box.w, box.h)
        questions.append(Question(frame_from_array(first.image), first.box, frame_from_array(found.image), last))
    return questions


def check_export(
    network: nn.Module, variant: Variant, files: Sequence[Path], questions: Sequence[Question], threads: int = 0
) -> Agreement:
    """Compare exported graphs with the network.

    Args:
        network: in evaluation, on the CPU; it is not changed.
        variant: whose network it is.
        files: as `export_onnx` returned them.
        questions: at least one; the last is repeated to fill the graph's batch. A graph of any batch is asked the
            first alone, and all others in one run.
        threads: of ONNX Runtime; 0 lets it choose.

    """
    exported = [_OnnxGraph(file, threads) for file in files]
    graphs = [graph for graph in graphs_of(network) if graph is not None]
    crops = [_crops(variant, question) for question in questions]
    batch, precision = batch_of(exported[0].metadata), exported[0].metadata["precision"]
    starts = range(0, len(crops), batch) if batch else [0, 1][: len(crops)]
    errors: list[_Errors] = []
    for start, end in pairwise([*starts, len(crops)]):
        group = crops[start:end]
        actual = _answers(variant, exported, group + group[-1:] * ((batch or 0) - len(group)))
        for i, crop in enumerate(group):
            one = {name: value[i] for name, value in actual.items()}
            if isinstance(graphs[0], OSTrackGraph | MultiStageSearchGraph):
                off = _center_errors(graphs[0], crop, one, [one[name] for name in exported[0].orders])
                if LEARNT in graphs[0].inputs:
                    answer = _answers(variant, [_TorchGraph(graph) for graph in graphs], [crop])
                    off = off._replace(features=float(np.abs(one["features"] - answer["features"][0]).max()))
                errors.append(off)
            elif isinstance(graphs[0], InMoSearchGraph):
                answer = _answers(variant, [_TorchGraph(graph) for graph in graphs], [crop])
                errors.append(_map_errors(graphs[0], answer, one))
            else:
                answer = _answers(variant, [_TorchGraph(graph) for graph in graphs], [crop])
                expected = {name: value[0] for name, value in answer.items()}
                errors.append(_errors(one, expected, _spread(expected["score_map"])))
    names = ("candidate_gap", "box", "steady_box", "score", "score_map")
    features = [each.features for each in errors if each.features is not None]
    return Agreement(
        precision=precision,
        crops=len(errors),
        other_candidates=sum(e.candidate_gap > 0.0 for e in errors),
        other_cell=sum(e.other_cell for e in errors),
        other_chosen=sum(e.other_chosen for e in errors),
        features=float(np.max(features)) if features else None,
        largest_value=_largest_value(network, variant, crops[:_WATCHED]) if precision == "fp16" else None,
        **{name: float(np.max([getattr(e, name) for e in errors])) for name in names},  # NaN is the largest
    )


class _Runs(Protocol):
    def run(self, given: Arrays) -> Arrays:
        """Outputs by name, with a batch axis; of what is given it takes what it knows."""
        ...


class _TorchGraph:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    @torch.inference_mode()
    def run(self, given: Arrays) -> Arrays:
        outputs = self._graph(*(torch.from_numpy(given[name]) for name in self._graph.inputs))
        return {name: value.numpy() for name, value in zip(self._graph.outputs, outputs, strict=True)}


class _OnnxGraph:
    """An exported file in ONNX Runtime, with the orders by which it eliminates candidates as further outputs."""

    def __init__(self, file: Path, threads: int) -> None:
        model = onnx.load(file)
        self.metadata = {entry.key: entry.value for entry in model.metadata_props}
        self.orders = [node.output[1] for node in model.graph.node if node.op_type == "TopK"]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self.orders)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._names = [node.name for node in self._session.get_outputs()]

    def run(self, given: Arrays) -> Arrays:
        inputs = {node.name: given[node.name] for node in self._session.get_inputs()}
        return dict(zip(self._names, self._session.run(self._names, inputs), strict=True))


def _crops(variant: Variant, question: Question) -> dict[str, NDArray]:
    """Both crops and their masks."""
    made = {}
    for name, settings, frame, box in (
        ("template", variant.template, question.first, question.target),
        ("search", variant.search, question.frame, question.last),
    ):
        region = SampleRegion.around(box, settings.factor, settings.size)
        made[name] = sample_crop(frame, region)
        made[f"{name}_padded"] = padding_mask(region, frame.width, frame.height)
    target, template = question.target, variant.template
    scale = template.size / (template.factor * target.size)
    made["template_target"] = np.array([round(target.w * scale), round(target.h * scale)], np.int32)
    return made


def _answers(variant: Variant, graphs: Sequence[_Runs], crops: Sequence[Arrays]) -> Arrays:
    """A batch of crops through one graph, or through a template graph, which takes one at a time, and then another."""
    inputs = {name: np.stack([crop[name] for crop in crops]) for name in crops[0]}
    for template_graph in graphs[1:]:
        made = [template_graph.run({name: value[None] for name, value in crop.items()}) for crop in crops]
        for name in made[0]:
            features = np.concatenate([each[name] for each in made])
            inputs[f"template_{name}"] = np.concatenate([features] * variant.templates, axis=1)
    if "template_tokens" in inputs:
        # Nothing yet: what a classifier answers is the self-test's matter.
        tokens = inputs["template_tokens"]
        inputs[LEARNT] = np.zeros((len(tokens), tokens.shape[-1] + 2), np.float32)
    return graphs[0].run(inputs)


class _Errors(NamedTuple):
    """Of one crop."""

    box: float
    score: float
    score_map: float
    steady_box: float
    candidate_gap: float = 0.0
    other_cell: bool = False
    other_chosen: bool = False
    features: float | None = None


def _errors(actual: Arrays, expected: Arrays, spread: float = 0.0) -> _Errors:
    box, score, score_map = (float(np.abs(actual[n] - expected[n]).max()) for n in ("box", "score", "score_map"))
    return _Errors(box, score, score_map, box / max(1.0, spread / _SPREAD))


def _map_errors(graph: InMoSearchGraph, answer: Arrays, actual: Arrays) -> _Errors:
    """Errors of a graph that hands out the box of every cell, in the cell that the exported one chose."""
    expected = {name: value[0] for name, value in answer.items()}
    window = graph.window.numpy()
    cell = np.unravel_index(int(np.argmax(actual["score_map"] * window)), window.shape)
    windowed = expected["score_map"] * window
    behind = float(windowed.max() - windowed[cell])
    there = "box_map" if "box_map" in expected else "ltrb"
    off = float(np.abs(actual[there] - expected[there])[(slice(None), *cell)].max())
    score_map = float(np.abs(actual["score_map"] - expected["score_map"]).max())
    score = float(abs(actual["score"] - expected["score_map"][cell]))
    # As in `_center_errors`.
    box = off if behind <= 2.0 * score_map else math.inf
    return _Errors(box, score, score_map, box, other_cell=behind > 0.0)


def _spread(corners: NDArray[np.float32]) -> float:
    """Largest standard deviation of (2, F, F) probabilities along an axis, in sides of the map."""
    places = np.arange(corners.shape[-1]) / corners.shape[-1]
    along = np.concatenate([corners.sum(1), corners.sum(2)])
    means = along @ places
    return float(np.sqrt(np.maximum(along @ places**2 - means**2, 0.0)).max())


@torch.inference_mode()
def _center_errors(
    graph: OSTrackGraph | MultiStageSearchGraph, crop: Arrays, actual: Arrays, orders: Sequence[NDArray]
) -> _Errors:
    """Errors of a centre head, without the candidates that the exported graph dropped and in the cell that it chose."""
    network = graph.network
    z, x = (normalized(torch.from_numpy(crop[name])[None]) for name in ("template", "search"))
    size = (torch.from_numpy(crop["template_target"])[None] / z.shape[-1],) if isinstance(network, Ibfp) else ()
    with _eliminating_by(network, orders) as gaps:
        maps = network(network.template(z, *size), x)
    score_map = maps.score[0, 0]
    cell = int(np.argmax(actual["score_map"] * graph.window.numpy()))
    there = torch.zeros(score_map.numel())
    there[cell] = 1.0
    box, score = decode_centers(maps, there.view_as(score_map))
    errors = _errors(actual, {"box": box[0].numpy(), "score": score[0].numpy(), "score_map": score_map.numpy()})
    windowed = (score_map * graph.window).flatten()
    behind = float(windowed.max() - windowed[cell])
    # As good as the best, if its score may be wrong by as much as the score map is.
    off = errors.box if behind <= 2.0 * errors.score_map else math.inf
    return errors._replace(
        box=off,
        steady_box=off,
        candidate_gap=max(gaps, default=0.0),
        other_cell=behind > 0.0,
        other_chosen="cell" in actual and tuple(actual["cell"]) != divmod(cell, score_map.shape[1]),
    )


@contextmanager
def _eliminating_by(network: nn.Module, orders: Sequence[NDArray]) -> Iterator[list[float]]:
    """Let a network eliminate by given orders, one for each block that does; collects `Agreement.candidate_gap`."""
    gaps: list[float] = []
    settings = network.elimination if isinstance(network, OSTrack) and orders else None
    blocks = [network.backbone.blocks[i].attn for i in settings.blocks] if settings else []

    def replacement(attention: Attention, order: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        weights = attention.weights

        def ranked(q: Tensor, k: Tensor) -> Tensor:
            """In place of attention weights, (1, 1, 1, Nk): the higher, the earlier in the order."""
            scores = weights(q, k)[0, :, :, -len(order) :].mean((0, 1))
            kept, dropped = scores[order].tensor_split([math.ceil(settings.keep_ratio * len(order))])
            gaps.append(max(0.0, float((dropped.max() - kept.min()) / scores.mean())))
            places = torch.zeros(k.shape[2])
            places[k.shape[2] - len(order) + order] = torch.arange(len(order), 0.0, -1.0)
            return places.view(1, 1, 1, -1)

        return ranked

    try:
        for attention, order in zip(blocks, orders, strict=True):
            attention.weights = replacement(attention, torch.from_numpy(order))
        yield gaps
    finally:
        for attention in blocks:
            attention.__dict__.pop("weights", None)


def _largest_value(network: nn.Module, variant: Variant, crops: Sequence[Arrays]) -> float:
    """Largest input or output of a convolution or matrix product of the network as it is exported."""
    largest = [0.0]

    def watch(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d | nn.Linear):
            for value in (inputs[0], output):
                low, high = value.aminmax()
                largest.extend((-float(low), float(high)))

    graphs = [_TorchGraph(graph) for graph in graphs_of(prepared(network)) if graph is not None]
    hook = register_module_forward_hook(watch)
    try:
        for crop in crops:
            _answers(variant, graphs, [crop])
    finally:
        hook.remove()
    return float(np.max(largest))  # NaN is the largest
