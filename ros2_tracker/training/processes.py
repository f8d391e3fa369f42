"""The processes of a run: one, or several that `torchrun` started, one a GPU."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those of the run."""

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this one writes files and shows progress."""
        return self.rank == 0

    def all_agree(self, flags: Tensor) -> Tensor:
        """Element by element: whether it is True in all processes."""
        if self.world > 1:
            whole = flags.to(torch.int32)
            dist.all_reduce(whole, dist.ReduceOp.MIN)
            flags = whole.bool()
        return flags

    def total(self, counts: list[int]) -> list[int]:
        """Sums over all processes."""
        if self.world == 1:
            return counts
        summed = torch.tensor(counts, device=self.device)
        dist.all_reduce(summed)
        return [int(v) for v in summed.tolist()]

    def leave(self) -> None:
        """End the group."""
        if self.world > 1:
            # A distributed network lies in reference cycles. Left to the end of the process, its threads were ended by
            # "terminate called without an active exception", once in four runs.
            gc.collect()
            dist.destroy_process_group()


def join(device: str) -> Processes:
    """Join the group that torchrun's environment variables name; alone without them.

    Args:
        device: auto, cpu, cuda or cuda:N; of several processes each takes the GPU of its local rank.

    Raises:
        ValueError: there is no such device.

    """
    world, rank, local = (
        int(os.environ.get(name, d)) for name, d in (("WORLD_SIZE", 1), ("RANK", 0), ("LOCAL_RANK", 0))
    )
    chosen = _device(device, local if world > 1 else None)
    if world > 1 and not dist.is_initialized():
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    return Processes(rank, world, chosen)


def _device(name: str, local_rank: int | None) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device is {name!r}, must be auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device is {name!r}, must be auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"device is {name!r}, but torch finds no CUDA device here")
        index = local_rank if local_rank is not None else (device.index or 0)
        if index >= torch.cuda.device_count():
            raise ValueError(f"device cuda:{index} does not exist: there are {torch.cuda.device_count()}")
        device = torch.device("cuda", index)
    return device
