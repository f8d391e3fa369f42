"""What offline runs leave behind: tracks.csv and the overlay video."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray

from ros2_tracker.tracking.result import TrackState

COLUMNS = ("frame", "stamp", "x", "y", "w", "h", "reliability", "state")


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
