"""Sequences whose images show their own number, and a tracker that answers from a list: for tests of protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from ros2_tracker.evaluation.datasets import AnnotatedSequence
from ros2_tracker.evaluation.peers import Answer, BoxTuple
from ros2_tracker.tracking.result import TrackState

NAN_ROW = (float("nan"),) * 4
WIDTH, HEIGHT = 160, 120


def numbered_images(folder: Path, count: int, suffix: str = ".png") -> list[Path]:
    """Images 0001, 0002 ... whose every pixel is the number of the frame, from 0 and modulo 256."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{i + 1:04d}{suffix}" for i in range(count)]
    for i, file in enumerate(files):
        cv2.imwrite(str(file), np.full((HEIGHT, WIDTH, 3), i % 256, np.uint8))
    return files


def numbered_sequence(
    folder: Path, truth: Sequence[Sequence[float]], polygons: Sequence[Sequence[float]] | None = None
) -> AnnotatedSequence:
    """A sequence of `numbered_images` with that truth; a row of NaNs: the target is not there."""
    boxes = np.array(truth, np.float64)
    files = tuple(numbered_images(folder, len(boxes)))
    drawn = None if polygons is None else np.array(polygons, np.float64)
    return AnnotatedSequence(folder.name, files, boxes, np.isnan(boxes).any(axis=1), drawn)


class ScriptedTracker:
    """Answers with the box that is written down for the number that the image shows; None: LOST without a box."""

    description = "scripted"

    def __init__(self, script: Mapping[int, BoxTuple | None], predicted: BoxTuple | None = None) -> None:
        self.script = script
        self.predicted = predicted
        self.seen: list[tuple[str, int, float]] = []
        """Call, frame, stamp."""

    def init(self, frame: np.ndarray, box: BoxTuple, stamp: float) -> None:
        self.seen.append(("init", int(frame[0, 0, 0]), stamp))

    def update(self, frame: np.ndarray, stamp: float) -> Answer:
        number = int(frame[0, 0, 0])
        self.seen.append(("update", number, stamp))
        box = self.script[number]
        return Answer(box, TrackState.TRACKING if box else TrackState.LOST)

    def predict(self, stamp: float) -> BoxTuple | None:
        return self.predicted

    @property
    def updated(self) -> list[int]:
        return [frame for call, frame, _ in self.seen if call == "update"]

    @property
    def started(self) -> list[int]:
        return [frame for call, frame, _ in self.seen if call == "init"]
