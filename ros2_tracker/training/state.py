"""What survives a kill: checkpoint and weights, each one file that is replaced as a whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "weights.safetensors"
_KIND = "ros2_tracker training checkpoint 1"


@dataclass(slots=True)
class Progress:
    """Where a run is. Random numbers need no state: they are counted (`training.counter`)."""

    step: int = 0
    """Steps done."""
    seconds: float = 0.0
    """Spent on them, and on waiting for their batches; not on validation and checkpoints."""
    skipped_crops: int = 0
    """Draws of crops that could not be read; others were drawn in their place."""
    unused_samples: int = 0
    """Targets that had left the search region or were covered."""
    skipped_steps: int = 0
    """Steps without a finite loss or gradient: nothing was learnt from them."""
    bad_in_a_row: int = 0
    window: dict[str, float] = field(default_factory=dict)
    """Sums of the losses since the last row of the curves."""
    window_steps: int = 0
    row_step: int = 0
    """Step of that row, and `seconds` at it."""
    row_seconds: float = 0.0
    mean_iou: float | None = None
    """Of the last validation."""


def save_checkpoint(
    folder: Path,
    network: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    names: Mapping[str, nn.Parameter],
    progress: Progress,
    identity: Mapping[str, Any],
) -> None:
    """Write the checkpoint.

    Args:
        folder: of the run.
        network: what is trained.
        average: its moving average.
        optimizer: with its state.
        names: name -> parameter of all that learn.
        progress: where the run is.
        identity: what a run that goes on is compared with.

    """
    tensors = {f"network/{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"average/{name}": value for name, value in average.state_dict().items()}
    for name, parameter in names.items():
        for entry, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{name}/{entry}"] = value
    state = json.dumps({"progress": asdict(progress), "identity": dict(identity)})
    write_tensors(folder / CHECKPOINT, tensors, {"kind": _KIND, "state": state})


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], Progress, dict[str, Any]]:
    """Tensors, progress and identity; ValueError naming the file when it is no checkpoint."""
    file = folder / CHECKPOINT
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            if metadata.get("kind") != _KIND:
                raise ValueError(f"{file} is no checkpoint of a training run")
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file}: the checkpoint cannot be read: {error}") from error
    state = json.loads(metadata["state"])
    return tensors, Progress(**state["progress"]), state["identity"]


def restore(
    tensors: Mapping[str, Tensor],
    network: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    names: Mapping[str, nn.Parameter],
) -> None:
    """Put a checkpoint's tensors into their places."""
    for prefix, module in (("network/", network), ("average/", average)):
        entries = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        module.load_state_dict(entries, strict=True)
    for name, parameter in names.items():
        state: dict[str, Tensor] = {}
        for key, value in tensors.items():
            owner, _, entry = key.removeprefix("optimizer/").rpartition("/")
            if key.startswith("optimizer/") and owner == name:
                # AdamW counts on the CPU; its moments lie as the parameter does.
                fits = value.shape == parameter.shape and entry != "step"
                state[entry] = torch.empty_like(parameter).copy_(value) if fits else value
        if state:
            optimizer.state[parameter] = state


def write_tensors(file: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file so that at any moment either the old or the new one is there, whole."""
    part = file.with_name(f".{file.name}.part")
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, part, metadata)
    part.chmod(0o644)  # safetensors writes files that only their owner may read
    put_in_place(part, file)


def put_in_place(part: Path, file: Path) -> None:
    """Rename a written file, after its content has reached the disk."""
    with part.open("rb+") as stream:
        os.fsync(stream.fileno())
    part.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
