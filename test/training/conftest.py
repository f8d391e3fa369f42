"""Small packs rendered from the demo clip: target, look-alike and pieces of the landscape as tracks."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from ros2_tracker.evaluation.synthetic import SyntheticClip
from ros2_tracker.tracking.geometry import Box

# Helper modules of these tests are found from here: pytest's importlib mode does not look.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from rendered_packs import context_crop, write_pack


@pytest.fixture(scope="session")
def load_script() -> Callable[[Path], ModuleType]:
    """A script of ours as a module."""

    def load(file: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """The networks here are too small for more."""
    torch = pytest.importorskip("torch", reason="training needs torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def rendered():
    """name -> list of (track, JPEG, box): a video of three tracks, and stills."""
    clip = SyntheticClip(24, width=320, height=240, fps=3.0)
    video, stills = [], []
    places = [Box(20, 30, 40, 30), Box(200, 60, 30, 44), Box(120, 170, 50, 36), Box(250, 180, 36, 36)]
    for index in range(len(clip)):
        frame = clip.render(index)
        if frame.visible and index < 18:
            video.append((7, *context_crop(frame.image, frame.box)))
        video.append((9, *context_crop(frame.image, places[0])))
        if index < 10:
            video.append((8, *context_crop(frame.image, places[1])))
        if index % 6 == 0:
            stills += [(len(stills) + i, *context_crop(frame.image, box)) for i, box in enumerate(places[2:])]
    return {"video": video, "stills": stills}


@pytest.fixture(scope="session")
def packs(tmp_path_factory, rendered):
    """Folder with the packs `video` (tracks 7, 8, 9) and `stills`."""
    folder = tmp_path_factory.mktemp("packs")
    for name, crops in rendered.items():
        write_pack(folder, name, crops)
    return folder


@pytest.fixture(scope="session")
def library(packs):
    from ros2_tracker.training.library import Library
    from ros2_tracker.training.packs import Pack, find_packs

    return Library([Pack(index) for index in find_packs(packs)])


@pytest.fixture(scope="session")
def real_packs() -> Path:
    """The folder of real packs; the test is skipped where there is none."""
    data = Path(os.environ.get("ROS2_TRACKER_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
    folder = data / "train"
    if not folder.is_dir():
        pytest.skip(f"no real packs: {folder} does not exist (ROS2_TRACKER_DATA names the folder above it)")
    return folder
