"""`ros2-tracker calibrate`: from the command's arguments to runs, a fit, a table and a file."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import ros2_tracker
from ros2_tracker.engines.load import EngineSettings
from ros2_tracker.evaluation.calibrate import Calibrated, Quality, Samples, calibrate, quality, samples_of
from ros2_tracker.evaluation.datasets import load_dataset
from ros2_tracker.evaluation.disappearance import MadeSequence
from ros2_tracker.evaluation.peers import TrackerSpec, our_spec
from ros2_tracker.evaluation.run import DISAPPEARANCE, ONE_PASS, Mode, Run, evaluate
from ros2_tracker.models.variant import load_variant, user_weights_dir
from ros2_tracker.tracking.reliability import ReliabilityModel
from ros2_tracker.tracking.settings import default_settings


@dataclass(frozen=True, slots=True)
class Report:
    """What the command found."""

    file: Path
    frames: int
    good: float
    """Share of the frames, weighted."""
    left_out: dict[str, dict[str, Quality]]
    """Footage -> kind of probability -> how good it is on clips left out of the fit."""
    chosen: dict[str, int]
    """Signal -> in how many folds it was chosen."""
    model: ReliabilityModel

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        table = {f: {kind: q._asdict() for kind, q in rows.items()} for f, rows in self.left_out.items()}
        return {
            "file": str(self.file),
            "frames": self.frames,
            "good": self.good,
            "left_out": table,
            "chosen_in_folds": self.chosen,
            "model": self.model.as_dict(),
        }

    def as_text(self) -> str:
        """For a terminal."""
        lines = [f"{'on clips left out':<38}{'AUROC':>8}{'ECE':>8}{'Brier':>8}{'log loss':>10}"]
        for footage, rows in self.left_out.items():
            for kind, q in rows.items():
                name = f"{footage}: {kind}"
                lines.append(f"{name:<38}{q.auroc:8.4f}{q.ece:8.4f}{q.brier:8.4f}{q.log_loss:10.4f}")
        lines += ["", f"log odds = {self.model.bias:+.3f}"]
        for t in self.model.terms:
            signal = t.signal if t.transform == "linear" else f"{t.transform}({t.signal})"
            cut = f"cut at {t.low:.3g} and {t.high:.3g}"
            lines.append(f"  {t.weight:+9.3f} {signal:<24} {cut}; chosen in {self.chosen.get(t.signal, 0)} folds")
        return "\n".join([*lines, "", f"{self.frames} frames, {self.good:.0%} good by weight; written to {self.file}"])


def run(arguments: argparse.Namespace, settings: EngineSettings) -> int:
    """Do it all; returns the exit status.

    Raises:
        ValueError, OSError, EngineError: with what is wrong, one line.

    """
    try:
        import scipy  # noqa: F401
    except ImportError as error:
        raise OSError(f"fitting needs scipy: `pip install 'ros2-tracker[eval]'` ({error})") from error
    variant = load_variant(arguments.model)
    file = arguments.output or user_weights_dir() / f"{variant.name}.reliability.json"
    spec = our_spec(arguments.model, settings)
    dataset = load_dataset(Path(arguments.dataset), arguments.format, arguments.sequences)
    modes = [Mode(ONE_PASS, arguments.fps)]
    if arguments.disappearances:
        modes.append(Mode(DISAPPEARANCE, arguments.fps, per_sequence=arguments.disappearances))
    outcome = evaluate(dataset, [spec], modes, arguments.store, arguments.processes)
    for name, reason in [*dataset.left_out, *outcome.not_made, *((f.sequence, f.reason) for f in outcome.failures)]:
        print(f"ros2-tracker calibrate: {name} is left out: {reason}", file=sys.stderr)
    samples = samples_of(outcome.runs, default_settings(variant).reliability.frozen_after)
    calibrated = calibrate(samples, arguments.folds, arguments.signals)
    table = _table(samples, calibrated)
    provenance = _provenance(arguments, dataset.name, spec, outcome.runs, samples, table)
    model = ReliabilityModel(calibrated.model.bias, calibrated.model.terms, calibrated=True, provenance=provenance)
    chosen = Counter(name for names in calibrated.chosen for name in names)
    good = float(samples.weight @ samples.good)
    _write(file, model)
    report = Report(file, len(samples), good, table, dict(chosen), model)
    print(json.dumps(report.as_dict(), indent=1) if arguments.json else report.as_text())
    return 0


def _table(samples: Samples, calibrated: Calibrated) -> dict[str, dict[str, Quality]]:
    parts: dict[str, NDArray[np.bool_]] = {"all": np.ones(len(samples), bool)}
    if samples.made.any() and not samples.made.all():
        parts |= {"as taken": ~samples.made, "made": samples.made}
    kinds = {
        "raw score": np.clip(samples.score, 0.0, 1.0),
        "raw score, fitted": calibrated.score_alone,
        "reliability": calibrated.probability,
    }
    return {
        footage: {kind: quality(p[part], samples.good[part], samples.weight[part]) for kind, p in kinds.items()}
        for footage, part in parts.items()
    }


def _provenance(
    arguments: argparse.Namespace,
    dataset: str,
    spec: TrackerSpec,
    runs: list[Run],
    samples: Samples,
    table: dict[str, dict[str, Quality]],
) -> dict[str, Any]:
    """What someone who meets the file later must know."""
    weights = {name: digest for name, digest in spec.fingerprint()["weights"].items() if not name.endswith(".json")}
    figures = {kind: {k: round(v, 4) for k, v in q._asdict().items()} for kind, q in table["all"].items()}
    return {
        "note": arguments.note,
        "model": load_variant(arguments.model).name,
        "weights_sha256": weights,
        "ran_on": runs[0].description,
        "package": f"ros2_tracker {ros2_tracker.__version__}",
        "date": datetime.now(timezone.utc).date().isoformat(),
        "dataset": dataset,
        "clips": list(samples.clips),
        "made_disappearances": sum(isinstance(run.sequence, MadeSequence) for run in runs),
        "frames": len(samples),
        "folds": arguments.folds,
        "clips_left_out": figures,
    }


def _write(file: Path, model: ReliabilityModel) -> None:
    """All of it or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".part")
    partial.write_text(json.dumps(model.as_dict(), indent=1) + "\n", encoding="utf-8")
    partial.replace(file)
