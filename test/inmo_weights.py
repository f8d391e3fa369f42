"""The fixtures' synthetic weights in InMo's networks."""

from __future__ import annotations

import numpy as np
import parity


def official_weights(name: str, seed: int, extra_gains=()) -> dict[str, np.ndarray]:
    """As `parity.synthetic_weights`, less Swin's tables of indices: a network has its own."""
    entries, _ = parity.official(name)
    made = parity.synthetic_weights(name, seed, extra_gains)
    return {key: value for key, value in made.items() if not entries[key].get("fixed")}


def load_official(network, name: str, seed: int, extra_gains=()):
    """`network` in evaluation with synthetic weights; fails unless every entry has its place."""
    import torch

    weights = {key: torch.from_numpy(np.asarray(v)) for key, v in official_weights(name, seed, extra_gains).items()}
    tables = {key: value for key, value in network.state_dict().items() if key.endswith("relative_position_index")}
    network.load_state_dict(weights | tables, strict=True)
    return network.eval().requires_grad_(False)
