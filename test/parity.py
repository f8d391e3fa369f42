"""Reference outputs of the official implementations under fixtures/, and the synthetic weights they were made with."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

FIXTURES = Path(__file__).resolve().parent / "fixtures"
sys.path.insert(0, str(FIXTURES))

import fixgen  # noqa: E402

# Only there so that official checkpoints load; no network of ours has them (SPEC 1.6).
UNUSED_ENTRIES = ("backbone.cls_token", "backbone.pos_embed")


def fixture(name: str) -> dict[str, np.ndarray]:
    with np.load(FIXTURES / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def official(name: str) -> tuple[dict, list]:
    """Entries of a model's state dict and the gains of its synthetic weights."""
    data = json.loads((FIXTURES / f"{name}_keys.json").read_text())
    return data["entries"], data["meta"]["gains"]


def synthetic_weights(name: str, seed: int, extra_gains=()) -> dict[str, np.ndarray]:
    """The official state dict, filled as the fixtures' README says, less the unused entries."""
    entries, gains = official(name)
    return {
        key: fixgen.make_param(key, entry["shape"], seed, [*gains, *extra_gains])
        for key, entry in entries.items()
        if key not in UNUSED_ENTRIES
    }


def load_synthetic(network, name: str, seed: int, extra_gains=()):
    """`network` in evaluation with synthetic weights; fails unless every entry has its place."""
    import torch

    weights = synthetic_weights(name, seed, extra_gains)
    network.load_state_dict({key: torch.from_numpy(np.asarray(value)) for key, value in weights.items()}, strict=True)
    return network.eval().requires_grad_(False)


def network_input(name: str, size: int, seed: int):
    import torch

    return torch.from_numpy(fixgen.make_input(name, (1, 3, size, size), seed))


def max_error(actual, expected) -> float:
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    return float(np.abs(actual.astype(np.float64) - expected).max())
