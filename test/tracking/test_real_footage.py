"""The shipped network on real footage, where there is some."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from ros2_tracker.evaluation.metrics import agreement
from ros2_tracker.evaluation.sequences import open_frames
from ros2_tracker.tracking.network import TrackingNetwork
from ros2_tracker.tracking.result import TrackState
from ros2_tracker.tracking.tracker import Tracker


@pytest.mark.parametrize("name", ["otb_Singer1"])
def test_sequence_is_followed(network: TrackingNetwork, sequences: Path, name: str):
    source = open_frames(sequences / name)
    tracker = Tracker(network)
    boxes: list = []
    states: list[TrackState] = []
    for image in source:
        if not boxes:
            tracker.init(image, source.ground_truth[0])
            boxes.append(tuple(source.ground_truth[0]))
            continue
        result = tracker.update(image)
        boxes.append(result.box or (math.nan,) * 4)
        states.append(result.state)
    assert len(boxes) == len(source)
    assert agreement(np.array(boxes), source.ground_truth).mean_iou >= 0.5
    assert np.mean([state is TrackState.TRACKING for state in states]) > 0.8


def test_every_sequence_opens(sequences: Path):
    for folder in sorted(sequences.iterdir()):
        source = open_frames(folder)
        assert len(source) > 0
        assert source.ground_truth.shape == (len(source), 4)
        assert np.isfinite(source.ground_truth[0]).all()
