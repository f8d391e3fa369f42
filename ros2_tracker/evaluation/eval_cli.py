"""`ros2-tracker eval`: from the command's arguments to runs, figures and files."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ros2_tracker.engines.load import EngineSettings
from ros2_tracker.evaluation.comparison import Comparison, compare
from ros2_tracker.evaluation.datasets import load_dataset
from ros2_tracker.evaluation.disappearance import Kind
from ros2_tracker.evaluation.peers import our_spec, parse_peer
from ros2_tracker.evaluation.run import DISAPPEARANCE, ONE_PASS, RESTARTS, STREAMING, Mode, evaluate

FRAMES_FOLDER = "frames"
"""In the report's folder: the table of each run."""


def run(arguments: argparse.Namespace, settings: EngineSettings) -> int:
    """Do it all; returns the exit status: 1 when a sequence had to be left out.

    Raises:
        ValueError, OSError, EngineError: with what is wrong, one line.

    """
    if arguments.report is not None:
        from ros2_tracker.evaluation.plots import require_matplotlib

        require_matplotlib()  # before hours of work, not after
    ours = our_spec(arguments.model, settings, dict(arguments.set))
    specs = [ours, *(parse_peer(text, settings) for text in arguments.peer)]
    dataset = load_dataset(Path(arguments.dataset), arguments.format, arguments.sequences)
    store = None if arguments.report is None else arguments.report / FRAMES_FOLDER
    outcome = evaluate(dataset, specs, modes(arguments), store, arguments.processes, arguments.seed)
    if outcome.reused:
        print(f"ros2-tracker eval: {outcome.reused} runs taken from {store}", file=sys.stderr)
    fps = arguments.fps if arguments.reliability else None
    comparison = compare(dataset, outcome, [spec.name for spec in specs], arguments.note, fps)
    for name, reason in comparison.left_out:
        print(f"ros2-tracker eval: {name} is left out: {reason}", file=sys.stderr)
    _publish(comparison, arguments)
    return 1 if comparison.left_out else 0


def modes(arguments: argparse.Namespace) -> list[Mode]:
    """What is asked for: one pass always; restarts, streaming and made disappearances on demand."""
    asked = [Mode(ONE_PASS, arguments.fps)]
    if arguments.restarts:
        asked.append(Mode(RESTARTS, arguments.fps))
    if arguments.camera_fps is not None:
        latency_s = None if arguments.latency_ms is None else arguments.latency_ms / 1e3
        asked.append(Mode(STREAMING, arguments.camera_fps, latency_s))
    if arguments.reliability:
        asked.append(Mode(DISAPPEARANCE, arguments.fps, per_sequence=arguments.disappearances or len(Kind)))
    return asked


def _publish(comparison: Comparison, arguments: argparse.Namespace) -> None:
    text = json.dumps(comparison.as_dict(), indent=1)
    if arguments.json is None or str(arguments.json) != "-":
        print(comparison.as_text())
    else:
        print(text)
    if arguments.json is not None and str(arguments.json) != "-":
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(text + "\n", encoding="utf-8")
    if arguments.report is not None:
        from ros2_tracker.evaluation.report import write_report

        print(f"report: {write_report(comparison, arguments.report)}", file=sys.stderr)
