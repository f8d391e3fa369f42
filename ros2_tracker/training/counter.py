"""Random numbers that are a pure function of (seed, stream, sample): a run that goes on at step n needs no state.

A counter is hashed with the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), a whole batch at once.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 0xFFFFFFFFFFFFFFFF


class Stream(IntEnum):
    """Who draws: streams are independent of each other. Numbers are part of a run's results, so they never change."""

    PICK = 1
    AUGMENT = 2
    STEP = 3
    HOLD_OUT = 4
    VALIDATION = 5
    BUILD = 6


def uniform(seed: int, stream: Stream, samples: ArrayLike, count: int, attempt: int = 0) -> NDArray[np.float64]:
    """(len(samples), count) numbers in [0, 1).

    Args:
        seed: of the run.
        stream: who draws.
        samples: (B,) numbers of the samples in the run, 0 or more.
        count: numbers a sample.
        attempt: another draw for the same sample.

    """
    key = _mix_one(_mix_one(seed & _MASK) ^ (int(stream) << 32) ^ attempt)
    index = np.asarray(samples, np.uint64)[:, None]
    with np.errstate(over="ignore"):
        row = _mix(index * np.uint64(_GOLDEN) + np.uint64(key))
        bits = _mix(row + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def integer(seed: int, stream: Stream, sample: int) -> int:
    """One number of 63 bits, to seed another generator with."""
    key = _mix_one(_mix_one(seed & _MASK) ^ (int(stream) << 32))
    return _mix_one((sample * _GOLDEN + key) & _MASK) >> 1


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _mix_one(z: int) -> int:
    with np.errstate(over="ignore"):
        return int(_mix(np.array([z], np.uint64))[0])
