"""Annotated sequences in the layouts of the benchmarks, and what each benchmark's toolkit counts.

A sequence that is broken is left out of a dataset with its reason; it is never shortened or repaired silently.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ros2_tracker.evaluation.published_ranges import OTB_FIRST_IMAGE, OTB_SHORTER, UAV123_PARTS
from ros2_tracker.evaluation.sequences import GROUND_TRUTH_FILE, image_files, read_ground_truth, read_image

_TRUTH_FILE = "groundtruth.txt"
_OTB_TRUTH = re.compile(r"groundtruth_rect(?:\.(\d+))?\.txt")
_LISTS = ("list.txt", "testing_set.txt")


@dataclass(frozen=True, slots=True)
class Convention:
    """Which frames a benchmark's own evaluation counts, and how."""

    first_frame: bool
    """Whether the frame that the tracker was given the box in counts."""
    clipped: bool
    """Whether boxes are cut at the image's border first."""
    unknown_counts: bool
    """Whether frames without truth stay in the denominators of the success and precision plots: as misses of the first
    and as hits of the second. AO, SR and time to failure never count them."""
    text: str
    """For the report."""


CONVENTIONS: dict[str, Convention] = {
    "otb": Convention(True, False, False, "every frame with a box counts, the first included"),
    "got10k": Convention(
        False,
        True,
        False,
        "the first frame does not count, nor do frames marked absent or of cover 0; boxes are cut at the border",
    ),
    "lasot": Convention(
        True, False, False, "the first frame counts; frames marked fully occluded or out of view do not"
    ),
    "uav123": Convention(
        True,
        False,
        True,
        "the first frame counts; frames without a box are misses of the success plot and hits of the precision plots, "
        "as in the published toolkits; AO, SR and time to failure leave them out",
    ),
    "vot": Convention(
        False,
        False,
        False,
        "the first frame does not count; polygons count as their bounding boxes, in the restart run as polygons",
    ),
}
FORMATS = tuple(CONVENTIONS)


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedSequence:
    """Images of one target, and where it is in them."""

    name: str
    files: tuple[Path, ...]
    truth: NDArray[np.float64]
    """(N, 4) x, y, w, h px per image, NaN where it is not known."""
    absent: NDArray[np.bool_]
    """(N,) where the annotation says that the target cannot be seen."""
    polygons: NDArray[np.float64] | None = None
    """(N, 8) corners x1, y1 ... y4, px, where the truth was drawn as polygons."""

    def __len__(self) -> int:
        """Number of images."""
        return len(self.files)

    def image(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 BGR; ValueError naming the file that cannot be read."""
        return read_image(self.files[index])

    @property
    def scorable(self) -> NDArray[np.bool_]:
        """(N,) frames in which the target can be seen and its box is known."""
        return ~self.absent & ~np.isnan(self.truth).any(axis=1)

    def digest(self) -> str:
        """Changes with the images' names and sizes and with the truth: results of another sequence are not reused."""
        digest = hashlib.sha256(self.truth.tobytes() + self.absent.tobytes())
        for file in self.files:
            digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        return digest.hexdigest()


class LeftOut(NamedTuple):
    """A sequence that is not evaluated."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """Sequences of one layout."""

    name: str
    format: str
    sequences: list[AnnotatedSequence]
    left_out: list[LeftOut]

    @property
    def convention(self) -> Convention:
        """What its benchmark counts."""
        return CONVENTIONS[self.format]


def load_dataset(folder: Path, layout: str | None = None, names: Iterable[str] | None = None) -> Dataset:
    """Find the sequences under a folder; one sequence's own folder is a dataset of one.

    Args:
        folder: of the dataset.
        layout: one of FORMATS; None finds out.
        names: only these sequences; None for all, or for those that the folder's own list (`list.txt`,
            `testing_set.txt`) names.

    Raises:
        ValueError: no such folder, a layout that cannot be told, a name that is not there, no sequence at all.

    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    layout = layout or detected_format(folder)
    found = dict(_FINDERS[layout](folder))
    if not found:
        raise ValueError(f"{folder}: no sequence in the layout of {layout} (docs/evaluation.md shows the layouts)")
    wanted = list(names) if names is not None else _listed(folder, found)
    sequences, left_out = [], []
    for name in wanted:
        if name not in found:
            problem = f"{folder}: there is no sequence {name!r}"
            if names is not None:
                raise ValueError(f"{problem}; there are {', '.join(list(found)[:5])} ...")
            left_out.append(LeftOut(name, f"{problem}, though the folder's list names it"))
            continue
        try:
            sequences.append(_checked(found[name]()))
        except (ValueError, OSError) as error:
            left_out.append(LeftOut(name, " ".join(str(error).split())))
    return Dataset(folder.resolve().name, layout, sequences, left_out)


