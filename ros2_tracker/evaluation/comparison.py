"""All trackers of an evaluation side by side: figures, a table for the terminal, and JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ros2_tracker.evaluation.bench import machine_description
from ros2_tracker.evaluation.datasets import AnnotatedSequence, Dataset, LeftOut
from ros2_tracker.evaluation.disappearance import MadeSequence
from ros2_tracker.evaluation.reliability_summary import ReliabilitySummary, summarize_reliability
from ros2_tracker.evaluation.reliability_tables import as_text
from ros2_tracker.evaluation.results import FrameEvent
from ros2_tracker.evaluation.robustness import RestartRun, Robustness, region_overlap, robustness
from ros2_tracker.evaluation.run import DISAPPEARANCE, ONE_PASS, RESTARTS, Failure, Outcome, Run
from ros2_tracker.evaluation.scoring import SequenceScore, Summary, score_sequence, summarize

SCORE_TITLES = {
    "success_auc": "AUC",
    "precision": "P20",
    "normalized_precision": "normP",
    "ao": "AO",
    "sr50": "SR50",
    "sr75": "SR75",
    "nt2f20": "NT2F.2",
    "nt2f50": "NT2F.5",
    "ms": "ms",
}


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One tracker in one mode."""

    tracker: str
    runs: list[Run]
    scores: list[SequenceScore]
    """In the order of the runs."""
    summary: Summary
    robustness: Robustness | None
    """Only of restart runs, which have no other figures of their own."""


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """What came out of an evaluation."""

    dataset: Dataset
    machine: dict[str, Any]
    trackers: dict[str, str]
    """Name -> what ran."""
    modes: dict[str, list[Entry]]
    left_out: list[LeftOut]
    """Sequences in no figure, because they are broken or a tracker could not run them."""
    note: str = ""
    """The caller's own words on the dataset."""
    reliability: list[ReliabilitySummary] = field(default_factory=list)
    """Of each tracker on each kind of footage, and on all of it; empty when it was not asked for."""
    not_made: list[LeftOut] = field(default_factory=list)
    """Disappearances that could not be made."""
    fps: float = np.nan
    """Of the footage, Hz; NaN where no figure depends on it."""

    @property
    def remarks(self) -> list[str]:
        """What a reader has to know about these figures, a sentence each."""
        summary = next(iter(self.modes.values()))[0].summary
        remarks = [
            f"{summary.sequences} sequences in the layout of {self.dataset.format}, {summary.frames} frames, "
            f"{summary.absent} of them without the target; {self.dataset.convention.text}."
        ]
        if summary.outside:
            remarks.append(f"{summary.outside} frames whose true box lies outside the image are not counted.")
        if self.left_out:
            remarks.append(f"{len(self.left_out)} sequences are left out of every figure.")
        remarks.append(
            "Means over sequences. A tracker that says LOST is scored by its best guess even so, or by its last box "
            "where it gives none, because benchmarks want a box in every frame."
        )
        if DISAPPEARANCE in self.modes:
            made = self.modes[DISAPPEARANCE][0].summary
            remarks.append(
                f"{made.sequences} sequences of {made.frames} frames are made from these, in each of which the target "
                "disappears once; where the footage is too short, it is played forth and back."
            )
        if self.not_made:
            names = ", ".join(name for name, _ in self.not_made)
            remarks.append(f"{len(self.not_made)} disappearances could not be made: {names}.")
        return [self.note, *remarks] if self.note else remarks

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON; what cannot be said is null."""
        return _plain(
            {
                "dataset": self.dataset.name,
                "format": self.dataset.format,
                "remarks": self.remarks,
                "machine": self.machine,
                "trackers": self.trackers,
                "left_out": [entry._asdict() for entry in self.left_out],
                "not_made": [entry._asdict() for entry in self.not_made],
                "modes": {
                    mode: {entry.tracker: _entry_dict(entry) for entry in entries}
                    for mode, entries in self.modes.items()
                },
                "reliability": self._reliability_dict(),
            }
        )

    def _reliability_dict(self) -> dict[str, dict[str, Any]]:
        """Footage -> tracker -> figures."""
        footage: dict[str, dict[str, Any]] = {}
        for summary in self.reliability:
            footage.setdefault(summary.footage, {})[summary.tracker] = summary.as_dict()
        return footage

    def as_text(self) -> str:
        """For a terminal."""
        lines = [*self.remarks]
        for mode, entries in self.modes.items():
            width = max(len(mode), *(len(entry.tracker) for entry in entries)) + 2
            if entries[0].robustness is not None:
                lines += ["", f"{mode:<{width}}{'accuracy':>10}{'failures':>10}{'per 100':>10}{'EAO':>8}"]
                for entry in entries:
                    r = entry.robustness
                    if r is not None:
                        numbers = f"{r.accuracy:10.3f}{r.failures:10d}{r.robustness:10.3f}{r.eao:8.3f}"
                        lines.append(f"{entry.tracker:<{width}}{numbers}")
                continue
            titles = "".join(f"{title:>8}" for title in SCORE_TITLES.values())
            lines += ["", f"{mode:<{width}}{titles}{'answered':>10}{'LOST':>7}{'right':>7}{'admitted':>10}"]
            for entry in entries:
                figures = "".join(f"{getattr(entry.summary.mean, name):8.3f}" for name in list(SCORE_TITLES)[:-1])
                s = entry.summary
                lines.append(
                    f"{entry.tracker:<{width}}{figures}{s.mean.ms:8.1f}{_share(s.answered, _asked(entry)):>10}"
                    f"{s.lost:>7}{_share(s.lost_right, s.lost):>7}{_share(s.lost_right, s.wrong):>10}"
                )
        lines += as_text(self.reliability)
        lines += [""] + [f"{name}: {what}" for name, what in self.trackers.items()]
        return "\n".join(lines)


def compare(
    dataset: Dataset, outcome: Outcome, trackers: Sequence[str], note: str = "", reliability_fps: float | None = None
) -> Comparison:
    """Score the runs. A sequence that one tracker failed on is left out for all of them, in that mode and the others.

    Args:
        dataset: what the runs are of.
        outcome: the runs.
        trackers: their names, in the order of the tables.
        note: the caller's own words on the dataset.
        reliability_fps: of the footage, Hz, to judge reliability and states, too; None: not asked for.

    Raises:
        ValueError: no sequence is left.

    """
    left_out = [*dataset.left_out, *(_left_out(failure) for failure in outcome.failures)]
    broken = {failure.sequence for failure in outcome.failures}

    def whole(mode: str) -> list[str]:
        played = outcome.played.get(mode, dataset.sequences)
        return [sequence.name for sequence in played if not {sequence.name, _origin(sequence)} & broken]

    played = dict.fromkeys(run.mode for run in outcome.runs)
    order = {mode: names for mode in played if (names := whole(mode))}
    if not any(mode != DISAPPEARANCE for mode in order):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out[:3])
        raise ValueError(f"{dataset.name}: no sequence could be evaluated ({reasons})")
    by_key = {(run.mode, run.tracker, run.sequence.name): run for run in outcome.runs}
    modes = {
        mode: [_entry(dataset, name, [by_key[mode, name, sequence] for sequence in names]) for name in trackers]
        for mode, names in order.items()
    }
    descriptions = {name: next(run.description for run in outcome.runs if run.tracker == name) for name in trackers}
    reliability = [] if reliability_fps is None else _reliability(modes, reliability_fps)
    fps = np.nan if reliability_fps is None else reliability_fps
    machine = machine_description()
    return Comparison(dataset, machine, descriptions, modes, left_out, note, reliability, outcome.not_made, fps)


def _origin(sequence: AnnotatedSequence) -> str:
    """Name of the footage that a sequence was made from, or its own."""
    return sequence.source.name if isinstance(sequence, MadeSequence) else sequence.name


def _reliability(modes: dict[str, list[Entry]], fps: float) -> list[ReliabilitySummary]:
    """Of each tracker on footage as it is, on made disappearances, and on both."""
    shown = {mode: modes[mode] for mode in (ONE_PASS, DISAPPEARANCE) if mode in modes}
    parts = {mode: [[entry] for entry in entries] for mode, entries in shown.items()}
    if len(shown) > 1:
        parts["all"] = [list(entries) for entries in zip(*shown.values(), strict=True)]
    return [
        summarize_reliability(
            entries[0].tracker,
            footage,
            [run for entry in entries for run in entry.runs],
            [score for entry in entries for score in entry.scores],
            fps,
        )
        for footage, trackers in parts.items()
        for entries in trackers
    ]


def _left_out(failure: Failure) -> LeftOut:
    return LeftOut(failure.sequence, f"{failure.tracker}, {failure.mode}: {failure.reason}")


def _entry(dataset: Dataset, tracker: str, runs: list[Run]) -> Entry:
    scores = [score_sequence(run.records, run.sequence, dataset.convention, run.size) for run in runs]
    restarted = None
    if runs[0].mode == RESTARTS:
        restarted = robustness([RestartRun([r.event for r in run.records], restart_overlaps(run)) for run in runs])
    return Entry(tracker, runs, scores, summarize(scores), restarted)


def restart_overlaps(run: Run) -> NDArray[np.float64]:
    """(N,) overlaps as the restart run judged them: with polygons where there are some, inside the image."""
    return np.array([region_overlap(r.box, run.sequence, i, *run.size) for i, r in enumerate(run.records)])


def failures_in(run: Run) -> int:
    """How often the tracker had to be started again, or would have been."""
    return sum(record.event is FrameEvent.FAILED for record in run.records)


def _entry_dict(entry: Entry) -> dict[str, Any]:
    s = entry.summary
    loss = {"lost": s.lost, "lost_right": s.lost_right, "wrong": s.wrong, "answered": s.answered}
    if entry.robustness is not None:
        failures = {run.sequence.name: {"failures": failures_in(run)} for run in entry.runs}
        return {**asdict(entry.robustness), **loss, "sequences": failures}
    pooled = {"ao_frames": s.ao_frames, "sr50_frames": s.sr50_frames, "sr75_frames": s.sr75_frames}
    curves = {"success": s.success, "precision": s.precision, "normalized": s.normalized}
    return {
        **asdict(s.mean),
        **pooled,
        "ms_p50": s.ms_p50,
        "ms_p99": s.ms_p99,
        **loss,
        "frames": s.frames,
        "outside": s.outside,
        "absent": s.absent,
        "curves": curves,
        "sequences": {score.sequence: _sequence_dict(score) for score in entry.scores},
    }


def _sequence_dict(score: SequenceScore) -> dict[str, Any]:
    names = ("frames", "outside", "absent", "answered", "lost", "lost_right", "wrong")
    return {**asdict(score.scores), **{name: getattr(score, name) for name in names}, "counted": score.counted.sum()}


def _plain(value: Any) -> Any:
    """Python's own types, and None for what is not finite."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _asked(entry: Entry) -> int:
    """Frames that came after a first one."""
    return entry.summary.frames - entry.summary.sequences


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"
