"""Search crops cut by torch on the device: the source pixels under them are uploaded, not the crops.

A target's source pixels and what `Patch` says of them lie in one row of bytes of a fixed size, so that cutting can be
part of a CUDA graph and costs one upload. What does not fit, or is better cut on the CPU, comes as a finished crop:
sampled at its own pixels, it is not changed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ros2_tracker.engines.patch import Axis, Patch
from ros2_tracker.models.graphs import Graph

_HEADER = np.dtype(
    [("axes", np.float32, (2, 4)), ("size", np.float32, 2), ("strides", np.float32, 2), ("rgb", np.float32, 3),
     ("fill", np.float32, 3), ("unused", np.float32, 14)]
)  # fmt: skip
"""Rows first, then columns; each axis as in `patch.Axis`, strides in bytes."""

MAX_SOURCE = 4
"""Source pixels per pixel of the crop. Beyond that, copying and uploading them takes about as long as cutting here."""
_MAX_CHANNELS = 4


class CutGraph(nn.Module):
    """A graph that takes its `search` crops as packed rows."""

    def __init__(self, graph: Graph, size: int) -> None:
        """`size` is that of the search crop."""
        super().__init__()
        self.graph = graph
        self.size = size
        self.inputs: tuple[str, ...] = graph.inputs
        self.outputs: tuple[str, ...] = graph.outputs

    def forward(self, *inputs: Tensor) -> Sequence[Tensor]:
        """As the graph's, with (N, `row_bytes`) uint8 for `search`."""
        given = zip(self.inputs, inputs, strict=True)
        return self.graph(*(cut(value, self.size) if name == "search" else value for name, value in given))


def row_bytes(size: int) -> int:
    """Bytes of a row for crops of this size."""
    return _HEADER.itemsize + MAX_SOURCE * size * size * _MAX_CHANNELS


def pack(row: NDArray[np.uint8], crop: Patch | NDArray[np.uint8], size: int) -> int:
    """Write a patch, or a (size, size, 3) crop, into a row of `row_bytes`; returns how many of them count.

    ValueError when it is neither.
    """
    if not isinstance(crop, Patch) or crop.pixels.shape[0] * crop.pixels.shape[1] > MAX_SOURCE * size * size:
        crop = _as_it_is(np.asarray(crop), size)
    height, width = crop.pixels.shape[:2]
    channels = crop.pixels.size // (height * width)
    header = row[: _HEADER.itemsize].view(_HEADER)[0]
    header["axes"] = (crop.y, crop.x)
    header["size"] = (height, width)
    header["strides"] = (width * channels, channels)
    header["rgb"] = crop.rgb
    header["fill"] = crop.fill
    end = _HEADER.itemsize + crop.pixels.size
    row[_HEADER.itemsize : end].reshape(crop.pixels.shape)[...] = crop.pixels
    return end


def cut(rows: Tensor, size: int) -> Tensor:
    """(N, size, size, 3) uint8 crops of (N, `row_bytes`) uint8 rows: bilinear, rounded, `fill` outside the source."""
    header = rows[:, : _HEADER.itemsize].view(torch.float32)
    first, step, low, high = header[:, :8].view(-1, 2, 4, 1).unbind(2)
    last, strides = header[:, 8:10, None, None] - 1.0, header[:, 10:12, None, None]
    rgb, fill = header[:, 12:15], header[:, 15:18]
    # (N, 2 axes, size), then with the two pixels that each sample lies between: (N, 2 axes, 2, size).
    place = torch.arange(size, device=rows.device, dtype=torch.float32)
    at = torch.minimum(torch.maximum(first + step * place, low), high)
    before = at.floor()
    beyond = at - before
    taps = torch.stack((before, before + 1.0), 2)
    inside = (taps >= 0.0) & (taps <= last)
    weights = torch.stack((1.0 - beyond, beyond), 2) * inside
    offsets = (torch.minimum(taps, last).clamp(min=0.0) * strides).long()

    down, across = offsets.unbind(1)
    where = down[:, :, None, :, None, None] + across[:, None, :, None, :, None] + rgb.long()[:, None, None, None, None]
    sources = rows[:, _HEADER.itemsize :].gather(1, where.flatten(1)).view(where.shape)
    share = weights[:, 0, :, None, :, None] * weights[:, 1, None, :, None, :]
    mixed = (sources * share[..., None]).sum((1, 2))
    missing = 1.0 - share.sum((1, 2))
    return (mixed + missing[..., None] * fill[:, None, None]).round().to(torch.uint8)


def _as_it_is(crop: NDArray[np.uint8], size: int) -> Patch:
    """A finished crop as a patch of itself; ValueError when it is none."""
    if crop.shape != (size, size, 3) or crop.dtype != np.uint8:
        raise ValueError(f"a search crop is uint8{(size, size, 3)}, not {crop.dtype}{crop.shape}")
    itself = Axis(0.0, 1.0)
    return Patch(crop, (0, 1, 2), itself, itself, size, (0.0, 0.0, 0.0), lambda: crop)
