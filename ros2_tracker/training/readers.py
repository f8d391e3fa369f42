"""Folders of GOT-10k, LaSOT, TrackingNet and COCO as tracks; context crops are cut when they are asked for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ros2_tracker.evaluation.datasets import load_dataset
from ros2_tracker.evaluation.sequences import image_files, read_ground_truth
from ros2_tracker.tracking.crop import Region, crop, mean_rgb
from ros2_tracker.tracking.frame import frame_from_array
from ros2_tracker.tracking.geometry import MIN_VISIBLE_PX, Box
from ros2_tracker.training.source import CONTEXT, CROP_PX, CropError

# Smaller objects are a blur in a crop of 352 px.
_MIN_SIDE_PX = 4.0


class Annotated(NamedTuple):
    """One object in some images."""

    name: str
    files: tuple[Path, ...]
    boxes: NDArray[np.float64]
    """(N, 4) x, y, w, h px in each, NaN where it cannot be seen."""


class FrameCrops:
    """Crops of annotated images; a `CropSource`."""

    def __init__(self, name: str, tracks: Iterable[Annotated], left_out: Iterable[str] = ()) -> None:
        """Take the tracks; ValueError when not one box can be used."""
        self.name = name
        self.left_out = list(left_out)
        self._files: list[Path] = []
        numbers, kept = [], []
        for number, track in enumerate(tracks):
            good = self._usable(track)
            self._files += [file for file, take in zip(track.files, good, strict=True) if take]
            kept.append(track.boxes[good])
            numbers.append(np.full(int(good.sum()), number, np.int64))
        if not self._files:
            reason = f": {self.left_out[0]}" if self.left_out else ""
            raise ValueError(f"{name}: no box of these data can be used{reason}")
        self.tracks: NDArray[np.int64] = np.concatenate(numbers)
        self._boxes: NDArray[np.float64] = np.concatenate(kept)
        self.boxes: NDArray[np.float32] = _in_crops(self._boxes)

    def read(self, index: int) -> NDArray[np.uint8]:
        """(352, 352, 3) RGB; CropError naming an image that is missing, broken, or does not contain its box."""
        file = self._files[index]
        image = cv2.imread(str(file), cv2.IMREAD_COLOR)
        if image is None:
            raise CropError(f"{file}: {'cannot be read as an image' if file.is_file() else 'does not exist'}")
        box = Box(*self._boxes[index])
        height, width = image.shape[:2]
        seen_w = min(box.x + box.w, width) - max(box.x, 0.0)
        seen_h = min(box.y + box.h, height) - max(box.y, 0.0)
        if min(seen_w, seen_h) < MIN_VISIBLE_PX:
            shown = ",".join(f"{v:g}" for v in box.as_tuple())
            raise CropError(f"{file}: the box {shown} lies outside its image of {width}x{height} px")
        frame = frame_from_array(image)  # type: ignore[arg-type]
        return crop(frame, Region.around(box, CONTEXT), CROP_PX, mean_rgb(frame))

    def _usable(self, track: Annotated) -> NDArray[np.bool_]:
        """(N,) which boxes are; of the others one is named for each track."""
        known = ~np.isnan(track.boxes).any(axis=1)
        good = known & np.isfinite(track.boxes).all(axis=1)
        good[good] = (track.boxes[good, 2:] >= _MIN_SIDE_PX).all(axis=1)
        good[good] = (_in_crops(track.boxes[good])[:, 2:] <= CROP_PX).all(axis=1)
        bad = np.flatnonzero(known & ~good)
        if len(bad):
            box = ",".join(f"{v:g}" for v in track.boxes[bad[0]])
            self.left_out.append(
                f"{track.name}: {len(bad)} boxes below {_MIN_SIDE_PX:g} px or too long, the first is {box} "
                f"({track.files[bad[0]].name})"
            )
        return good


def open_folder(layout: str, folder: Path, name: str) -> FrameCrops:
    """Tracks of a folder.

    Args:
        layout: got10k, lasot, trackingnet or coco.
        folder: the data set's, or that of one of its parts.
        name: of the source.

    Raises:
        ValueError: no such folder, or nothing in it has this layout.

    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    left_out: list[str] = []
    tracks = {"trackingnet": _trackingnet, "coco": _coco}.get(layout, _sequences)(folder, layout, left_out)
    return FrameCrops(name, list(tracks), left_out)


