"""Annotated sequences become a pack that training reads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from ros2_tracker.training.packs import Pack

SCRIPT = Path(__file__).parents[2] / "scripts/pack_sequences.py"


@pytest.fixture(scope="module")
def script(load_script):
    return load_script(SCRIPT)


def write_sequence(folder: Path, boxes: list[tuple[float, ...]], number: int = 0) -> None:
    """A frame of a grey level of its own each, OTB's layout."""
    (folder / "img").mkdir(parents=True)
    for i in range(len(boxes)):
        level = np.full((120, 160, 3), 10 * number + 2 * i, np.uint8)
        cv2.imwrite(str(folder / "img" / f"{i + 1:04d}.png"), level)
    lines = [",".join(f"{value:g}" for value in box) for box in boxes]
    (folder / "groundtruth_rect.txt").write_text("\n".join(lines) + "\n")


def levels(index: Path) -> dict[int, list[int]]:
    """Grey level of each track's crops, in their order."""
    source = Pack(index)
    found: dict[int, list[int]] = {}
    for i, (track, *_) in enumerate(json.loads(index.read_text())):
        found.setdefault(track, []).append(int(source.read(i)[176, 176, 0]))
    return found


NAN = (float("nan"),) * 4


def test_frames_are_spread_over_those_in_which_the_target_is_in_view(script, tmp_path, capsys):
    moving = [(20.0 + i, 30.0, 40.0, 30.0) for i in range(40)]
    moving[10:20] = [NAN] * 10
    moving[30] = (-35.0, 30.0, 40.0, 30.0)  # an eighth of it is in the image
    moving[31] = (20.0, 30.0, 90.0, 10.0)  # too long
    moving[32] = (20.0, 30.0, 3.0, 30.0)  # too thin
    write_sequence(tmp_path / "set/a", moving)
    write_sequence(tmp_path / "set/b", [(20.0, 30.0, 40.0, 30.0)] * 12, 5)
    write_sequence(tmp_path / "set/hidden", [(20.0, 30.0, 40.0, 30.0)] * 5 + [NAN] * 15)
    write_sequence(tmp_path / "set/broken", [(20.0, 30.0, 40.0, 30.0)] * 12)
    (tmp_path / "set/broken/img/0001.png").write_bytes(b"no image")
    index = tmp_path / "pack.json"
    assert script.pack([tmp_path / "set"], index, 27, set()) == 2
    said = capsys.readouterr().err
    assert "hidden: shows its target in 5 frames, 8 are needed" in said
    assert "left out: broken: " in said
    assert "0001.png" in said
    first, second = levels(index).values()
    assert first == [2 * i for i in range(40) if i not in (*range(10, 20), 30, 31, 32)]
    assert second == [50 + 2 * i for i in range(12)]

    assert script.pack([tmp_path / "set"], tmp_path / "fewer.json", 9, {"b", "hidden", "broken"}) == 1
    (fewer,) = levels(tmp_path / "fewer.json").values()
    assert len(fewer) == 9
    assert (fewer[0], fewer[-1]) == (0, 78)
    assert max(np.diff(fewer)) <= 2 * (10 + 4)


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=120)


def test_what_is_wrong_is_said_in_a_line(tmp_path):
    write_sequence(tmp_path / "set/a", [(20.0, 30.0, 40.0, 30.0)] * 12)
    nowhere = run(tmp_path / "none", "-o", tmp_path / "p")
    assert (nowhere.returncode, nowhere.stderr.count("\n")) == (1, 1)
    assert f"{tmp_path / 'none'}: no such folder" in nowhere.stderr
    typo = run(tmp_path / "set", "-o", tmp_path / "p", "--without", "a,c")
    assert "no sequence is called c" in typo.stderr
    assert not list(tmp_path.glob("p*"))
    fine = run(tmp_path / "set", "-o", tmp_path / "p")
    assert (fine.returncode, fine.stdout) == (0, f"{tmp_path / 'p.json'}: 1 tracks\n")
    again = run(tmp_path / "set", "-o", tmp_path / "p")
    assert again.returncode == 1
    assert "is there already" in again.stderr
