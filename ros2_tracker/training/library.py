"""All crops of a run: its sources one behind the other, the tracks in them, and which are held out for validation."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ros2_tracker.training.counter import Stream, uniform
from ros2_tracker.training.source import CropSource


class Library:
    """Crops 0 ... N-1 of several sources, and tracks 0 ... T-1 of neighbouring crops."""

    def __init__(self, sources: Sequence[CropSource]) -> None:
        """Concatenate; ValueError for no source, or two of one name."""
        names = [source.name for source in sources]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"the data need sources with names of their own, got {', '.join(names) or 'none'}")
        self.sources = tuple(sources)
        counts = [len(source.tracks) for source in sources]
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self.boxes: NDArray[np.float32] = np.concatenate([source.boxes for source in sources])
        """(N, 4) cx, cy, w, h px in the crop."""
        self.source: NDArray[np.int64] = np.repeat(np.arange(len(sources)), counts)
        """(N,) index of a crop's source."""
        ids = np.concatenate([source.tracks for source in sources])
        first = np.ones(len(ids), bool)
        first[1:] = (ids[1:] != ids[:-1]) | (self.source[1:] != self.source[:-1])
        self.track: NDArray[np.int64] = np.cumsum(first) - 1
        """(N,) track of a crop."""
        self.track_start: NDArray[np.int64] = np.flatnonzero(first)
        """(T,) first crop of a track."""
        self.track_count: NDArray[np.int64] = np.diff(np.append(self.track_start, len(ids)))
        """(T,) crops of a track."""
        self.track_source: NDArray[np.int64] = self.source[self.track_start]
        self._track_id = ids[self.track_start]

    def __len__(self) -> int:
        """Number of crops."""
        return len(self.boxes)

    @property
    def left_out(self) -> list[str]:
        """What the sources do not use, and why."""
        return [text for source in self.sources for text in source.left_out]

    def read(self, crop: int) -> NDArray[np.uint8]:
        """(352, 352, 3) RGB; CropError naming the crop that cannot be read."""
        source = int(self.source[crop])
        return self.sources[source].read(int(crop - self._starts[source]))

    def describe(self, crop: int) -> str:
        """For people: source, track and crop."""
        source = int(self.source[crop])
        own = int(crop - self._starts[source])
        return f"{self.sources[source].name} track {self._track_id[self.track[crop]]} crop {own}"

    def digest(self) -> str:
        """Changes with names, tracks and boxes: a run does not go on with other data."""
        digest = hashlib.sha256("\n".join(source.name for source in self.sources).encode())
        for array in (self.track, self.boxes):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def split(self, sources: Sequence[str], share: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tracks to train on, and tracks held out.

        Args:
            sources: names of sources that are held out as a whole.
            share: of the tracks of every other source, chosen by name and number: the same in every run.

        Raises:
            ValueError: an unknown name, or nothing is left to train on.

        """
        names = [source.name for source in self.sources]
        for name in sources:
            if name not in names:
                raise ValueError(f"hold_out_sources: there is no source {name!r}; there are {', '.join(names)}")
        seeds = np.array([zlib.crc32(name.encode()) for name in names], np.uint64)[self.track_source]
        drawn = uniform(0, Stream.HOLD_OUT, (seeds << np.uint64(31)) ^ self._track_id.astype(np.uint64), 1)[:, 0]
        held = (drawn < share) | np.isin(self.track_source, [names.index(name) for name in sources])
        if held.all():
            raise ValueError("all tracks are held out: nothing is left to train on")
        return np.flatnonzero(~held), np.flatnonzero(held)

    def track_weights(self, tracks: NDArray[np.int64], power: float, factors: Mapping[str, float]) -> NDArray:
        """Chance of each track, up to a factor.

        Args:
            tracks: which.
            power: of the number of crops: 1 takes every crop equally often, 0 every track.
            factors: name of a source -> factor; 1 where not named.

        Raises:
            ValueError: a factor for an unknown source, or no track has a chance.

        """
        names = [source.name for source in self.sources]
        for name in factors:
            if name not in names:
                raise ValueError(f"source_weights: there is no source {name!r}; there are {', '.join(names)}")
        factor = np.array([factors.get(name, 1.0) for name in names], np.float64)
        weights = self.track_count[tracks].astype(np.float64) ** power * factor[self.track_source[tracks]]
        if not weights.sum() > 0.0:
            raise ValueError("source_weights: no track has a chance to be taken")
        return weights
