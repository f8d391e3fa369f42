"""Torch networks to ONNX: the graphs of `models.graphs`, every shape fixed but the batch, if that is to stay free.

OSTrack gives one file, the other families two: `<name>.onnx`, run every frame, and `<name>.template.onnx`. In fp16 the
template's features are float16 on their way from one to the other: half the bytes, and what the next operation would
round them to anyway.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir
import torch
from torch import Tensor, nn

import ros2_tracker
from ros2_tracker.engines.base import EngineError
from ros2_tracker.engines.fp16 import to_fp16
from ros2_tracker.engines.onnx_graph import simplify
from ros2_tracker.engines.origin import ANY_BATCH, BATCH_AXIS
from ros2_tracker.models.graphs import Graph, example_inputs, graphs_of
from ros2_tracker.models.learnt import LEARNT
from ros2_tracker.models.prepare import prepared
from ros2_tracker.models.variant import Variant, template_graph

OPSET = 18
EXPORT_PRECISIONS = ("fp32", "fp16")
# Targets to trace a free batch with.
_EXAMPLES = 2
_STAGE_FEATURES = tuple(f"{kind}{i}" for kind in ("key", "value") for i in range(4))
_HALF_FEATURES = ("tokens", "position", "deep", "middle", "size", *_STAGE_FEATURES)
_NOISY = ("torch.onnx", "torch.fx", "onnxscript", "onnx_ir")


def export_onnx(
    network: nn.Module,
    variant: Variant,
    output: str | Path,
    batch: int | None = None,
    precision: str = "fp32",
    weights_sha256: str | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> tuple[Path, ...]:
    """Write a network's graphs; nothing is left behind when that fails.

    The files say in their metadata: `variant`, `precision`, `batch`, `ros2_tracker` (our version), `weights_sha256`.

    Args:
        network: of `models.build.load_network`; it is not changed.
        variant: whose network it is.
        output: the ONNX file; a template graph is written beside it.
        batch: targets that one run of the every-frame graph handles, None for any number; the template graph takes
            one, as targets start one by one.
        precision: one of EXPORT_PRECISIONS; `fp16` as `engines.fp16` says.
        weights_sha256: of the file that the weights came from.
        progress: told each step, for people.

    Returns:
        The files, the one that runs every frame first.

    Raises:
        ValueError: the network's family has no export, the precision is unknown, or fp16 cannot hold a weight.
        EngineError: torch's exporter fails.

    """
    if precision not in EXPORT_PRECISIONS:
        raise ValueError(f"precision is {precision!r}, must be one of {', '.join(EXPORT_PRECISIONS)}")
    target = Path(output)
    per_frame, per_template = graphs_of(prepared(network))
    examples = example_inputs(variant, per_template, batch or _EXAMPLES)[0]
    jobs: list[tuple[Graph, tuple[Tensor, ...], Path, int | None]] = [(per_frame, examples, target, batch)]
    if per_template is not None:
        jobs.append((per_template, example_inputs(variant, per_template)[1], template_graph(target), 1))
    written: list[tuple[ir.Model, Path]] = []
    for graph, inputs, file, targets in jobs:
        progress(f"tracing {file.name}")
        model = traced(graph, inputs, any_batch=targets is None)
        if precision == "fp16":
            progress(f"converting {file.name} to fp16")
            to_fp16(model, features_of(graph), (LEARNT,))
        model.metadata_props.update(
            variant=variant.name,
            precision=precision,
            batch=ANY_BATCH if targets is None else str(targets),
            ros2_tracker=ros2_tracker.__version__,
        )
        if weights_sha256:
            model.metadata_props["weights_sha256"] = weights_sha256
        for node in model.graph.all_nodes():
            # Stack traces of the exporter, with the folders of this machine.
            node.metadata_props.clear()
        written.append((model, file))
    progress(f"writing {target.name}")
    _write(written)
    return tuple(file for _, file in written)


def traced(graph: Graph, inputs: tuple[Tensor, ...], any_batch: bool = False) -> ir.Model:
    """A graph in ONNX, fp32; EngineError when torch's exporter fails.

    With `any_batch` its first axis is free: the inputs must then be of several targets, as torch takes 1 for fixed.
    """
    axis = torch.export.Dim(BATCH_AXIS)
    with _quiet():
        try:
            program = torch.onnx.export(
                graph.requires_grad_(False),
                inputs,
                dynamo=True,
                opset_version=OPSET,
                input_names=graph.inputs,
                output_names=graph.outputs,
                dynamic_shapes=tuple({0: axis} for _ in inputs) if any_batch else None,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise EngineError(f"torch {torch.__version__} cannot export {type(graph).__name__}: {error}") from error
        model: ir.Model = program.model
        simplify(model)
    return model


def features_of(graph: Graph) -> tuple[str, ...]:
    """A graph's outputs that are kept for another graph, not read by us: they may be fp16."""
    return tuple(name for name in graph.outputs if name in _HALF_FEATURES)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on torchvision, deprecations and what it did not fold; errors pass."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        # One axis of several inputs: the exporter keeps the name all the same.
        warnings.filterwarnings("ignore", "# The axis name: ")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _write(models: list[tuple[ir.Model, Path]]) -> None:
    """All or nothing."""
    unfinished = [file.with_name(f".{file.name}.{os.getpid()}") for _, file in models]
    models[0][1].parent.mkdir(parents=True, exist_ok=True)
    try:
        for (model, _), temporary in zip(models, unfinished, strict=True):
            ir.save(model, temporary)
        for (_, file), temporary in zip(models, unfinished, strict=True):
            temporary.replace(file)
    finally:
        for temporary in unfinished:
            temporary.unlink(missing_ok=True)
