"""The loop: one step after the other, checkpoints in between, so that a kill at any moment loses nothing but time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np
import torch
import yaml
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from ros2_tracker.training.config import TrainingConfig
from ros2_tracker.training.counter import Stream, integer
from ros2_tracker.training.curves import CURVES, Curves
from ros2_tracker.training.loader import Batch
from ros2_tracker.training.optimizer import learning_rate, set_learning_rate
from ros2_tracker.training.processes import Processes, join
from ros2_tracker.training.setup import Parts, prepare
from ros2_tracker.training.state import (
    CHECKPOINT,
    WEIGHTS,
    Progress,
    load_checkpoint,
    put_in_place,
    restore,
    save_checkpoint,
    write_tensors,
)

# Losses of so many samples are named when training stops.
_NAMED = 4


class TrainingError(ValueError):
    """Training cannot go on; the text says at which step and why."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    progress: Progress
    weights: Path
    stopped_by: int | None
    """Signal that ended it early."""
    unreadable: tuple[str, ...]
    """Crops that were drawn and could not be read."""
    left_out: tuple[str, ...]
    """Entries of the data that are not used."""
    leads: bool
    """Whether this process speaks for the run."""


def train(config: TrainingConfig, resume: bool = False, say: Callable[[str], None] = print) -> Outcome:
    """Train, or go on with the run in the config's output folder.

    Args:
        config: of the run.
        resume: go on where the checkpoint in the output folder is; without one, start.
        say: told what is worth knowing, a line at a time.

    Raises:
        ValueError: the config does not fit the data, the network or the run that is gone on with.
        TrainingError: too many steps in a row without a finite loss.

    """
    processes = join(config.device)
    try:
        with _deterministic(config.deterministic):
            run = _Run(config, processes, resume, say if processes.leads else _silent)
            try:
                return run.finish()
            finally:
                run.close()
                del run
    finally:
        processes.leave()


def _silent(text: str) -> None:
    del text


