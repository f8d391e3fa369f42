"""Batches of context crops: batch n is a pure function of the seed and n, and prepared ahead by threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ros2_tracker.training.augment import Plan
from ros2_tracker.training.library import Library
from ros2_tracker.training.render import Crops
from ros2_tracker.training.sampling import Picks, Sampler
from ros2_tracker.training.source import CROP_PX, CropError
from ros2_tracker.training.viewer import Viewer

# Draws for one sample before the data are called unreadable.
_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples before augmentation."""

    samples: NDArray[np.int64]
    """(B,) numbers in the run."""
    picks: Picks
    plan: Plan
    crops: Crops
    skipped: int
    """Draws whose crops could not be read."""


class CropStore:
    """Where crops come from: decoded each time, or once and kept."""

    def __init__(
        self, library: Library, cache: str, device: torch.device, workers: int, progress: Callable[[int], None]
    ) -> None:
        """Prepare; with a cache, decode everything.

        Args:
            library: the crops.
            cache: `none`, `memory` or `device`.
            device: that trains.
            workers: threads that decode.
            progress: told how many more crops are cached.

        Raises:
            ValueError: the cache does not fit into memory.

        """
        self._library, self._device = library, device
        self.unreadable: dict[int, str] = {}
        """Crop -> what is wrong with it, as far as it was drawn."""
        self._lock = threading.Lock()
        self._kept: Tensor | None = None
        if cache == "none":
            return
        shape = (len(library), CROP_PX, CROP_PX, 3)
        try:
            self._kept = torch.zeros(shape, dtype=torch.uint8, device=device if cache == "device" else "cpu")
        except RuntimeError as error:
            size = np.prod(shape) / 2**30
            raise ValueError(f"data.cache is {cache!r}: {size:.1f} GiB of crops do not fit: {error}") from error
        with ThreadPoolExecutor(max(workers, 1)) as pool:
            for crop, image in enumerate(pool.map(self.read, range(len(library)))):
                if image is not None:
                    self._kept[crop] = torch.from_numpy(image)
                progress(1)

    def read(self, crop: int) -> NDArray[np.uint8] | None:
        """(352, 352, 3) RGB; None for a crop that cannot be read, which is noted."""
        try:
            return self._library.read(crop)
        except CropError as error:
            with self._lock:
                self.unreadable[crop] = str(error)
            return None

    def take(self, crops: NDArray[np.int64]) -> tuple[Tensor, NDArray[np.bool_]]:
        """(B, 352, 352, 3) uint8, and (B,) whether each could be read."""
        if self._kept is not None:
            kept = self._kept[torch.from_numpy(crops).to(self._kept.device)]
            return kept, np.array([crop not in self.unreadable for crop in crops.tolist()])
        taken = torch.empty((len(crops), CROP_PX, CROP_PX, 3), dtype=torch.uint8)
        images = taken.numpy()
        good = np.ones(len(crops), bool)
        for i, crop in enumerate(crops.tolist()):
            image = self.read(crop)
            good[i] = image is not None
            if image is not None:
                images[i] = image
        return taken, good


class Batches:
    """Batches of one worker of a run."""

    def __init__(
        self,
        store: CropStore,
        sampler: Sampler,
        viewer: Viewer,
        batch: int,
        recent: bool,
        device: torch.device,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Prepare.

        Args:
            store: of crops.
            sampler: of pairs.
            viewer: that plans what is done to them.
            batch: samples a step over all workers of the run; a multiple of their number.
            recent: whether a second template is wanted.
            device: that trains.
            workers: threads that prepare batches ahead.
            rank: of this worker of the run.
            world: number of its workers.

        Raises:
            ValueError: the batch cannot be shared evenly.

        """
        if batch % world:
            raise ValueError(f"optimizer.batch is {batch}, must be a multiple of the {world} processes of this run")
        self._store, self._sampler, self._viewer, self._recent = store, sampler, viewer, recent
        self._device, self.workers = device, workers
        self._batch, self._own, self._first = batch, batch // world, rank * (batch // world)

    def make(self, step: int) -> Batch:
        """Batch of a step; crops are not on the device yet. ValueError when too much cannot be read."""
        samples = step * self._batch + self._first + np.arange(self._own)
        picks = self._sampler.pick(samples)
        kinds = ["template", "search"] + (["recent"] if self._recent else [])
        images, good, skipped = {}, np.ones(len(samples), bool), 0
        for kind in kinds:
            images[kind], fine = self._store.take(getattr(picks, kind))
            good &= fine
        for attempt in range(1, _ATTEMPTS + 1):
            (again,) = np.nonzero(~good)
            if not len(again):
                break
            skipped += len(again)
            drawn = self._sampler.pick(samples[again], attempt)
            for name in [f.name for f in fields(Picks)]:
                getattr(picks, name)[again] = getattr(drawn, name)
            good[again] = True
            for kind in kinds:
                taken, fine = self._store.take(getattr(drawn, kind))
                images[kind][torch.from_numpy(again).to(taken.device)] = taken
                good[again] &= fine
        else:
            named = "; ".join(list(self._store.unreadable.values())[:3])
            raise ValueError(f"{_ATTEMPTS} draws in a row for one sample could not be read: {named}")
        if self._device.type == "cuda":
            images = {kind: taken if taken.is_cuda else taken.pin_memory() for kind, taken in images.items()}
        crops = Crops(images["template"], images.get("recent"), images["search"])
        return Batch(samples, picks, self._viewer.plan(samples, picks), crops, skipped)

    def run(self, first: int, end: int) -> Iterator[Batch]:
        """Batches of the steps from `first` to before `end`, on the device."""
        if not self.workers:
            yield from (self._on_device(self.make(step)) for step in range(first, end))
            return
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="batch")
        ahead: deque[Future[Batch]] = deque()
        try:
            for step in range(first, end):
                while len(ahead) <= self.workers and step + len(ahead) < end:
                    ahead.append(pool.submit(self.make, step + len(ahead)))
                yield self._on_device(ahead.popleft().result())
        finally:
            pool.shutdown(cancel_futures=True)

    def _on_device(self, batch: Batch) -> Batch:
        crops = batch.crops
        moved = [None if t is None else t.to(self._device, non_blocking=True) for t in _parts(crops)]
        return replace(batch, crops=Crops(*moved))


def _parts(crops: Crops) -> tuple[Tensor, Tensor | None, Tensor]:
    return crops.template, crops.recent, crops.search
