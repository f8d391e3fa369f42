"""Networks in torch on an NVIDIA GPU: one CUDA graph a batch size, one synchronisation a run.

A frame is some two hundred small kernels, and launching them one by one takes ten times as long as running them. A
captured graph is launched at once. It reads from and writes to fixed buffers, so each run is: copy what is new into
pinned memory, upload it, launch, wait. Search crops are cut in the graph, from their source pixels (`torch_crop`). With
`compiled`, torch.compile makes fewer, larger kernels of it all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ros2_tracker.engines.base import EngineError, Engines, NamedArrays
from ros2_tracker.engines.patch import Patch
from ros2_tracker.engines.torch_crop import CutGraph, pack, row_bytes
from ros2_tracker.models.graphs import Graph, example_inputs, graphs_of
from ros2_tracker.models.prepare import halve_products, prepared
from ros2_tracker.models.variant import Variant

# Before a capture, so that cuBLAS and cuDNN have chosen their kernels and allocated their work space.
_WARM_UP_RUNS = 3


class CudaEngine:
    """One graph of `models.graphs`; takes any batch, and captures each size when it first comes."""

    batch: int | None = None

    def __init__(
        self,
        graph: Graph,
        examples: Sequence[Tensor],
        device: torch.device,
        half: bool,
        description: str,
        compiled: bool = False,
        cuts: bool = False,
    ) -> None:
        """`graph` lies on `device`; `examples` are one set of its inputs; `half`: after `halve_products`.

        `cuts`: search crops are cut there, so that `search` may be a `patch.Patch`.
        """
        examples = dict(zip(graph.inputs, examples, strict=True))
        self.inputs: Mapping[str, tuple[int | None, ...]] = _shapes(examples)
        self._crop_size = examples["search"].shape[1] if cuts else None
        if self._crop_size is not None:
            graph = CutGraph(graph, self._crop_size)
            examples["search"] = torch.zeros(1, row_bytes(self._crop_size), dtype=torch.uint8, device=device)
        self._graph = graph
        self._compiled = compiled_graph(graph) if compiled else None
        self._half = half
        self._device = device
        self._examples = examples
        self._lanes: dict[int, _Lane] = {}
        lane = self._lane(1)
        self.outputs: Mapping[str, tuple[int | None, ...]] = _shapes(lane.results)
        self.description = description

    def run(self, targets: Sequence[NamedArrays]) -> list[NamedArrays]:
        """Run the network once; see `Engine.run`."""
        return self._lane(len(targets)).run(targets)

    def _lane(self, count: int) -> _Lane:
        if count not in self._lanes:
            # Compiling takes a minute, which a target that comes later cannot wait for.
            graph = self._compiled if count == 1 and self._compiled is not None else self._graph
            try:
                self._lanes[count] = _Lane(graph, self._examples, count, self._device, self._half, self._crop_size)
            except torch.cuda.OutOfMemoryError as error:
                raise EngineError(f"{count} targets do not fit into the memory of {self._device}") from error
            except RuntimeError as error:
                if graph is self._graph:
                    raise
                raise EngineError(f"torch {torch.__version__} cannot run the compiled network: {error}") from error
        return self._lanes[count]


def cuda_engines(
    network: nn.Module,
    variant: Variant,
    device: torch.device,
    precision: str,
    name: str,
    compiled: bool = False,
    cuts: bool = True,
) -> Engines:
    """Engines of a network in evaluation, which is not changed.

    Args:
        network: what to run.
        variant: whose network it is.
        device: the GPU.
        precision: fp32 or fp16.
        name: of the weights, for people.
        compiled: let torch.compile fuse the operations of a run for one target, a minute or so at the start.
        cuts: search crops are cut on the GPU, from the source pixels under them; see `torch_crop`.

    Raises:
        EngineError: it cannot be compiled, or does not fit into the GPU's memory.

    """
    half = precision == "fp16"
    per_frame, per_template = graphs_of(arranged(prepared(network), half))
    for graph in filter(None, (per_frame, per_template)):
        graph.to(device)
    with torch.autocast("cuda", torch.float16, enabled=half):
        for_frame, for_template = example_inputs(variant, per_template, device=device)
    gpu = torch.cuda.get_device_name(device)
    how = ", ".join(["compiled"] * compiled + ["CUDA graphs"] + ["crops cut there"] * cuts)
    description = f"torch {torch.__version__}, {gpu}, {precision}, {how}, {name}"
    engine = CudaEngine(per_frame, for_frame, device, half, description, compiled, cuts)
    if per_template is None:
        return Engines(engine, takes_patches=cuts)
    for_features = CudaEngine(per_template, for_template, device, half, description, compiled)
    return Engines(engine, for_features, takes_patches=cuts)


def arranged(network: nn.Module, half: bool) -> nn.Module:
    """The network, changed in place: for fp16 with halved products, and convolutions channels last.

    That is the order in which crops arrive, and in which tensor cores take fp16; in fp32 cuDNN has faster kernels for
    the other.
    """
    return halve_products(network).to(memory_format=torch.channels_last) if half else network


def compiled_graph(graph: Graph | CutGraph, backend: str = "inductor") -> Graph | CutGraph:
    """The same graph with kernels that torch.compile makes when it is first run, for the shapes of that run."""
    return torch.compile(graph, fullgraph=True, dynamic=False, backend=backend)


class _Lane:
    """Buffers and captured graph for one batch size."""

    def __init__(
        self,
        graph: Graph | CutGraph,
        examples: Mapping[str, Tensor],
        count: int,
        device: torch.device,
        half: bool,
        crop_size: int | None,
    ) -> None:
        """`crop_size`: the graph cuts its `search` crops of this size itself."""
        shapes = {name: (count, *example.shape[1:]) for name, example in examples.items()}
        self._crop_size = crop_size
        self._staging = {n: _pinned(torch.zeros(s, dtype=examples[n].dtype), device) for n, s in shapes.items()}
        self._inputs = {name: torch.empty_like(value, device=device) for name, value in self._staging.items()}
        for name, value in self._staging.items():
            self._inputs[name].copy_(value)
        self._uploaded: dict[str, list[NDArray | None]] = {name: [None] * count for name in examples}
        """What lies in each input; held, so that no other array can take its place in memory."""
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        # Without its cache of casts, which a captured graph must not depend on; the large weights need no cast.
        casts = partial(torch.autocast, device.type, torch.float16, enabled=half, cache_enabled=False)
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            for _ in range(_WARM_UP_RUNS if self._stream is not None else 1):
                with casts():
                    made = graph(*self._inputs.values())
            self._wait()
            self.results = {
                name: _pinned(torch.empty(value.shape, dtype=value.dtype), device)
                for name, value in zip(graph.outputs, made, strict=True)
            }

        def frame() -> None:
            with casts():
                made = graph(*self._inputs.values())
            for result, value in zip(self.results.values(), made, strict=True):
                result.copy_(value, non_blocking=True)

        self._launch = self._recorded(frame)

    def run(self, targets: Sequence[NamedArrays]) -> list[NamedArrays]:
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            for name, uploaded in self._uploaded.items():
                for i, inputs in enumerate(targets):
                    if inputs[name] is not uploaded[i]:
                        uploaded[i] = self._upload(name, i, inputs[name])
            self._launch()
        self._wait()
        return [{name: value[i].numpy().copy() for name, value in self.results.items()} for i in range(len(targets))]

    def _upload(self, name: str, i: int, value: NDArray | Patch) -> NDArray | None:
        """Begin to copy one target's input; returns what to hold, which a camera's buffer is not."""
        staging, there = self._staging[name][i], self._inputs[name][i]
        if name == "search" and self._crop_size is not None:
            used = pack(staging.numpy(), value, self._crop_size)
            staging, there = staging[:used], there[:used]
        else:
            staging.numpy()[...] = value
        there.copy_(staging, non_blocking=True)
        return None if isinstance(value, Patch) else value

    def _recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        """`work` as a CUDA graph; on a CPU, where the rest of this class is tested, as it is."""
        if self._stream is None:
            return work
        captured = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(captured, stream=self._stream):
            work()
        return captured.replay

    def _wait(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()


def _pinned(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.pin_memory() if device.type == "cuda" else tensor


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int | None, ...]]:
    return {name: (None, *tensor.shape[1:]) for name, tensor in tensors.items()}
