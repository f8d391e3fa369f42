"""curves.csv: one row every few steps; rows after the checkpoint that a run goes on from are dropped."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from ros2_tracker.training.state import put_in_place

CURVES = "curves.csv"


class Curves:
    """The file, open for more rows."""

    def __init__(self, file: Path, columns: Sequence[str], step: int) -> None:
        """Open it, keeping rows up to `step`; ValueError when an older file has other columns."""
        self.columns = tuple(columns)
        kept = _rows(file, self.columns, step) if file.is_file() and step > 0 else []
        part = file.with_name(f".{file.name}.part")
        with part.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([self.columns, *kept])
        put_in_place(part, file)
        self._stream = file.open("a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._stream)

    def add(self, values: Sequence[float | int | str]) -> None:
        """Append a row; the first value is the step."""
        self._writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in values])
        self._stream.flush()

    def sync(self) -> None:
        """Wait until all rows are on the disk."""
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def _rows(file: Path, columns: tuple[str, ...], step: int) -> list[list[str]]:
    """Whole rows up to a step; the last one may have been cut off by a kill."""
    with file.open(newline="", encoding="utf-8", errors="replace") as stream:
        rows = list(csv.reader(stream))
    if rows and tuple(rows[0]) != columns:
        raise ValueError(f"{file}: has columns {','.join(rows[0])[:200]}, expected {','.join(columns)}")
    return [row for row in rows[1:] if len(row) == len(columns) and row[0].isdigit() and int(row[0]) <= step]