def detected_format(folder: Path) -> str:
    """One of FORMATS, told from the files in a dataset's folder or in one sequence's; ValueError when none fits."""
    if (folder / "anno" / "UAV123").is_dir():
        return "uav123"
    # A dataset, its classes (LaSOT) or its subsets (GOT-10k).
    for candidate in (folder, *_folders(folder), *(inner for outer in _folders(folder) for inner in _folders(outer))):
        names = {f.name for f in candidate.iterdir()}
        if any(_OTB_TRUTH.fullmatch(name) for name in names):
            return "otb"
        if _TRUTH_FILE not in names:
            continue
        if {"full_occlusion.txt", "out_of_view.txt"} & names or "img" in names:
            return "lasot"
        if {"absence.label", "cover.label", "meta_info.ini"} & names:
            return "got10k"
        return "vot"
    raise ValueError(
        f"{folder}: neither {GROUND_TRUTH_FILE} nor {_TRUTH_FILE} nor anno/UAV123 in it or two folders deep; "
        f"--format names the layout ({', '.join(FORMATS)})"
    )


# -- layouts: each finder yields names and what loads a sequence ------------------------------------------------------

_Loader = Callable[[], AnnotatedSequence]


def _find_otb(folder: Path) -> Iterator[tuple[str, _Loader]]:
    for home in _homes(folder, lambda names: any(_OTB_TRUTH.fullmatch(name) for name in names)):
        for truth in sorted(f for f in home.iterdir() if _OTB_TRUTH.fullmatch(f.name)):
            number = _OTB_TRUTH.fullmatch(truth.name)[1]  # type: ignore[index]
            name = home.resolve().name + (f"-{number}" if number else "")
            yield name, lambda name=name, home=home, truth=truth: _otb(name, home, truth)


def _otb(name: str, home: Path, truth_file: Path) -> AnnotatedSequence:
    truth = read_ground_truth(truth_file)
    files = image_files(home / "img" if (home / "img").is_dir() else home)
    published = home.resolve().name
    if published in OTB_FIRST_IMAGE and len(files) > len(truth):
        files = [f for f in files if _number(f) >= OTB_FIRST_IMAGE[published]]
    if published in OTB_SHORTER:
        files = files[: len(truth)]
    return _sequence(name, files, truth, truth_file)


def _find_lasot(folder: Path) -> Iterator[tuple[str, _Loader]]:
    for home in _homes(folder, lambda names: {_TRUTH_FILE, "img"} <= names):
        yield home.resolve().name, lambda home=home: _lasot(home)


def _lasot(home: Path) -> AnnotatedSequence:
    truth_file = home / _TRUTH_FILE
    files = image_files(home / "img")
    absent = np.zeros(len(files), bool)
    for name in ("full_occlusion.txt", "out_of_view.txt"):
        absent |= _flags(home / name, len(files))
    return _sequence(home.resolve().name, files, read_ground_truth(truth_file), truth_file, absent)


def _find_got10k(folder: Path) -> Iterator[tuple[str, _Loader]]:
    for home in _homes(folder, lambda names: _TRUTH_FILE in names):
        yield home.resolve().name, lambda home=home: _got10k(home)


def _got10k(home: Path) -> AnnotatedSequence:
    truth_file = home / _TRUTH_FILE
    files = image_files(home)
    absent = _flags(home / "absence.label", len(files))
    if (home / "cover.label").is_file():
        absent |= ~_flags(home / "cover.label", len(files))
    return _sequence(home.resolve().name, files, read_ground_truth(truth_file), truth_file, absent)


def _find_uav123(folder: Path) -> Iterator[tuple[str, _Loader]]:
    for truth in sorted((folder / "anno" / "UAV123").glob("*.txt")):
        yield truth.stem, lambda truth=truth: _uav123(folder, truth)


def _uav123(folder: Path, truth_file: Path) -> AnnotatedSequence:
    home, first, last = UAV123_PARTS.get(truth_file.stem, (truth_file.stem, 1, None))
    images = folder / "data_seq" / "UAV123" / home
    if not images.is_dir():
        raise ValueError(f"{images}: no such folder")
    files = [f for f in image_files(images) if first <= _number(f) and (last is None or _number(f) <= last)]
    return _sequence(truth_file.stem, files, read_ground_truth(truth_file), truth_file)


def _find_vot(folder: Path) -> Iterator[tuple[str, _Loader]]:
    for home in _homes(folder, lambda names: _TRUTH_FILE in names):
        yield home.resolve().name, lambda home=home: _vot(home)


