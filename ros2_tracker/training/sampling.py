"""Which crops make sample k of a run: a pure function of (seed, k)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ros2_tracker.training.counter import Stream, uniform
from ros2_tracker.training.library import Library
from ros2_tracker.training.limits import check_range

_DRAWS = 8


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How pairs are made."""

    max_gap: int = 100
    """Crops of a track between template and search, at most. Larger gaps show more change of look, and more mistakes
    of the labels."""
    negatives: float = 0.1
    """Share of samples whose search shows another object: the score learns to stay low."""
    same_source: float = 0.5
    """Share of the negatives whose other object is of the same source: look-alikes, where a source is one class."""
    track_power: float = 1.0
    """A track's chance is its number of crops to this power: 1 favours long videos, 0 stills."""

    def __post_init__(self) -> None:
        """ValueError naming a value out of range."""
        check_range("max_gap", self.max_gap, 0, 10**9)
        check_range("negatives", self.negatives, 0.0, 1.0)
        check_range("same_source", self.same_source, 0.0, 1.0)
        check_range("track_power", self.track_power, 0.0, 2.0)


@dataclass(frozen=True, slots=True)
class Picks:
    """Crops of a batch, as indices into the library."""

    template: NDArray[np.int64]
    """(B,) the target as it was first seen."""
    recent: NDArray[np.int64]
    """(B,) the target later, between template and search: for networks with two templates."""
    search: NDArray[np.int64]
    """(B,) where it is looked for."""
    negative: NDArray[np.bool_]
    """(B,) the search shows another object."""


class Sampler:
    """Pairs and triplets from some of a library's tracks."""

    def __init__(
        self,
        library: Library,
        tracks: NDArray[np.int64],
        settings: SamplingSettings,
        seed: int,
        source_weights: dict[str, float] | None = None,
        stream: Stream = Stream.PICK,
    ) -> None:
        """Prepare.

        Args:
            library: the crops.
            tracks: which of its tracks take part.
            settings: how pairs are made.
            seed: of the run.
            source_weights: name of a source -> how much more often its tracks are taken.
            stream: of random numbers.

        Raises:
            ValueError: no track, or weights that do not fit the library.

        """
        if not len(tracks):
            raise ValueError("there is no track to take samples from")
        self.library = library
        self._seed, self._settings, self._stream = seed, settings, stream
        # By source, so that a part of the sums is one source's.
        order = np.argsort(library.track_source[tracks], kind="stable")
        self._tracks = tracks[order]
        weights = library.track_weights(self._tracks, settings.track_power, source_weights or {})
        self._sums = np.concatenate([[0.0], np.cumsum(weights)])
        source = library.track_source[self._tracks]
        self._source_first = np.searchsorted(source, np.arange(len(library.sources)), "left")
        self._source_last = np.searchsorted(source, np.arange(len(library.sources)), "right")

    def pick(self, samples: ArrayLike, attempt: int = 0) -> Picks:
        """Crops of the samples with these numbers.

        Args:
            samples: (B,) numbers in the run.
            attempt: 1, 2 ... draws others, in place of crops that cannot be read.

        """
        settings, library = self._settings, self.library
        u = uniform(self._seed, self._stream, samples, _DRAWS, attempt)
        track = self._drawn(u[:, 0])
        at = self._tracks[track]
        count, start = library.track_count[at], library.track_start[at]
        first = _index(u[:, 1], count)
        low, high = np.maximum(first - settings.max_gap, 0), np.minimum(first + settings.max_gap, count - 1)
        second = low + _index(u[:, 2], high - low + 1)
        between = np.abs(second - first)
        recent = np.minimum(first, second) + _index(u[:, 3], between + 1)
        other = self._other(track, u[:, 5], u[:, 6])
        negative = (u[:, 4] < settings.negatives) & (other != track)
        strange = self._tracks[other]
        elsewhere = library.track_start[strange] + _index(u[:, 7], library.track_count[strange])
        search = np.where(negative, elsewhere, start + second)
        return Picks(start + first, start + recent, search, negative)

    def _other(self, track: NDArray[np.int64], kind: NDArray, u: NDArray) -> NDArray[np.int64]:
        """Another track, of the same source or of any; where there is no other, the track itself."""
        source = self.library.track_source[self._tracks[track]]
        first, last = self._source_first[source], self._source_last[source]
        same = (kind < self._settings.same_source) & (last - first > 1)
        low = np.where(same, self._sums[first], 0.0)
        high = np.where(same, self._sums[last], self._sums[-1])
        # Its own part is cut out of the range, so that one draw is enough.
        own_low, own_high = self._sums[track], self._sums[track + 1]
        place = low + u * (high - low - (own_high - own_low))
        place = np.where(place >= own_low, place + (own_high - own_low), place)
        found = np.searchsorted(self._sums, place, "right") - 1
        return np.clip(found, np.where(same, first, 0), np.where(same, last, len(self._tracks)) - 1)

    def _drawn(self, u: NDArray[np.float64]) -> NDArray[np.int64]:
        found = np.searchsorted(self._sums, u * self._sums[-1], "right") - 1
        return np.minimum(found, len(self._tracks) - 1)


def _index(u: NDArray[np.float64], count: NDArray[np.int64]) -> NDArray[np.int64]:
    """(B,) whole numbers below `count` from numbers in [0, 1)."""
    return np.minimum((u * count).astype(np.int64), count - 1)
