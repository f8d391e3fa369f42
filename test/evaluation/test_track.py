"""Offline tracking with the tiny network."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from ros2_tracker.evaluation.sequences import open_frames
from ros2_tracker.evaluation.track import track_sequence
from ros2_tracker.tracking.geometry import BoxError
from ros2_tracker.tracking.network import TrackingNetwork
from ros2_tracker.tracking.tracker import Tracker

N = 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A blob that is gone in frames 15 to 29."""
    images = tmp_path / "clip" / "img"
    images.mkdir(parents=True)
    lines = []
    for i in range(N):
        # A camera that repeats one image is taken to be stuck.
        image = np.full((120, 160, 3), 40 + i % 3, np.uint8)
        if 15 <= i < 30:
            lines.append("nan,nan,nan,nan")
        else:
            image[50:70, 60:84] = 250
            lines.append("60,50,24,20")
        cv2.imwrite(str(images / f"{i + 1:04d}.png"), image)
    (images.parent / "groundtruth_rect.txt").write_text("\n".join(lines))
    return images.parent


def test_summary_and_files(blob_network: TrackingNetwork, folder: Path, tmp_path: Path):
    results, output = tmp_path / "out" / "tracks.csv", tmp_path / "out" / "overlay.mp4"
    summary = track_sequence(
        Tracker(blob_network), open_frames(folder), (60, 50, 24, 20), 20.0, results, output
    )
    assert (summary.sequence, summary.frames, summary.expected_frames) == ("clip", N, N)
    assert sum(summary.states.values()) == N
    assert summary.states["LOST"] > 0
    assert summary.agreement.frames == N - 15
    assert summary.agreement.mean_iou > 0.5
    assert json.loads(json.dumps(summary.as_dict()))["states"] == summary.states
    assert "mean IoU" in summary.as_text()

    with results.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert [int(row["frame"]) for row in rows] == list(range(N))
    assert [float(row["stamp"]) for row in rows] == pytest.approx([i / 20.0 for i in range(N)])
    for row in rows:
        assert (row["x"] == "") == (row["state"] == "LOST")
    assert [sum(row["state"] == name for row in rows) for name in summary.states] == list(summary.states.values())
    assert len(open_frames(output)) == N


def test_single_frame(blob_network: TrackingNetwork, folder: Path):
    for file in sorted((folder / "img").iterdir())[1:]:
        file.unlink()
    (folder / "groundtruth_rect.txt").write_text("60,50,24,20\n")
    summary = track_sequence(Tracker(blob_network), open_frames(folder), (60, 50, 24, 20), 30.0)
    assert (summary.frames, summary.update_ms_p50, summary.reliability_mean) == (1, None, None)
    assert "1 frames" in summary.as_text()


def test_box_outside_the_first_frame(blob_network: TrackingNetwork, folder: Path):
    with pytest.raises(BoxError, match="160x120"):
        track_sequence(Tracker(blob_network), open_frames(folder), (600, 50, 24, 20), 30.0)
