"""What offline runs leave behind: tracks.csv, the overlay video, and the frames of an evaluation."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from enum import Enum
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray

from ros2_tracker.tracking.result import ReliabilitySignals, TrackState

COLUMNS = ("frame", "stamp", "x", "y", "w", "h", "reliability", "state")
SIGNAL_COLUMNS = tuple(field.name for field in fields(ReliabilitySignals))
RECORD_COLUMNS = ("frame", "event", "x", "y", "w", "h", "reliability", "score", "state", "update_ms", *SIGNAL_COLUMNS)
TRUTH_COLUMNS = ("iou", "absent")


class TracksFile:
    """tracks.csv: a row a frame, `COLUMNS`; frame 0 is the init frame. Use it as a context manager."""

    def __init__(self, path: Path) -> None:
        """Create the file and folders above it; OSError when that fails."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(COLUMNS)

    def write(
        self, frame: int, stamp: float, box: Sequence[float] | None, reliability: float, state: TrackState
    ) -> None:
        """Add a frame.

        Args:
            frame: its number, 0 for the init frame.
            stamp: seconds.
            box: (x, y, w, h) px; None while LOST leaves the four columns empty.
            reliability: in [0, 1].
            state: written by name.

        """
        numbers = [f"{v:.3f}" for v in box] if box is not None else [""] * 4
        self._writer.writerow([frame, f"{stamp:.6f}", *numbers, f"{reliability:.4f}", state.name])

    def close(self) -> None:
        """Finish the file."""
        self._file.close()

    def __enter__(self) -> TracksFile:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


class OverlayVideo:
    """An mp4 (MPEG-4 part 2, which every OpenCV can write). Use it as a context manager."""

    def __init__(self, path: Path, fps: float) -> None:
        """Create the folders above it; the file comes with the first frame. ValueError unless it ends in .mp4."""
        if path.suffix.lower() != ".mp4":
            raise ValueError(f"{path}: an overlay video must end in .mp4")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._fps = fps
        self._size: tuple[int, int] | None = None
        self._writer: cv2.VideoWriter | None = None

    def write(self, image: NDArray[np.uint8]) -> None:
        """Add an (H, W, 3) BGR frame; one of another size than the first is scaled to it.

        Raises:
            OSError: OpenCV cannot write to the path.

        """
        if self._writer is None:
            self._size = (image.shape[1], image.shape[0])
            self._writer = cv2.VideoWriter(str(self._path), cv2.VideoWriter_fourcc(*"mp4v"), self._fps, self._size)
            if not self._writer.isOpened():
                raise OSError(f"{self._path}: cannot be written as a video")
        if (image.shape[1], image.shape[0]) != self._size:
            image = cv2.resize(image, self._size, interpolation=cv2.INTER_AREA)
        self._writer.write(image)

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()

    def __enter__(self) -> OverlayVideo:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


class FrameEvent(Enum):
    """What happened to a frame of an evaluation."""

    INIT = "init"
    """The tracker was given the true box."""
    TRACKED = "tracked"
    """The tracker answered."""
    SKIPPED = "skipped"
    """It came while the tracker was busy (streaming run), or while a restart was waited for."""
    FAILED = "failed"
    """The tracker answered without touching the target, which ends a stretch of the restart run."""


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """One frame of one tracker's run."""

    event: FrameEvent
    box: tuple[float, float, float, float] | None
    """(x, y, w, h) px: the best that there is, even while LOST. What is scored."""
    state: TrackState
    """LOST: the tracker said that it has no box."""
    reliability: float | None = None
    """Probability that IoU >= 0.5, where the tracker says one."""
    score: float | None = None
    """The tracker's own raw score."""
    update_ms: float | None = None
    """Wall time of the update, or of the init on an init frame."""
    signals: ReliabilitySignals | None = None
    """What our reliability is computed from."""


def write_records(
    file: Path,
    records: Sequence[FrameRecord],
    iou: NDArray[np.float64] | None = None,
    absent: NDArray[np.bool_] | None = None,
) -> None:
    """Write a row a frame, `RECORD_COLUMNS` and `TRUTH_COLUMNS`; complete or not at all. Numbers are read back exactly.

    Args:
        file: its folder exists.
        records: of one sequence.
        iou: (N,) with the truth, NaN where it is not known.
        absent: (N,) where the annotation says that the target cannot be seen.

    """
    partial = file.with_name(file.name + ".part")
    with partial.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow((*RECORD_COLUMNS, *TRUTH_COLUMNS))
        for index, record in enumerate(records):
            box = record.box or (None,) * 4
            signals = astuple(record.signals) if record.signals else (None,) * len(SIGNAL_COLUMNS)
            ours = (record.reliability, record.score, record.state.name, record.update_ms, *signals)
            overlap = None if iou is None or np.isnan(iou[index]) else round(float(iou[index]), 6)
            truth = (overlap, None if absent is None else int(absent[index]))
            # repr of a float has all its digits.
            writer.writerow([index, record.event.value, *box, *ours, *truth])
    partial.replace(file)


def read_records(file: Path) -> list[FrameRecord]:
    """What `write_records` wrote; ValueError naming the file when it is something else."""
    with file.open(newline="", encoding="utf-8") as opened:
        try:
            return [_record(row) for row in csv.DictReader(opened)]
        except (KeyError, ValueError, TypeError) as error:
            raise ValueError(f"{file}: not a table of an evaluation's frames ({error})") from error


def _record(row: dict[str, str]) -> FrameRecord:
    def number(name: str) -> float | None:
        return float(row[name]) if row[name] else None

    box = tuple(float(row[name]) for name in "xywh") if row["x"] else None
    signals = [number(name) for name in SIGNAL_COLUMNS]
    return FrameRecord(
        FrameEvent(row["event"]),
        box,  # type: ignore[arg-type]
        TrackState[row["state"]],
        number("reliability"),
        number("score"),
        number("update_ms"),
        None if all(each is None for each in signals) else ReliabilitySignals(*signals),  # type: ignore[arg-type]
    )
