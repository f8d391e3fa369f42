"""What every engine can do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

ENGINES = ("auto", "tensorrt", "torch", "onnxruntime", "onnxruntime-tensorrt")
PRECISIONS = ("auto", "fp32", "fp16", "int8")


class EngineError(RuntimeError):
    """An engine cannot be had or cannot load the network; the text says why and what to do."""


Progress = Callable[[str, float | None], None]
"""Told what happens, for people, and how much of it is done in [0, 1]; None where that is not known."""

NamedArrays = Mapping[str, NDArray]
"""Inputs or outputs of a network for one target, by name, without the batch axis.

A `patch.Patch` counts as the array that NumPy makes of it.
"""


class Engine(Protocol):
    """A loaded network. Not thread-safe: one thread runs it.

    Crops are (S, S, 3) uint8 RGB and normalised inside. `models.graphs` lists the inputs and outputs.
    """

    description: str
    """For people: the run time, its version, the device."""
    batch: int | None
    """Targets that one run handles, exactly; None for any number."""
    inputs: Mapping[str, tuple[int | None, ...]]
    """Name -> shape of each input, with the batch axis."""
    outputs: Mapping[str, tuple[int | None, ...]]
    """Name -> shape of each output, with the batch axis."""

    def run(self, targets: Sequence[NamedArrays]) -> list[NamedArrays]:
        """Run the network once for `batch` targets, or for any number where that is None.

        The arrays must not be written to afterwards: an engine may keep what it uploaded for as long as it is handed
        the same array again, as it is with templates. The returned arrays belong to the caller.
        """
        ...


@dataclass(slots=True)
class Engines:
    """What runs a model: the engine of every frame, and that of template features where the family keeps them."""

    per_frame: Engine
    per_template: Engine | None = None
    precision: str = ""
    """Of the arithmetic."""
    reason: str = ""
    """Why these, for people."""
    takes_patches: bool = False
    """`per_frame` resamples search crops by itself: `search` may be a `patch.Patch`."""


def stacked(targets: Sequence[NamedArrays]) -> dict[str, NDArray]:
    """Inputs with a batch axis; those of a single target are not copied."""
    if len(targets) == 1:
        return {name: np.asarray(value)[None] for name, value in targets[0].items()}
    return {name: np.stack([inputs[name] for inputs in targets]) for name in targets[0]}


def unstacked(outputs: Mapping[str, NDArray], count: int) -> list[NamedArrays]:
    """Outputs with a batch axis, target by target."""
    return [{name: value[i] for name, value in outputs.items()} for i in range(count)]
