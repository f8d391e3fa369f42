"""From a config to everything that a run needs: data, network, optimiser, validation."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from tqdm import tqdm

from ros2_tracker.models.build import build_network, listed
from ros2_tracker.models.variant import Variant, load_variant
from ros2_tracker.training.config import TrainingConfig
from ros2_tracker.training.counter import Stream, integer
from ros2_tracker.training.library import Library
from ros2_tracker.training.loader import Batches, CropStore
from ros2_tracker.training.objectives import Objective, Trainee, make_objective, trained_parameters
from ros2_tracker.training.optimizer import MovingAverage, Statistics, make_optimizer
from ros2_tracker.training.processes import Processes
from ros2_tracker.training.sampling import Sampler
from ros2_tracker.training.sources import open_library
from ros2_tracker.training.validation import Validation
from ros2_tracker.training.viewer import Viewer

_SAFE_CHANNELS = 16


@dataclass(frozen=True, slots=True)
class Parts:
    """What a run consists of."""

    library: Library
    store: CropStore
    batches: Batches
    viewer: Viewer
    objective: Objective
    trainee: Trainee
    learning: dict[str, nn.Parameter]
    """Name -> parameter of all that learn."""
    optimizer: torch.optim.Optimizer
    average: MovingAverage
    statistics: Statistics
    validation: Validation | None


def prepare(config: TrainingConfig, processes: Processes, say: Callable[[str], None]) -> Parts:
    """Everything of a run at its start; ValueError names what does not fit."""
    device = processes.device
    variant = load_variant(config.model)
    variant = replace(variant, network={**variant.network, **config.network})
    network = initial_network(config, variant, say)
    objective = make_objective(config.objective, config.loss, network, variant.templates)
    library = open_library(config.data)
    for text in library.left_out[:5]:
        say(f"left out: {text}")
    if len(library.left_out) > 5:
        say(f"left out: {len(library.left_out) - 5} more")
    held, validation_tracks = library.split(config.data.hold_out_sources, config.data.hold_out_share)
    sampler = Sampler(library, held, config.sampling, config.seed, dict(config.data.source_weights))
    store = _store(config, library, processes)
    workers = config.data.workers
    viewer = Viewer(variant, config.augment, library, config.seed)
    batches = Batches(
        store,
        sampler,
        viewer,
        config.optimizer.batch,
        objective.needs_recent,
        device,
        workers,
        processes.rank,
        processes.world,
    )
    network.to(device, memory_format=layout(network))
    objective.set_training(network)
    learning = dict(trained_parameters(network, objective))
    optimizer = make_optimizer(learning.items(), config.optimizer)
    learning = {name: parameter for name, parameter in learning.items() if parameter.requires_grad}
    validation = None
    if config.validation.every:
        if not len(validation_tracks):
            raise ValueError(
                "no track is held out for the validation: raise data.hold_out_share, or set validation.every to 0"
            )
        positive = replace(config.sampling, negatives=0.0)
        pairs = Sampler(library, validation_tracks, positive, 0, stream=Stream.VALIDATION)
        validation = Validation(variant, config.augment, store, pairs, config.validation.pairs, objective.needs_recent)
        say(f"held-out mean IoU of a box in the middle, without looking: {validation.blind_iou():.3f}")
    count = sum(parameter.numel() for parameter in learning.values())
    say(
        f"{variant.name}: {count / 1e6:.2f} M parameters learn from {int(np.isin(library.track, held).sum())} crops of "
        f"{len(held)} tracks; {len(validation_tracks)} tracks are held out; {device}, {autocast_text(config, device)}"
    )
    return Parts(
        library,
        store,
        batches,
        viewer,
        objective,
        Trainee(network, objective, autocast_type(config, device)),
        learning,
        optimizer,
        MovingAverage(network, config.optimizer.ema_decay),
        Statistics(network),
        validation,
    )


def initial_network(config: TrainingConfig, variant: Variant, say: Callable[[str], None]) -> nn.Module:
    """Random weights of the seed, and over them what fits of `init_from`; ValueError when nothing does."""
    torch.manual_seed(integer(config.seed, Stream.BUILD, 0))
    network = build_network(variant).requires_grad_(True)
    if config.init_from is None:
        return network
    try:
        found = load_file(config.init_from)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"init_from: {config.init_from} cannot be read: {error}") from error
    own = network.state_dict()
    fitting = {name: value for name, value in found.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise ValueError(f"init_from: no entry of {config.init_from} fits the network of {variant.name}")
    network.load_state_dict(fitting, strict=False)
    say(f"init_from: {len(fitting)} of {len(own)} entries are taken over from {config.init_from}")
    for what, names in (
        ("start at random", [name for name in own if name not in fitting]),
        ("not used", [name for name in found if name not in fitting]),
    ):
        if names:
            say(f"init_from: {what}: {listed(names, 8)}")
    return network


def layout(network: nn.Module) -> torch.memory_format:
    """Channels last, in which a whole step with convolutions of few channels is 1.25 times as fast on a CPU.

    Not where the gradient of a strided 1x1 convolution of fewer than 16 channels is needed: torch 2.13 writes beyond
    its memory there, on a CPU.
    """
    for module in network.modules():
        if (
            isinstance(module, nn.Conv2d)
            and module.kernel_size == (1, 1)
            and module.stride != (1, 1)
            and module.in_channels < _SAFE_CHANNELS
        ):
            return torch.contiguous_format
    return torch.channels_last


def autocast_type(config: TrainingConfig, device: torch.device) -> torch.dtype | None:
    """Type of the network's arithmetic; None for float32. ValueError for bf16 on a GPU that has none."""
    fits = device.type == "cpu" or torch.cuda.is_bf16_supported()
    if config.precision == "bf16" and not fits:
        raise ValueError(f"precision is bf16, which {torch.cuda.get_device_name(device)} does not compute in")
    wanted = config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda" and fits)
    return torch.bfloat16 if wanted else None


def autocast_text(config: TrainingConfig, device: torch.device) -> str:
    """For people."""
    return "fp32" if autocast_type(config, device) is None else "bf16"


def _store(config: TrainingConfig, library: Library, processes: Processes) -> CropStore:
    hidden = True if config.data.cache == "none" or not processes.leads else None
    with tqdm(total=len(library), desc="decoding crops", unit="crop", disable=hidden, leave=False) as bar:
        workers = os.cpu_count() or 1
        return CropStore(library, config.data.cache, processes.device, workers, bar.update)
