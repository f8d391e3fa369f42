"""From a variant to its torch network."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ros2_tracker.models.variant import Variant

if TYPE_CHECKING:
    from torch import nn

FAMILIES = {"ostrack": "ros2_tracker.models.ostrack", "stark": "ros2_tracker.models.stark"}
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
