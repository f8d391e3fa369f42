"""Frames from a video file, a folder of images or a folder in OTB layout, with the true boxes where they are known."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
GROUND_TRUTH_FILE = "groundtruth_rect.txt"


class FrameSource(Protocol):
    """BGR frames in order; can be iterated more than once."""

    name: str
    fps: float | None
    """Frames per second where the source says so."""
    ground_truth: NDArray[np.float64] | None
    """(N, 4) x, y, w, h px per frame, NaN where the target is not visible; None when there is none."""

    def __len__(self) -> int:
        """Number of frames; for a video what its header says, 0 when it does not."""
        ...

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """(H, W, 3) uint8 BGR frames; ValueError at one that cannot be read."""
        ...


class ImageFolder:
    """Images of a folder, in the natural order of their names (`2.jpg` before `10.jpg`)."""

    fps: float | None = None

    def __init__(self, folder: Path, ground_truth_file: Path | None = None) -> None:
        """List the images; ValueError when there are none, or when the ground truth is broken."""
        self.name = folder.name
        self.files = image_files(folder)
        self.ground_truth: NDArray[np.float64] | None = None
        if ground_truth_file is not None:
            self.ground_truth = _padded(read_ground_truth(ground_truth_file), len(self.files), ground_truth_file)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.files)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """The images as BGR; ValueError naming the file that cannot be read."""
        return map(read_image, self.files)


class VideoFile:
    """Frames of a video that OpenCV can decode."""

    ground_truth: NDArray[np.float64] | None = None

    def __init__(self, file: Path) -> None:
        """Open it once to see that it can be read; ValueError when not."""
        self.name = file.stem
        self._file = file
        capture = self._open()
        fps, frames = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        capture.release()
        self.fps = float(fps) if 0.0 < fps < 10_000.0 else None
        self._frames = int(frames) if 0.0 < frames < 1e9 else 0

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self._file))
        if not capture.isOpened():
            raise ValueError(f"{self._file}: cannot be opened as a video")
        return capture

    def __len__(self) -> int:
        """Number of frames that the header announces, 0 when it does not; decoding can give a few more or less."""
        return self._frames

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """The frames as BGR; ValueError when not even the first can be decoded."""
        capture = self._open()
        try:
            read, image = capture.read()
            if not read:
                raise ValueError(f"{self._file}: no frame of this video can be decoded")
            while read:
                yield image
                read, image = capture.read()
        finally:
            capture.release()


def image_files(folder: Path) -> list[Path]:
    """The images of a folder, in the natural order of their names; ValueError when there are none."""
    files = sorted((f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES), key=_natural_order)
    if not files:
        raise ValueError(f"{folder}: no images in this folder (looked for {', '.join(IMAGE_SUFFIXES)})")
    return files


def read_image(file: Path) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 BGR; ValueError naming the file that cannot be read."""
    image = cv2.imread(str(file), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{file}: cannot be read as an image")
    return image  # type: ignore[return-value]


def open_frames(path: str | Path) -> FrameSource:
    """Frames of a video file, a folder of images, or a folder in OTB layout (`img/` and `groundtruth_rect.txt`).

    Raises:
        ValueError: nothing is there, or it is broken; the text names the file and, in ground truth, the line.

    """
    path = Path(path)
    if path.is_file():
        return VideoFile(path)
    if not path.is_dir():
        raise ValueError(f"{path}: no such file or folder")
    truth = path / GROUND_TRUTH_FILE
    images = path / "img"
    source = ImageFolder(images if images.is_dir() else path, truth if truth.is_file() else None)
    source.name = path.resolve().name
    return source


def read_ground_truth(file: Path) -> NDArray[np.float64]:
    """(N, 4) x, y, w, h px from a text file: a box a line, numbers separated by commas, spaces or tabs.

    A line of NaNs, or one with a width or height of 0 (as LaSOT writes it), is a frame where the target is not
    visible: NaN in the result.

    Raises:
        ValueError: a line holds something else, or there is none; the text names file and line.

    """
    try:
        lines = file.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not a text file ({error})") from error
    if not lines:
        raise ValueError(f"{file}: holds no box")
    return np.array([_box_of(line, f"{file}:{number}") for number, line in enumerate(lines, start=1)])


def _box_of(line: str, where: str) -> list[float]:
    try:
        values = [float(field) for field in re.split(r"\s*[,;]\s*|\s+", line.strip())]
    except ValueError:
        values = []
    if len(values) != 4:
        raise ValueError(f"{where}: expected a box x,y,w,h in pixels, got {line.strip()[:80]!r}")
    unknown = np.isnan(values)
    if unknown.all() or (not unknown.any() and (values[2] == 0.0 or values[3] == 0.0)):
        return [np.nan] * 4
    if not np.isfinite(values).all() or values[2] < 0.0 or values[3] < 0.0:
        raise ValueError(f"{where}: box {line.strip()[:80]!r} is neither finite with a positive size nor all NaN")
    return values


def _padded(boxes: NDArray[np.float64], frames: int, file: Path) -> NDArray[np.float64]:
    """One box a frame; a file with just the first frame's box leaves the others unknown."""
    if len(boxes) == frames:
        return boxes
    if len(boxes) != 1:
        raise ValueError(f"{file}: {len(boxes)} boxes for {frames} images")
    return np.vstack([boxes, np.full((frames - 1, 4), np.nan)])


def _natural_order(file: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", file.name)]
