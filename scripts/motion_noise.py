#!/usr/bin/env python3
"""How well the motion model's predictions and their covariance fit what came, by its noise of acceleration, as JSON.

Goes over the boxes that an evaluation kept and predicts each target's centre 1, 3 and 6 frames ahead: share of the true
centres inside the 50 % and the 99 % ellipse, and mean distance from them in target sizes.

Example: ros2-tracker eval sequences --report report && python scripts/motion_noise.py report sequences --fps uav123=10
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ros2_tracker.evaluation.datasets import AnnotatedSequence, load_dataset
from ros2_tracker.evaluation.results import FrameRecord, read_records
from ros2_tracker.evaluation.run import ONE_PASS, record_file
from ros2_tracker.tracking import motion
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.result import TrackState
from ros2_tracker.tracking.settings import MotionSettings

_FRAMES_AHEAD = (1, 3, 6)
# Of the chi-squared distribution with two degrees of freedom.
_WITHIN = {"within_50": 1.386, "within_99": 9.210}
_DOUBTFUL = 0.4


def deviations(
    sequence: AnnotatedSequence, records: Sequence[FrameRecord], period: float, settings: MotionSettings
) -> dict[int, list[tuple[float, float]]]:
    """Frames ahead -> squared Mahalanobis distance and distance in sizes of each true centre from the predicted one."""
    found: dict[int, list[tuple[float, float]]] = {ahead: [] for ahead in _FRAMES_AHEAD}
    state = motion.initial_state(Box(*sequence.truth[0]), settings)
    for i, record in enumerate(records[1:], 1):
        state = motion.predict(state, period, settings)
        if record.box is None or record.state is TrackState.LOST:
            state = motion.initial_state(state.box, settings)
            continue
        box, reliability = Box(*record.box), 1.0 if record.reliability is None else record.reliability
        if reliability >= _DOUBTFUL:
            state = motion.correct(state, box, motion.measurement_noise(box, reliability, settings))
        if record.state is not TrackState.TRACKING:
            continue
        for ahead in _FRAMES_AHEAD:
            if i + ahead >= len(sequence) or not sequence.scorable[i + ahead]:
                continue
            truth = Box(*sequence.truth[i + ahead])
            expected = motion.predict(state, ahead * period, settings)
            x, y = truth.cx - expected.x.position, truth.cy - expected.y.position
            squared = x * x / expected.x.position_variance + y * y / expected.y.position_variance
            found[ahead].append((squared, math.hypot(x, y) / truth.size))
    return found


def main() -> None:
    """Print a table for each acceleration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="folder of `ros2-tracker eval --report`")
    parser.add_argument("dataset", type=Path, help="the sequences that it was of")
    parser.add_argument("--tracker", default="ours", help="whose boxes (default: ours)")
    parser.add_argument("--accelerations", type=float, nargs="+", default=[6.0, 12.0, 20.0, 30.0], metavar="A")
    parser.add_argument("--fps", nargs="*", default=[], metavar="NAME=HZ", help="of sequences so called; others: 30")
    arguments = parser.parse_args()
    rates = dict(each.split("=") for each in arguments.fps)

    runs = []
    for sequence in load_dataset(arguments.dataset).sequences:
        records = read_records(record_file(arguments.report / "frames", ONE_PASS, arguments.tracker, sequence.name))
        rate = next((float(hz) for start, hz in rates.items() if sequence.name.startswith(start)), 30.0)
        runs.append((sequence, records, 1.0 / rate))
    table = {}
    for acceleration in arguments.accelerations:
        settings, all_ = MotionSettings(acceleration=acceleration), {}
        each = [deviations(*run, settings) for run in runs]
        for ahead in _FRAMES_AHEAD:
            squared, sizes = np.array([pair for found in each for pair in found[ahead]]).T
            shares = {name: round(float(np.mean(squared < limit)), 3) for name, limit in _WITHIN.items()}
            all_[f"{ahead}_ahead"] = {**shares, "error_sizes": round(float(sizes.mean()), 3), "frames": len(sizes)}
        table[f"{acceleration:g}"] = all_
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
