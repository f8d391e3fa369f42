"""From a variant to its torch network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ros2_tracker.models.variant import Variant

if TYPE_CHECKING:
    from torch import Tensor, nn

FAMILIES = {
    "ibfp": "ros2_tracker.models.ibfp",
    "inmo": "ros2_tracker.models.inmo",
    "multistage": "ros2_tracker.models.multistage",
    "ostrack": "ros2_tracker.models.ostrack",
    "stark": "ros2_tracker.models.stark",
}
"""Family -> module with `from_variant`."""


def build_network(variant: Variant, empty: bool = False) -> nn.Module:
    """Network of a variant with random weights, in evaluation.

    Args:
        variant: which.
        empty: on the meta device: names and shapes without memory.

    Raises:
        ValueError: the family has no torch network, or the variant's `network` settings do not fit it.

    """
    if variant.family not in FAMILIES:
        raise ValueError(f"model {variant.name}: the family {variant.family} has no torch network")
    import torch

    module = import_module(FAMILIES[variant.family])
    try:
        with torch.device("meta" if empty else "cpu"):
            return module.from_variant(variant).eval()
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"model {variant.name}: network settings {dict(variant.network)}: {error!r}") from error


def load_network(variant: Variant, weights: str | Path | None = None) -> nn.Module:
    """Network of a variant with its weights, in evaluation, on the CPU.

    Args:
        variant: which.
        weights: a safetensors file; None takes the variant's own.

    Raises:
        WeightsMissingError: the file is not there.
        ValueError: the file is not of this variant; the text names the entries.

    """
    path = variant.require_weights(weights)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    network = build_network(variant, empty=True)
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"model {variant.name}: {path} is no safetensors file: {error}") from error
    problems = misfits(weights, network.state_dict())
    if problems:
        raise ValueError(f"model {variant.name}: the weights file {path} does not fit: {listed(problems)}")
    network.load_state_dict(weights, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def misfits(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """What is missing, not expected, or of another shape in `weights`, one text an entry."""
    problems = [f"entry {name} is missing" for name in expected if name not in weights]
    problems += [f"entry {name} is not expected" for name in weights if name not in expected]
    problems += [
        f"entry {name} has shape {tuple(weights[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in weights and weights[name].shape != value.shape
    ]
    return problems


def listed(problems: Sequence[str], limit: int = 5) -> str:
    """The first problems on one line, and how many more there are."""
    more = [f"and {len(problems) - limit} more"] if len(problems) > limit else []
    return "; ".join([*problems[:limit], *more])
