"""Run trackers over the sequences of a dataset, in one process or several, and keep every finished run on disk."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from ros2_tracker.evaluation.datasets import AnnotatedSequence, Dataset, LeftOut
from ros2_tracker.evaluation.disappearance import Kind, make_disappearances
from ros2_tracker.evaluation.metrics import overlap
from ros2_tracker.evaluation.onepass import Progress, one_pass
from ros2_tracker.evaluation.peers import SequenceTracker, TrackerSpec
from ros2_tracker.evaluation.results import FrameRecord, read_records, write_records
from ros2_tracker.evaluation.robustness import run_with_restarts
from ros2_tracker.evaluation.streaming import stream
from ros2_tracker.tracking.tracker import ASSUMED_FRAME_PERIOD_S

ONE_PASS, RESTARTS, STREAMING = "one-pass", "restarts", "streaming"
DISAPPEARANCE = "disappearance"


@dataclass(frozen=True, slots=True)
class Mode:
    """How sequences are played to a tracker."""

    kind: str
    fps: float = 1.0 / ASSUMED_FRAME_PERIOD_S
    """Of the camera in a streaming run, else of the footage: what is in seconds in our tracker depends on it."""
    latency_s: float | None = None
    """Streaming: how long an update takes; None measures."""
    per_sequence: int = len(Kind)
    """Disappearance: how many are made of each sequence."""

    @property
    def name(self) -> str:
        """In tables and in names of folders."""
        if self.kind != STREAMING:
            return self.kind
        return f"{self.kind}-{self.fps:g}hz" + ("" if self.latency_s is None else f"-{1e3 * self.latency_s:g}ms")

    def play(self, tracker: SequenceTracker, sequence: AnnotatedSequence, progress: Progress) -> list[FrameRecord]:
        """Run one sequence; errors as those of `one_pass`."""
        if self.kind == RESTARTS:
            return run_with_restarts(tracker, sequence, self.fps, progress)
        if self.kind == STREAMING:
            return stream(tracker, sequence, self.fps, self.latency_s, progress)
        return one_pass(tracker, sequence, self.fps, progress)


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One tracker over one sequence."""

    tracker: str
    mode: str
    sequence: AnnotatedSequence
    records: list[FrameRecord]
    size: tuple[int, int]
    """Width and height of the images, px."""
    description: str
    """What ran."""


class Failure(NamedTuple):
    """A run that came to nothing."""

    tracker: str
    mode: str
    sequence: str
    reason: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that was run."""

    runs: list[Run] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    reused: int = 0
    """Runs that were found on disk."""
    played: dict[str, Sequence[AnnotatedSequence]] = field(default_factory=dict)
    """Mode -> its sequences, in order: those of the dataset, or made from them."""
    not_made: list[LeftOut] = field(default_factory=list)
    """Disappearances that a sequence does not allow."""


class _Job(NamedTuple):
    spec: TrackerSpec
    mode: Mode
    sequence: AnnotatedSequence
    fingerprint: dict[str, Any]


def evaluate(
    dataset: Dataset,
    specs: Sequence[TrackerSpec],
    modes: Sequence[Mode],
    store: Path | None = None,
    processes: int = 1,
    seed: int = 0,
) -> Outcome:
    """Run every tracker over every sequence in every mode, with a progress bar on stderr.

    Trackers take turns sequence by sequence, so that a machine that slows down slows all of them. Runs that `store`
    holds with the same tracker, footage, mode and seed are taken from there; others are written there as they finish.

    Args:
        dataset: at least one sequence.
        specs: trackers with different names.
        modes: at least one.
        store: folder for a table a run; None keeps nothing.
        processes: how many work at once; each has its share of the cores.
        seed: of OpenCV's random numbers, at the beginning of each sequence, and of made disappearances.

    Raises:
        ValueError: two trackers of the same name, or one that cannot be loaded.
        OSError, EngineError: as `TrackerSpec.load`.

    """
    names = [spec.name for spec in specs]
    if len(set(names)) != len(names):
        raise ValueError(f"trackers must have different names, got {', '.join(names)}")
    outcome, jobs = Outcome(), []
    reused = 0
    prints = {spec.name: {**spec.fingerprint(), "seed": seed} for spec in specs}
    for mode, sequence, digest in _footage(dataset, modes, seed, outcome):
        for spec in specs:
            wanted = {**prints[spec.name], "footage": digest, "mode": mode.name, "fps": mode.fps}
            job = _Job(spec, mode, sequence, json.loads(json.dumps(wanted)))
            stored = _stored(store, job)
            if stored is None:
                jobs.append(job)
            else:
                outcome.runs.append(stored)
                reused += 1
    threads = 0 if processes == 1 else max(len(os.sched_getaffinity(0)) // processes, 1)
    total = sum(len(job.sequence) for job in jobs)
    with tqdm(total=total, unit="frame", desc="eval", disable=None, leave=False, smoothing=0.05) as bar:
        for result in _results(jobs, processes, threads, seed, bar.update):
            if isinstance(result, Failure):
                outcome.failures.append(result)
                continue
            job, run = result
            if store is not None:
                _keep(store, job, run)
            outcome.runs.append(run)
    return replace(outcome, reused=reused)


def _footage(
    dataset: Dataset, modes: Sequence[Mode], seed: int, outcome: Outcome
) -> Iterator[tuple[Mode, AnnotatedSequence, str]]:
    """What is played in which mode, with its digest; noted in `outcome`, too."""
    for mode in modes:
        outcome.played[mode.name] = dataset.sequences
        if mode.kind == DISAPPEARANCE:
            made, missing = make_disappearances(dataset.sequences, seed, mode.per_sequence, mode.fps)
            outcome.played[mode.name] = made
            outcome.not_made.extend(missing)
    for sequence in dataset.sequences:
        digest = sequence.digest()
        yield from ((mode, sequence, digest) for mode in modes if mode.kind != DISAPPEARANCE)
    for mode in modes:
        if mode.kind == DISAPPEARANCE:
            yield from ((mode, sequence, sequence.digest()) for sequence in outcome.played[mode.name])


def _results(
    jobs: Sequence[_Job], processes: int, threads: int, seed: int, progress: Callable[[int], object]
) -> Iterator[tuple[_Job, Run] | Failure]:
    """Do the jobs; in other processes the progress comes with the end of each."""
    if processes == 1:
        loaded: dict[TrackerSpec, SequenceTracker] = {}
        for job in jobs:
            yield _do(job, threads, seed, progress, loaded)
        return
    others = set(multiprocessing.active_children())
    # spawn: a forked child would inherit the locks of OpenCV's and the engine's threads.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _prepare, (threads,)) as pool:
        waiting = {pool.submit(_do, job, threads, seed): job for job in jobs}
        try:
            for done in as_completed(waiting):
                yield done.result()
                progress(len(waiting[done].sequence))
        except BrokenProcessPool as error:
            raise OSError("a worker process died; with --processes 1 the last lines say where") from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            # Leaving the pool waits for its workers, and a sequence can take many minutes.
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()
            raise


def _prepare(threads: int) -> None:
    """What a worker process is set to before its first job."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the parent, which ends its workers
    if hasattr(cv2, "setLogLevel"):
        cv2.setLogLevel(0)  # files that cannot be read are reported by us
    cv2.setNumThreads(threads)


