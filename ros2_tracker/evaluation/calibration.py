"""What a network is asked while it is calibrated: crops of annotated sequences, as the tracker would cut them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ros2_tracker.evaluation.sequences import GROUND_TRUTH_FILE, ImageFolder, open_frames
from ros2_tracker.tracking.family import Appearance, Family, Look
from ros2_tracker.tracking.frame import Frame, frame_from_array
from ros2_tracker.tracking.geometry import Box, BoxError, checked_box

_SEED = 20261
# The box that a tracker searches around is a little off: its centre in sizes of the target, its side in log.
_CENTER_JITTER = 0.15
_SIDE_JITTER = 0.1


class Place(NamedTuple):
    """One frame of one sequence."""

    sequence: int
    frame: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Which frames serve for what."""

    calibration: list[Place]
    check: list[Place]
    """None of these is among the others."""


@dataclass(frozen=True, slots=True)
class Looks:
    """What was cut out."""

    looks: list[Look]
    left_out: int
    """Images that were left out because they could not be read, or did not show their true box."""


def find_sequences(folder: Path) -> list[ImageFolder]:
    """The sequence in a folder, or those in its folders, in order of their names.

    Raises:
        ValueError: there is none, one has no truth, or one is broken.

    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    alone = (folder / "img").is_dir() or (folder / GROUND_TRUTH_FILE).is_file()
    inside = (f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))
    found = []
    for path in [folder] if alone else sorted(inside):
        sequence = open_frames(path)
        assert isinstance(sequence, ImageFolder)  # as it is a folder
        if sequence.ground_truth is None:
            raise ValueError(f"{path}: there is no {GROUND_TRUTH_FILE}, and without it no crops can be cut")
        found.append(sequence)
    if not found:
        raise ValueError(f"{folder}: there are no sequences in this folder (img/ and {GROUND_TRUTH_FILE})")
    return found


def plan(sequences: Sequence[ImageFolder], frames: int, check: int) -> Plan:
    """Frames spread evenly: over sequences, and within each.

    Args:
        sequences: of `find_sequences`.
        frames: to calibrate with; fewer where the sequences have fewer.
        check: to check with, of those that are left: at least a third of all.

    Raises:
        ValueError: no frame shows a target after the first.

    """
    usable = [np.flatnonzero(np.isfinite(s.ground_truth).all(axis=1))[1:] for s in sequences]
    total = sum(map(len, usable))
    if not total:
        raise ValueError("the sequences have no frame with a true box after the first one")
    # Some are kept back where there are few.
    chosen, rest = _spread(usable, min(frames, max(total * 2 // 3, 1)) if check else frames)
    return Plan(_places(chosen), _places(_spread(rest, check)[0]))


def cut(family: Family, sequences: Sequence[ImageFolder], places: Iterable[Place]) -> Looks:
    """The looks at these places, which are in order: template of the first frame, search around the true box, jittered.

    Images that cannot be read, and boxes outside them, are left out and counted.
    """
    looks: list[Look] = []
    left_out = 0
    appearances: dict[int, Appearance | None] = {}
    for place in places:
        sequence = sequences[place.sequence]
        if place.sequence not in appearances:
            appearances[place.sequence] = _appearance(family, sequence)
        appearance, image = appearances[place.sequence], _read(sequence, place.frame)
        if appearance is None or image is None:
            left_out += 1
            continue
        try:
            before = _true_box(sequence, place.frame - 1, image) or _true_box(sequence, place.frame, image)
            assert before is not None  # places have a true box
            looks.append(family.look(appearance, image, _jittered(before, place)))
        except BoxError:
            left_out += 1
    return Looks(looks, left_out)


def _spread(usable: Sequence[np.ndarray], count: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """As many of each as of the others, as far as it has them, at even distances; and the rest of each."""
    shares = [0] * len(usable)
    by_length = sorted(range(len(usable)), key=lambda i: len(usable[i]))
    for position, i in enumerate(by_length):
        shares[i] = min(len(usable[i]), (count - sum(shares)) // (len(usable) - position))
    chosen, rest = [], []
    for each, share in zip(usable, shares, strict=True):
        picked = ((np.arange(share) + 0.5) * len(each) / max(share, 1)).astype(int)
        chosen.append(each[picked])
        rest.append(np.delete(each, picked))
    return chosen, rest


def _places(frames: Sequence[np.ndarray]) -> list[Place]:
    return [Place(i, int(frame)) for i, each in enumerate(frames) for frame in each]


def _appearance(family: Family, sequence: ImageFolder) -> Appearance | None:
    """Of the target in the first frame that shows it; None where that cannot be used."""
    first = int(np.flatnonzero(np.isfinite(sequence.ground_truth).all(axis=1))[0])
    image = _read(sequence, first)
    if image is None:
        return None
    try:
        return family.appearance(image, _true_box(sequence, first, image))
    except BoxError:
        return None


def _true_box(sequence: ImageFolder, frame: int, image: Frame) -> Box | None:
    """None where it is not known; BoxError where it cannot be followed."""
    values = sequence.ground_truth[frame]
    return checked_box(values, image.width, image.height) if np.isfinite(values).all() else None


def _read(sequence: ImageFolder, frame: int) -> Frame | None:
    image = cv2.imread(str(sequence.files[frame]), cv2.IMREAD_COLOR)
    return None if image is None else frame_from_array(image)


def _jittered(box: Box, place: Place) -> Box:
    """Somewhere near, always the same for a place."""
    dx, dy, side = np.random.default_rng([_SEED, *place]).normal(0.0, 1.0, 3)
    scale, shift = float(np.exp(_SIDE_JITTER * side)), _CENTER_JITTER * box.size
    return Box.from_center(box.cx + shift * dx, box.cy + shift * dy, box.w * scale, box.h * scale)
