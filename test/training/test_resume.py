"""Killed at random moments and gone on with: the same weights, curves and counts as without interruption."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import narrow
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from safetensors.torch import load_file  # noqa: E402

from ros2_tracker.training.state import load_checkpoint  # noqa: E402

STEPS = 120
KILLS = 10
# Processes that start with torch imported.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["narrow", "ros2_tracker.training.cli"])


@pytest.fixture(scope="module")
def start(packs, tmp_path_factory):
    """Start a run into a folder."""
    variants = tmp_path_factory.mktemp("variants")
    config = tmp_path_factory.mktemp("config") / "config.json"
    settings = {
        "model": "narrow",
        "output": "unset",
        "device": "cpu",
        "seed": 11,
        "network": {"width": 8, "dropout": 0.2},
        "optimizer": {"steps": STEPS, "batch": 2, "warmup_steps": 5, "ema_decay": 0.9},
        "validation": {"every": 40, "pairs": 4},
        "data": {"folder": str(packs), "hold_out_share": 0.3, "workers": 1},
        "log_every": 3,
        "checkpoint_seconds": 0.1,
    }
    config.write_text(json.dumps(settings))

    def started(output):
        arguments = (variants, "train", str(config), "--resume", "--output", str(output))
        process = CONTEXT.Process(target=narrow.run, args=arguments, daemon=True)
        process.start()
        return process

    return started


@pytest.fixture(scope="module")
def uninterrupted(start, tmp_path_factory):
    output = tmp_path_factory.mktemp("uninterrupted") / "run"
    process = start(output)
    process.join(60)
    assert process.exitcode == 0
    return output


def step_of(output):
    """The last step in the curves, which are written as training goes on."""
    try:
        lines = (output / "curves.csv").read_text().splitlines()[1:]
        return int(lines[-1].split(",")[0]) if lines else 0
    except (OSError, ValueError):
        return 0


def learnt(output):
    """Rows of the curves without what depends on the clock."""
    with (output / "curves.csv").open(newline="") as stream:
        return [
            {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")}
            for row in csv.DictReader(stream)
        ]


def assert_equal_runs(output, expected):
    for name in ("weights.safetensors", "checkpoint.safetensors"):
        mine, theirs = load_file(output / name), load_file(expected / name)
        assert mine.keys() == theirs.keys()
        different = [key for key in theirs if not torch.equal(mine[key], theirs[key])]
        assert different == []
    assert learnt(output) == learnt(expected)
    (_, mine, _), (_, theirs, _) = load_checkpoint(output), load_checkpoint(expected)
    for name in ("step", "skipped_crops", "unused_samples", "skipped_steps", "mean_iou", "window"):
        assert getattr(mine, name) == getattr(theirs, name)


def test_ten_kills_change_nothing(start, uninterrupted, tmp_path):
    output = tmp_path / "run"
    chance = random.Random(time.time_ns())
    kills = []
    for kill in range(KILLS):
        process = start(output)
        # Anywhere: before the first step, between two, in the middle of one, while a file is written.
        until = chance.uniform(0.0, STEPS * (kill + 1) / (KILLS + 1))
        deadline = time.monotonic() + 20.0
        while process.is_alive() and step_of(output) < until and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(chance.uniform(0.0, 0.06))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        kills.append(step_of(output))
    last = start(output)
    last.join(60)
    assert last.exitcode == 0
    assert max(kills) > 0
    assert_equal_runs(output, uninterrupted)


def test_a_signal_ends_the_run_with_a_checkpoint(start, uninterrupted, tmp_path):
    output = tmp_path / "run"
    process = start(output)
    while process.is_alive() and step_of(output) < STEPS // 3:
        time.sleep(0.002)
    process.terminate()
    process.join(30)
    assert process.exitcode == 128 + signal.SIGTERM
    _, progress, _ = load_checkpoint(Path(output))
    assert STEPS // 3 <= progress.step < STEPS
    again = start(output)
    again.join(60)
    assert again.exitcode == 0
    assert_equal_runs(output, uninterrupted)
