"""The verb `train`: config and arguments in, one run, what became of it out."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from tqdm import tqdm

from ros2_tracker.training.config import TrainingConfig, load_config
from ros2_tracker.training.loop import Outcome, train

_SIGNALLED = 128
_LISTED = 5


def run(arguments: argparse.Namespace) -> int:
    """Train; exit status 0, or 128 and the signal's number when one ended the run early."""
    config = with_arguments(load_config(arguments.config), arguments)
    outcome = train(config, arguments.resume, say=_say)
    for text in outcome.unreadable[:_LISTED]:
        _say(f"could not be read: {text}")
    if outcome.leads:
        print(as_text(config, outcome))
    return _SIGNALLED + outcome.stopped_by if outcome.stopped_by else 0


def _say(text: str) -> None:
    """On stderr, above the progress bar."""
    tqdm.write(f"ros2-tracker train: {text}", file=sys.stderr)


def with_arguments(config: TrainingConfig, arguments: argparse.Namespace) -> TrainingConfig:
    """The config with what the command line says instead."""
    if arguments.data is not None:
        config = replace(config, data=replace(config.data, folder=str(arguments.data)))
    if arguments.output is not None:
        config = replace(config, output=str(arguments.output))
    if arguments.device is not None:
        config = replace(config, device=arguments.device)
    return config


def as_text(config: TrainingConfig, outcome: Outcome) -> str:
    """For people."""
    progress = outcome.progress
    done = f"{progress.step} of {config.optimizer.steps} steps"
    end = "interrupted, go on with --resume" if outcome.stopped_by else "done"
    iou = "" if progress.mean_iou is None else f", held-out mean IoU {progress.mean_iou:.3f}"
    counts = (
        (progress.skipped_crops, "draws of unreadable crops replaced"),
        (progress.unused_samples, "samples without a visible target left out"),
        (progress.skipped_steps, "steps without a finite loss skipped"),
        (len(outcome.left_out), "entries of the data left out"),
    )
    lines = [f"{outcome.weights}: {end} after {done}, {progress.seconds / 60:.1f} min{iou}"]
    lines += [f"{count} {what}" for count, what in counts if count]
    return "\n".join(lines)
