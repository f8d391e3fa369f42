"""tracks.csv and the overlay video."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from ros2_tracker.evaluation.results import OverlayVideo, TracksFile
from ros2_tracker.tracking.result import TrackState


def test_rows_of_tracks_csv(tmp_path: Path):
    file = tmp_path / "new" / "folder" / "tracks.csv"
    with TracksFile(file) as tracks:
        tracks.write(0, 0.0, (1, 2, 3, 4), 1.0, TrackState.TRACKING)
        tracks.write(1, 1 / 30, (1.23456, -2.0, 3.5, 4.25), 0.12345, TrackState.UNCERTAIN)
        tracks.write(2, 2 / 30, None, 0.01, TrackState.LOST)
    assert file.read_text() == (
        "frame,stamp,x,y,w,h,reliability,state\n"
        "0,0.000000,1.000,2.000,3.000,4.000,1.0000,TRACKING\n"
        "1,0.033333,1.235,-2.000,3.500,4.250,0.1235,UNCERTAIN\n"
        "2,0.066667,,,,,0.0100,LOST\n"
    )


def test_rows_before_an_error_are_kept(tmp_path: Path):
    def fail_after_a_row(file: Path) -> None:
        with TracksFile(file) as tracks:
            tracks.write(0, 0.0, (1, 2, 3, 4), 1.0, TrackState.TRACKING)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_after_a_row(tmp_path / "tracks.csv")
    with (tmp_path / "tracks.csv").open(newline="") as opened:
        assert len(list(csv.DictReader(opened))) == 1


@pytest.mark.parametrize("size", [(64, 48), (63, 47)])
def test_video_of_any_size(tmp_path: Path, size: tuple[int, int]):
    file = tmp_path / "folder" / "overlay.mp4"
    with OverlayVideo(file, 30.0) as video:
        for _ in range(3):
            video.write(np.full((size[1], size[0], 3), 99, np.uint8))
        # A source whose images differ in size still gives one video.
        video.write(np.full((2 * size[1], size[0], 3), 99, np.uint8))
    capture = cv2.VideoCapture(str(file))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    assert len(frames) == 4
    assert frames[0].shape[1] == pytest.approx(size[0], abs=1)


def test_video_of_another_kind_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"overlay\.avi: .* must end in \.mp4"):
        OverlayVideo(tmp_path / "overlay.avi", 30.0)


def test_video_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "overlay.mp4").mkdir()
    with pytest.raises(OSError, match=r"overlay\.mp4"), OverlayVideo(tmp_path / "overlay.mp4", 30.0) as video:
        video.write(np.zeros((48, 64, 3), np.uint8))


def test_video_without_frames_leaves_no_file(tmp_path: Path):
    with OverlayVideo(tmp_path / "overlay.mp4", 30.0):
        pass
    assert list(tmp_path.iterdir()) == []
