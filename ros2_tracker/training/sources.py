"""From a config's `data` to the library of crops."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ros2_tracker.training.config import DataConfig, SourceConfig
from ros2_tracker.training.library import Library
from ros2_tracker.training.packs import Pack, find_packs
from ros2_tracker.training.readers import open_folder
from ros2_tracker.training.source import CropSource


def open_library(config: DataConfig) -> Library:
    """All sources; ValueError names what is missing or broken."""
    folder = Path(config.folder)
    return Library([source for entry in config.sources for source in _opened(folder / entry.path, entry)])


def _opened(folder: Path, entry: SourceConfig) -> Iterator[CropSource]:
    if entry.format != "packs":
        yield open_folder(entry.format, folder, entry.format if entry.path == "." else entry.path)
        return
    found = find_packs(folder)
    names = [path.stem for path in found]
    for name in entry.only:
        if name not in names:
            raise ValueError(f"{folder}: there is no pack {name!r}; there are {', '.join(names)}")
    yield from (Pack(path) for path in found if not entry.only or path.stem in entry.only)