# Of a worker process: loading takes longer than many a sequence.
_loaded: dict[TrackerSpec, SequenceTracker] = {}


def _do(
    job: _Job,
    threads: int,
    seed: int,
    progress: Progress = lambda frames: None,
    loaded: dict[TrackerSpec, SequenceTracker] | None = None,
) -> tuple[_Job, Run] | Failure:
    loaded = _loaded if loaded is None else loaded
    if job.spec not in loaded:
        loaded[job.spec] = job.spec.load(threads)
    tracker = loaded[job.spec]
    cv2.setRNGSeed(seed)
    try:
        height, width = job.sequence.image(0).shape[:2]
        records = job.mode.play(tracker, job.sequence, progress)
    except (ValueError, FloatingPointError) as error:
        return Failure(job.spec.name, job.mode.name, job.sequence.name, " ".join(str(error).split()))
    run = Run(job.spec.name, job.mode.name, job.sequence, records, (width, height), tracker.description)
    return job, run


# -- what is kept ------------------------------------------------------------------------------------------------------


def record_file(store: Path, mode: str, tracker: str, sequence: str) -> Path:
    """Where the frames of a run are kept: `MODE/TRACKER/SEQUENCE.csv`, and what it was a run of in `….json`."""
    return store / mode / _as_name(tracker) / f"{_as_name(sequence)}.csv"


def _as_name(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", text)


def _keep(store: Path, job: _Job, run: Run) -> None:
    file = record_file(store, run.mode, run.tracker, run.sequence.name)
    file.parent.mkdir(parents=True, exist_ok=True)
    note = file.with_suffix(".json")
    note.unlink(missing_ok=True)  # the table before it may be of another tracker
    boxes = np.array([record.box or (np.nan,) * 4 for record in run.records], np.float64)
    truth = np.where(run.sequence.scorable[:, None], run.sequence.truth, np.nan)
    write_records(file, run.records, overlap(boxes, truth), run.sequence.absent)
    partial = note.with_name(note.name + ".part")
    content = {"of": job.fingerprint, "size": run.size, "description": run.description}
    partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
    partial.replace(note)


def _stored(store: Path | None, job: _Job) -> Run | None:
    """The run of an earlier call, if it was of the same; anything else is done again."""
    if store is None:
        return None
    file = record_file(store, job.mode.name, job.spec.name, job.sequence.name)
    try:
        note = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
        if note["of"] != job.fingerprint:
            return None
        records = read_records(file)
        size = (int(note["size"][0]), int(note["size"][1]))
        description = str(note["description"])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None
    if len(records) != len(job.sequence):
        return None
    return Run(job.spec.name, job.mode.name, job.sequence, records, size, description)