def _vot(home: Path) -> AnnotatedSequence:
    truth_file = home / _TRUTH_FILE
    files = image_files(home / "color" if (home / "color").is_dir() else home)
    polygons = _polygons(truth_file)
    low, high = polygons.reshape(-1, 4, 2).min(axis=1), polygons.reshape(-1, 4, 2).max(axis=1)
    sequence = _sequence(home.resolve().name, files, np.hstack([low, high - low]), truth_file)
    return AnnotatedSequence(sequence.name, sequence.files, sequence.truth, sequence.absent, polygons)


def _polygons(file: Path) -> NDArray[np.float64]:
    """(N, 8) corners from lines of four numbers (a box) or eight (corners); NaN where a line holds no area."""
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").rstrip().splitlines(), start=1):
        try:
            values = [float(field) for field in line.split(",")]
        except ValueError:
            values = []
        if len(values) == 4:
            x, y, w, h = values
            values = [x, y, x + w, y, x + w, y + h, x, y + h] if w > 0 and h > 0 else [np.nan] * 8
        if len(values) != 8 or not (np.isfinite(values).all() or np.isnan(values).all()):
            kind = "a mask, which is not supported" if line.startswith("m") else repr(line.strip()[:80])
            raise ValueError(f"{file}:{number}: expected a box or four corners in pixels, got {kind}")
        rows.append(values)
    if not rows:
        raise ValueError(f"{file}: holds no box")
    return np.array(rows, np.float64)


_FINDERS: dict[str, Callable[[Path], Iterator[tuple[str, _Loader]]]] = {
    "otb": _find_otb,
    "got10k": _find_got10k,
    "lasot": _find_lasot,
    "uav123": _find_uav123,
    "vot": _find_vot,
}


# -- parts of all layouts ---------------------------------------------------------------------------------------------


def _homes(folder: Path, is_sequence: Callable[[set[str]], bool]) -> Iterator[Path]:
    """The sequence's own folder, or the sequences in it and in its folders, in order of their names."""
    if is_sequence({f.name for f in folder.iterdir()}):
        yield folder
        return
    for outer in _folders(folder):
        if is_sequence({f.name for f in outer.iterdir()}):
            yield outer
        else:
            yield from (f for f in _folders(outer) if is_sequence({g.name for g in f.iterdir()}))


def _folders(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def _listed(folder: Path, found: dict[str, _Loader]) -> list[str]:
    for name in _LISTS:
        if (folder / name).is_file():
            return (folder / name).read_text(encoding="utf-8").split()
    return list(found)


def _sequence(
    name: str,
    files: list[Path],
    truth: NDArray[np.float64],
    truth_file: Path,
    absent: NDArray[np.bool_] | None = None,
) -> AnnotatedSequence:
    if len(truth) == 1 and len(files) > 1:  # only the first box is published (GOT-10k's test set)
        truth = np.vstack([truth, np.full((len(files) - 1, 4), np.nan)])
        unseen = np.zeros(len(files), bool)
    elif len(truth) != len(files):
        raise ValueError(f"{truth_file}: {len(truth)} boxes for {len(files)} images{_gap(files)}")
    else:
        unseen = np.isnan(truth).any(axis=1)
    return AnnotatedSequence(name, tuple(files), truth, unseen if absent is None else unseen | absent)


def _checked(sequence: AnnotatedSequence) -> AnnotatedSequence:
    if np.isnan(sequence.truth[0]).any():
        raise ValueError(f"{sequence.name}: no box in its first frame, so that no tracker can be started")
    return sequence


def _gap(files: list[Path]) -> str:
    """Which image is missing, where their names are numbers."""
    numbers = [_number(f) for f in files]
    for before, after, file in zip(numbers, numbers[1:], files, strict=False):
        if after > before + 1 >= 1:
            return f"; number {before + 1}, after {file.name}, is missing"
    return ""


def _number(file: Path) -> int:
    return int(file.stem) if file.stem.isdecimal() else -1


def _flags(file: Path, frames: int) -> NDArray[np.bool_]:
    """(N,) of a file of numbers, one a frame, true where they are not 0; all false without the file."""
    if not file.is_file():
        return np.zeros(frames, bool)
    fields = re.split(r"[\s,]+", file.read_text(encoding="utf-8").strip())
    try:
        values = np.array([float(field) for field in fields])
    except ValueError:
        raise ValueError(f"{file}: expected numbers, got {fields[0][:40]!r} ...") from None
    if len(values) != frames:
        raise ValueError(f"{file}: {len(values)} flags for {frames} images")
    return values != 0.0
