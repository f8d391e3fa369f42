"""Fixtures that several folders of tests share: the shipped network, and a tiny deterministic one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ros2_tracker.engines.base import Engines, NamedArrays
from ros2_tracker.evaluation.synthetic import SyntheticClip
from ros2_tracker.models.variant import load_variant
from ros2_tracker.tracking.network import TrackingNetwork

# Helper modules of the tests are found from here: pytest's importlib mode does not look.
sys.path.insert(0, str(Path(__file__).resolve().parent))

_CELLS = 16


class BlobEngine:
    """A network that finds the bright blob in the search region: an `Engine` of a few lines, exact and fast."""

    description = "finds bright blobs"
    batch = None
    inputs: Mapping[str, tuple[int | None, ...]] = {"template": (None, 128, 128, 3), "search": (None, 256, 256, 3)}
    outputs: Mapping[str, tuple[int | None, ...]] = {
        "score_map": (None, _CELLS, _CELLS),
        "ltrb": (None, 4, _CELLS, _CELLS),
    }

    def __init__(self) -> None:
        self.runs = 0
        self.before_run: Callable[[], None] = lambda: None
        """Called at the start of each run: may raise, or wait for the test."""
        self.broken = False
        """Whether to answer with NaN."""

    def run(self, targets: Sequence[NamedArrays]) -> list[NamedArrays]:
        self.runs += 1
        self.before_run()
        return [self._answer(inputs["search"]) for inputs in targets]

    def _answer(self, search: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        size = search.shape[0]
        bright = search[..., 1] > 150
        centres = (np.arange(_CELLS, dtype=np.float32) + 0.5) / _CELLS
        score_map = np.full((_CELLS, _CELLS), 0.01, np.float32)
        ltrb = np.full((4, _CELLS, _CELLS), 0.1, np.float32)
        if bright.any():
            rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
            left, right = columns[0] / size, (columns[-1] + 1) / size
            top, bottom = rows[0] / size, (rows[-1] + 1) / size
            distance = (centres[:, None] - (top + bottom) / 2) ** 2 + (centres[None, :] - (left + right) / 2) ** 2
            score_map = (0.01 + 0.98 * np.exp(-distance / 0.002)).astype(np.float32)
            x, y = np.meshgrid(centres, centres)
            ltrb = np.stack([x - left, y - top, right - x, bottom - y]).astype(np.float32)
        if self.broken:
            score_map[:] = np.nan
        return {"score_map": score_map, "ltrb": ltrb}


@pytest.fixture
def blob_engine() -> BlobEngine:
    return BlobEngine()


@pytest.fixture
def blob_network(blob_engine: BlobEngine) -> TrackingNetwork:
    """The default variant's settings on `blob_engine`."""
    return TrackingNetwork(load_variant("onestream-192"), Engines(blob_engine))


@pytest.fixture(scope="session")
def network() -> TrackingNetwork:
    """The shipped network."""
    return TrackingNetwork.load("default")


@pytest.fixture(scope="session")
def clip() -> SyntheticClip:
    """The demo's clip at half rate."""
    return SyntheticClip(150, fps=15.0)


@pytest.fixture(scope="session")
def sequences() -> Path:
    """The folder of real sequences in OTB layout; the test is skipped where there is none."""
    data = Path(os.environ.get("ROS2_TRACKER_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    folder = data / "sequences"
    if not folder.is_dir():
        pytest.skip(f"no real footage: {folder} does not exist (ROS2_TRACKER_DATA names the folder above it)")
    return folder