def _in_crops(boxes: NDArray[np.float64]) -> NDArray[np.float32]:
    """(N, 4) cx, cy, w, h in px of the context crops of x, y, w, h boxes."""
    size = np.sqrt(boxes[:, 2] * boxes[:, 3])
    inside = np.full(boxes.shape, CROP_PX / 2)
    inside[:, 2:] = boxes[:, 2:] * (CROP_PX / (CONTEXT * size))[:, None]
    return inside.astype(np.float32)


def _sequences(folder: Path, layout: str, left_out: list[str]) -> Iterator[Annotated]:
    """GOT-10k and LaSOT, as `eval` reads them; frames in which the target is absent are not trained on."""
    dataset = load_dataset(folder, layout)
    left_out += [f"{entry.name}: {entry.reason}" for entry in dataset.left_out]
    for sequence in dataset.sequences:
        boxes = np.where(sequence.scorable[:, None], sequence.truth, np.nan)
        yield Annotated(sequence.name, sequence.files, boxes)


def _trackingnet(folder: Path, layout: str, left_out: list[str]) -> Iterator[Annotated]:
    """`anno/NAME.txt` beside `frames/NAME/0.jpg ...`, in the folder or in its TRAIN_0, TRAIN_1, ..."""
    truths = sorted(folder.glob("anno/*.txt")) or sorted(folder.glob("TRAIN_*/anno/*.txt"))
    if not truths:
        raise ValueError(f"{folder}: no sequence in the layout of {layout} (anno/NAME.txt, frames/NAME/0.jpg)")
    for truth in truths:
        try:
            boxes = read_ground_truth(truth)
            files = image_files(truth.parent.parent / "frames" / truth.stem)
            if len(files) != len(boxes):
                raise ValueError(f"{truth}: {len(boxes)} boxes for {len(files)} images")
        except (ValueError, OSError) as error:
            left_out.append(f"{truth.stem}: {' '.join(str(error).split())}")
            continue
        yield Annotated(truth.stem, tuple(files), boxes)


def _coco(folder: Path, layout: str, left_out: list[str]) -> Iterator[Annotated]:
    """Stills: `annotations/instances_PART.json` and `PART/*.jpg`; every object is a track. Crowds are left out."""
    indices = sorted(folder.glob("annotations/instances_*.json"))
    if not indices:
        raise ValueError(f"{folder}: nothing in the layout of {layout} (annotations/instances_PART.json, PART/*.jpg)")
    for index in indices:
        images = folder / index.stem.removeprefix("instances_")
        try:
            content = json.loads(index.read_text(encoding="utf-8"))
            files = {image["id"]: images / image["file_name"] for image in content["images"]}
            objects: list[dict[str, Any]] = [entry for entry in content["annotations"] if not entry.get("iscrowd", 0)]
            found = [(entry, files[entry["image_id"]], [float(v) for v in entry["bbox"]]) for entry in objects]
        except (
            OSError,
            UnicodeDecodeError,
            json.JSONDecodeError,
            KeyError,
            TypeError,
            AttributeError,
            ValueError,
        ) as error:
            raise ValueError(f"{index}: cannot be read as annotations of {layout}: {error!r}") from error
        for entry, file, box in found:
            if len(box) != 4:
                left_out.append(f"{index.name}: annotation {entry.get('id')} has the box {box}")
                continue
            yield Annotated(f"annotation {entry.get('id')}", (file,), np.array([box]))
