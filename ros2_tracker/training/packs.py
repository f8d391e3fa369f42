"""Packs: `NAME.bin` holds JPEG crops end to end, `NAME.json` lists `[track, offset, length, [cx, cy, w, h]]`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ros2_tracker.tracking.crop import Region, crop, mean_rgb
from ros2_tracker.tracking.frame import ArrayFrame
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.training.source import CONTEXT, CROP_PX, CropError, box_problem

_START, _END = b"\xff\xd8", b"\xff\xd9"


class Pack:
    """One pack, memory-mapped; a `CropSource`. Entries whose box or image cannot be used are left out and named."""

    def __init__(self, index: Path) -> None:
        """Open and check.

        Args:
            index: the JSON file; the crops lie in the .bin file beside it.

        Raises:
            ValueError: not a pack, an entry points outside the file, or no entry can be used; the text names the entry.

        """
        self.name = index.stem
        self._file = index.with_suffix(".bin")
        entries = _read_index(index)
        try:
            self._data = np.memmap(self._file, np.uint8, mode="r")
        except (OSError, ValueError) as error:
            raise ValueError(f"{self._file}: the crops of {index.name} cannot be read: {error}") from error
        tracks, self._entries, spans, boxes, self.left_out = [], [], [], [], []
        for number, entry in enumerate(entries):
            where = f"{index}: entry {number}"
            track, offset, length, box = _checked(entry, where)
            if offset + length > len(self._data):
                end = f"bytes {offset}..{offset + length}"
                raise ValueError(f"{where} lies at {end}, but {self._file.name} has {len(self._data)}: truncated?")
            problem = box_problem(box) or self._image_problem(offset, length)
            if problem:
                self.left_out.append(f"{where}: {problem}")
                continue
            tracks.append(track)
            self._entries.append(number)
            spans.append((offset, length))
            boxes.append(box)
        if not tracks:
            reason = f": {self.left_out[0]}" if self.left_out else ""
            raise ValueError(f"{index}: no entry of this pack can be used{reason}")
        order = np.argsort(tracks, kind="stable")
        self._entries = [self._entries[i] for i in order]
        self._spans = [spans[i] for i in order]
        self.tracks: NDArray[np.int64] = np.array(tracks, np.int64)[order]
        self.boxes: NDArray[np.float32] = np.array(boxes, np.float32)[order]

    def read(self, index: int) -> NDArray[np.uint8]:
        """(352, 352, 3) RGB; CropError naming the entry that cannot be decoded."""
        offset, length = self._spans[index]
        image = cv2.imdecode(self._data[offset : offset + length], cv2.IMREAD_COLOR)
        if image is None or image.shape != (CROP_PX, CROP_PX, 3):
            found = "cannot be decoded" if image is None else f"has {image.shape[1]}x{image.shape[0]} px"
            raise CropError(f"{self._file}: entry {self._entries[index]} {found}")
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]

    def _image_problem(self, offset: int, length: int) -> str | None:
        """A decoder fills up a JPEG without its end with grey, and says nothing."""
        data = self._data
        if length < 4 or data[offset : offset + 2].tobytes() != _START:
            return "is no JPEG"
        if data[offset + length - 2 : offset + length].tobytes() != _END:
            return "is a JPEG without its end"
        return None


class PackWriter:
    """Writes one pack; a context manager. Without an error in between there is a whole pack in the end, else none."""

    def __init__(self, index: Path, quality: int = 88) -> None:
        """`index`: the JSON file to write, the crops go to the .bin file beside it; `quality`: of JPEGs, in percent.

        Raises:
            FileExistsError: there is such a pack already.

        """
        self._index, self._file = index, index.with_suffix(".bin")
        for file in (self._index, self._file):
            if file.exists():
                raise FileExistsError(f"{file}: is there already")
        self._quality = quality
        self._entries: list[list[Any]] = []
        self._tracks = 0
        self._written = 0

    def __enter__(self) -> PackWriter:
        """Open a part file beside the pack's own name."""
        self._part = self._file.with_name(self._file.name + ".part")
        self._crops = self._part.open("wb")
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Give the files their names, or remove what is there."""
        self._crops.close()
        if error is not None or not self._entries:
            self._part.unlink()
            return
        self._part.rename(self._file)
        self._index.write_text(json.dumps(self._entries), encoding="utf-8")

    def add_track(self, images: Sequence[NDArray[np.uint8]], boxes: Sequence[Box]) -> None:
        """One object in some images, in the order of time.

        Args:
            images: (H, W, 3) uint8 BGR.
            boxes: one an image, px.

        Raises:
            ValueError: a box without area, or that does not fit into a context crop; nothing of the track is written.

        """
        entries, crops = [], []
        for image, box in zip(images, boxes, strict=True):
            if not (box.w > 0.0 and box.h > 0.0):
                raise ValueError(f"{self._index}: box {box} has no area")
            frame = ArrayFrame(image)
            scale = CROP_PX / (CONTEXT * box.size)
            in_crop = [CROP_PX / 2, CROP_PX / 2, round(box.w * scale, 2), round(box.h * scale, 2)]
            problem = box_problem(in_crop)
            if problem:
                raise ValueError(f"{self._index}: {problem}")
            cut = crop(frame, Region.around(box, CONTEXT), CROP_PX, mean_rgb(frame))
            _, data = cv2.imencode(".jpg", cut[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, self._quality])
            crops.append(data.tobytes())
            entries.append([self._tracks, self._written + sum(map(len, crops[:-1])), len(crops[-1]), in_crop])
        self._crops.write(b"".join(crops))
        self._written += sum(map(len, crops))
        self._entries += entries
        self._tracks += 1


def find_packs(folder: Path) -> list[Path]:
    """The indices of all packs in a folder, by name; ValueError when there are none."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    found = sorted(path for path in folder.glob("*.json") if path.with_suffix(".bin").is_file())
    if not found:
        raise ValueError(f"{folder}: no packs in this folder (looked for NAME.json beside NAME.bin)")
    return found


def _read_index(index: Path) -> list[Any]:
    try:
        entries = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{index}: cannot be read as the index of a pack: {error}") from error
    if not isinstance(entries, list):
        raise ValueError(f"{index}: the index of a pack is a list, got {type(entries).__name__}")
    return entries


def _checked(entry: Any, where: str) -> tuple[int, int, int, list[float]]:
    """Fields of an entry; ValueError naming it when they are not numbers as they should be."""
    try:
        track, offset, length, box = entry
        if not all(isinstance(v, int) and v >= 0 for v in (track, offset, length)):
            raise ValueError
        values = [float(v) for v in box]
        if len(values) != 4:
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(f"{where} is not [track, offset, length, [cx, cy, w, h]]: {str(entry)[:80]}") from None
    return track, offset, length, values
