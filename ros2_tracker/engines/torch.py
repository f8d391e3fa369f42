"""Networks in torch, straight from safetensors."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ros2_tracker.engines.base import EngineError, Engines, NamedArrays, stacked, unstacked
from ros2_tracker.models.build import load_network
from ros2_tracker.models.graphs import Graph, example_inputs, graphs_of
from ros2_tracker.models.prepare import prepared
from ros2_tracker.models.variant import Variant

_MAX_THREADS = 4


class TorchEngine:
    """One graph of `models.graphs` on the CPU in fp32; takes any batch."""

    batch: int | None = None

    def __init__(self, graph: Graph, examples: Sequence[Tensor], description: str) -> None:
        """`examples` are one set of inputs: the graph is run on them, to learn the shapes."""
        self._graph = graph
        self._names = graph.inputs
        with torch.inference_mode():
            made = graph(*examples)
        self.inputs: Mapping[str, tuple[int | None, ...]] = _shapes(graph.inputs, examples)
        self.outputs: Mapping[str, tuple[int | None, ...]] = _shapes(graph.outputs, made)
        self.description = description

    def run(self, targets: Sequence[NamedArrays]) -> list[NamedArrays]:
        """Run the network once; see `Engine.run`."""
        inputs = stacked(targets)
        with torch.inference_mode():
            made = self._graph(*(torch.from_numpy(inputs[name]) for name in self._names))
        outputs = {name: value.numpy() for name, value in zip(self.outputs, made, strict=True)}
        return unstacked(outputs, len(targets))


def load_torch_engines(
    variant: Variant,
    weights: Path,
    threads: int = 0,
    device: str = "cpu",
    precision: str = "fp32",
    compiled: bool = False,
) -> Engines:
    """The graph that runs every frame, and the template's for families that keep template features.

    Args:
        variant: whose network it is.
        weights: safetensors file.
        threads: of torch, for the whole process; 0: as many as there are cores, at most 4.
        device: `cpu`, or `cuda:N`; engines on a GPU have passed a self-test against the CPU.
        precision: `fp32`, or on a GPU `fp16`.
        compiled: on a GPU, let torch.compile fuse operations; see `engines.torch_cuda`.

    Raises:
        ValueError: the file is not of this variant; the text names the entries.
        EngineError: the GPU cannot be used, or computes something else than the CPU.

    """
    network = load_network(variant, weights)
    torch.set_num_threads(threads or min(len(os.sched_getaffinity(0)), _MAX_THREADS))
    engines = torch_engines(network, variant, weights.name)
    if device == "cpu":
        return engines
    if not torch.cuda.is_available():
        raise EngineError(f"this build of torch ({torch.__version__}) cannot use a GPU here")
    from ros2_tracker.engines.self_test import require_passed, self_test
    from ros2_tracker.engines.torch_cuda import cuda_engines

    on_gpu = cuda_engines(network, variant, torch.device(device), precision, weights.name, compiled)
    require_passed(self_test(on_gpu, engines, precision))
    return on_gpu


def torch_engines(network: nn.Module, variant: Variant, name: str) -> Engines:
    """Engines of a network in evaluation, which is not changed; `name` is for the description."""
    per_frame, per_template = graphs_of(prepared(network))
    for_frame, for_template = example_inputs(variant, per_template)
    description = f"torch {torch.__version__}, CPU, {torch.get_num_threads()} threads, {name}"
    engine = TorchEngine(per_frame, for_frame, description)
    if per_template is None:
        return Engines(engine)
    return Engines(engine, TorchEngine(per_template, for_template, description))


def _shapes(names: Sequence[str], tensors: Sequence[Tensor]) -> dict[str, tuple[int | None, ...]]:
    return {name: (None, *tensor.shape[1:]) for name, tensor in zip(names, tensors, strict=True)}