class _Run:
    """One process's share of a run."""

    def __init__(self, config: TrainingConfig, processes: Processes, resume: bool, say: Callable[[str], None]) -> None:
        self._config, self._processes, self._say = config, processes, say
        self._folder = Path(config.output)
        started = (self._folder / CHECKPOINT).is_file()
        if started and not resume:
            raise ValueError(f"{self._folder} holds a run already: go on with --resume, or name another --output")
        self._parts: Parts = prepare(config, processes, say)
        self._progress = Progress()
        if started:
            self._go_on()
        self._folder.mkdir(parents=True, exist_ok=True)
        columns = ["step", *self._parts.objective.losses, "total", "learning_rate", "images_per_second", "mean_iou"]
        columns += ["skipped_crops", "unused_samples", "skipped_steps", "seconds"]
        self._curves = None
        if processes.leads:
            self._curves = Curves(self._folder / CURVES, columns, self._progress.step)
            copy = self._folder / ".config.yaml.part"
            copy.write_text(yaml.safe_dump(config.as_dict(), sort_keys=False), encoding="utf-8")
            put_in_place(copy, self._folder / "config.yaml")
        wrapped: torch.nn.Module = self._parts.trainee
        if processes.world > 1:
            ids = [processes.device.index] if processes.device.type == "cuda" else None
            wrapped = DistributedDataParallel(self._parts.trainee, device_ids=ids)
        self._trainee = wrapped
        self._signal: int | None = None

    def _go_on(self) -> None:
        tensors, progress, identity = load_checkpoint(self._folder)
        differences = self._config.differences(identity["config"])
        if identity["data"] != self._parts.library.digest():
            differences.append("the data have other crops than before")
        if identity["world"] != self._processes.world:
            differences.append(f"the run had {identity['world']} processes, has {self._processes.world}")
        if differences:
            raise ValueError(f"{self._folder}: not the run that is gone on with: {'; '.join(differences)}")
        parts = self._parts
        restore(tensors, parts.trainee.network, parts.average.network, parts.optimizer, parts.learning)
        self._progress = progress
        self._say(f"going on at step {progress.step} of {self._config.optimizer.steps}")

    def finish(self) -> Outcome:
        """All steps that are left, or those before a signal."""
        config, progress, parts = self._config, self._progress, self._parts
        saved = time.monotonic()
        steps = config.optimizer.steps
        batches = parts.batches.run(progress.step, steps)
        bar = tqdm(
            total=steps,
            initial=progress.step,
            unit="step",
            disable=None if self._processes.leads else True,
            leave=False,
        )
        before = time.monotonic()
        with _signals(self._caught), closing(batches), bar:
            for batch in batches:
                losses, stop = self._step(batch)
                progress.seconds += time.monotonic() - before
                self._report(losses, bar)
                if stop:
                    break
                if time.monotonic() - saved >= config.checkpoint_seconds:
                    self._save()
                    saved = time.monotonic()
                before = time.monotonic()
        self._save()
        return Outcome(
            progress,
            self._folder / WEIGHTS,
            self._signal if progress.step < steps else None,
            tuple(parts.store.unreadable.values()),
            tuple(parts.library.left_out),
            self._processes.leads,
        )

    def close(self) -> None:
        """Close the files."""
        if self._curves is not None:
            self._curves.close()

    def _step(self, batch: Batch) -> tuple[dict[str, float] | None, bool]:
        """One step; its losses, or None where they were not finite, and whether to stop now."""
        config, parts, progress, processes = self._config, self._parts, self._progress, self._processes
        rate = learning_rate(progress.step, config.optimizer)
        set_learning_rate(parts.optimizer, rate)
        # Drop-path and the like: the same numbers whether or not the run was interrupted.
        torch.manual_seed(integer(config.seed, Stream.STEP, progress.step * processes.world + processes.rank))
        views = parts.viewer.views(batch.plan, batch.crops)
        parts.statistics.keep()
        losses: Mapping[str, Tensor] = self._trainee(views)
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(parts.learning.values(), config.optimizer.clip_norm)
        fine = torch.isfinite(total) & torch.isfinite(norm)
        go_on = torch.tensor(self._signal is None, device=fine.device)
        finite, goes_on = (bool(v) for v in processes.all_agree(torch.stack([fine, go_on])).tolist())
        if finite:
            parts.optimizer.step()
            parts.average.update(progress.step)
            progress.bad_in_a_row = 0
        else:
            parts.statistics.forget_batch()
            progress.skipped_steps += 1
            progress.bad_in_a_row += 1
        parts.optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        skipped, unused = processes.total([batch.skipped, int((~batch.plan.used).sum())])
        progress.skipped_crops += skipped
        progress.unused_samples += unused
        values = {name: float(value.detach()) for name, value in losses.items()}
        if not finite:
            self._complain(batch, values, float(norm))
        return values if finite else None, not goes_on

    def _complain(self, batch: Batch, losses: dict[str, float], norm: float) -> None:
        """Say which samples had no finite loss; TrainingError after too many steps in a row."""
        progress = self._progress
        shown = ", ".join(f"{name} {value:g}" for name, value in losses.items())
        library = self._parts.library
        some = [
            f"{sample} ({library.describe(a)} -> {library.describe(b)})"
            for sample, a, b in zip(batch.samples[:_NAMED], batch.picks.template, batch.picks.search, strict=False)
        ]
        samples = f"samples {batch.samples[0]}..{batch.samples[-1]}: {', '.join(some)}, ..."
        text = f"step {progress.step - 1}: loss or gradient is not finite ({shown}, gradient {norm:g}); {samples}"
        if progress.bad_in_a_row < self._config.bad_steps:
            self._say(f"{text}: skipped")
            return
        raise TrainingError(f"stopped after {progress.bad_in_a_row} such steps in a row: {text}")

    def _report(self, losses: dict[str, float] | None, bar: tqdm) -> None:
        """Add to the curves; a row every few steps, validation where it is due."""
        config, progress, parts = self._config, self._progress, self._parts
        if losses is not None:
            progress.window_steps += 1
            for name, value in losses.items():
                progress.window[name] = progress.window.get(name, 0.0) + value
        bar.update()
        every = config.validation.every
        last = progress.step == config.optimizer.steps
        if parts.validation is not None and (progress.step % every == 0 or last) and self._processes.leads:
            device = self._processes.device
            progress.mean_iou = parts.validation.mean_iou(parts.trainee, parts.average.network, device)
        if progress.step % config.log_every and not last:
            return
        means = {n: progress.window.get(n, np.nan) / max(progress.window_steps, 1) for n in parts.objective.losses}
        total = sum(means.values())
        rate = learning_rate(progress.step - 1, config.optimizer)
        seconds = max(progress.seconds - progress.row_seconds, 1e-9)
        images = config.optimizer.batch * (progress.step - progress.row_step) / seconds
        progress.row_step, progress.row_seconds = progress.step, progress.seconds
        progress.window, progress.window_steps = {}, 0
        iou = "" if progress.mean_iou is None else progress.mean_iou
        counts = (progress.skipped_crops, progress.unused_samples, progress.skipped_steps)
        if self._curves is not None:
            row = (progress.step, *means.values(), total, rate, images, iou, *counts, progress.seconds)
            self._curves.add(row)
        bar.set_postfix_str(
            f"loss {total:.3f}, IoU {iou if iou == '' else f'{iou:.3f}'}, {images:.0f}/s", refresh=False
        )

    def _save(self) -> None:
        """Write curves, then the checkpoint, then the weights: what a checkpoint counts is on the disk before it."""
        if self._curves is None:
            return
        config, parts, progress = self._config, self._parts, self._progress
        self._curves.sync()
        identity = {
            "config": config.as_dict(),
            "data": parts.library.digest(),
            "world": self._processes.world,
        }
        network, average = parts.trainee.network, parts.average.network
        save_checkpoint(self._folder, network, average, parts.optimizer, parts.learning, progress, identity)
        told = {"variant": config.model, "config": config.digest(), "steps": str(progress.step)}
        write_tensors(self._folder / WEIGHTS, average.state_dict(), told)

    def _caught(self, number: int) -> None:
        self._signal = number


@contextmanager
def _signals(caught: Callable[[int], None]) -> Iterator[None]:
    """SIGINT and SIGTERM end the run after its step; the second one at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        caught(number)
        signal.signal(number, before[number])

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    """On CUDA, only kernels without a choice of order; on a CPU, no denormal numbers."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, fill = torch.backends.cudnn.benchmark, torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(wanted, warn_only=True)
    torch.backends.cudnn.benchmark = not wanted
    torch.utils.deterministic.fill_uninitialized_memory = False  # batches are filled anyway
    # Early gradients of narrow attentions are denormal, which makes CPUs many times slower.
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.set_flush_denormal(False)
        torch.backends.cudnn.benchmark = benchmark
        torch.utils.deterministic.fill_uninitialized_memory = fill
