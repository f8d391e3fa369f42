"""Frames from files and folders, and what is said about broken ones."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from ros2_tracker.evaluation.results import OverlayVideo
from ros2_tracker.evaluation.sequences import open_frames, read_ground_truth

pytestmark = pytest.mark.filterwarnings("error")


def write_images(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        cv2.imwrite(str(folder / name), np.full((24, 32, 3), 10 * i, np.uint8))


def levels(source) -> list[int]:
    return [round(float(image.mean()) / 10) for image in source]


def test_images_come_in_natural_order(tmp_path: Path):
    write_images(tmp_path, ["10.png", "9.png", "a2.png", "a10.PNG", "1.png"])
    (tmp_path / "notes.txt").write_text("not an image")
    source = open_frames(tmp_path)
    assert [f.name for f in source.files] == ["1.png", "9.png", "10.png", "a2.png", "a10.PNG"]
    assert len(source) == 5
    assert levels(source) == levels(source) == [4, 1, 0, 2, 3], "can be iterated again"
    assert (source.ground_truth, source.fps, source.name) == (None, None, tmp_path.name)


@pytest.mark.parametrize("separator", [",", ", ", " ", "\t", "  "])
def test_otb_layout(tmp_path: Path, separator: str):
    write_images(tmp_path / "img", ["0001.jpg", "0002.jpg", "0003.jpg"])
    rows = [["1.5", "2", "3", "4"], ["NaN"] * 4, ["5", "6", "7", "8"]]
    (tmp_path / "groundtruth_rect.txt").write_text("\n".join(separator.join(row) for row in rows) + "\n")
    source = open_frames(str(tmp_path))
    assert source.name == tmp_path.name
    assert all(image.shape == (24, 32, 3) and image.dtype == np.uint8 for image in source)
    np.testing.assert_array_equal(source.ground_truth, [[1.5, 2, 3, 4], [np.nan] * 4, [5, 6, 7, 8]])


def test_first_box_alone_leaves_the_others_unknown(tmp_path: Path):
    write_images(tmp_path, ["1.png", "2.png", "3.png"])
    (tmp_path / "groundtruth_rect.txt").write_text("1,2,3,4\n")
    truth = open_frames(tmp_path).ground_truth
    np.testing.assert_array_equal(truth[0], [1, 2, 3, 4])
    assert np.isnan(truth[1:]).all()
    assert truth.shape == (3, 4)


def test_number_of_boxes_must_fit(tmp_path: Path):
    write_images(tmp_path, ["1.png", "2.png", "3.png"])
    (tmp_path / "groundtruth_rect.txt").write_text("1,2,3,4\n1,2,3,4\n")
    with pytest.raises(ValueError, match=r"groundtruth_rect\.txt: 2 boxes for 3 images"):
        open_frames(tmp_path)


@pytest.mark.parametrize(
    "line", ["1,2,3", "1,2,3,4,5", "a,b,c,d", "", "1,2,nan,4", "1,2,-3,4", "inf,2,3,4", "1,,3,4", "1;2"]
)
def test_broken_line_is_named(tmp_path: Path, line: str):
    file = tmp_path / "truth.txt"
    file.write_text(f"1,2,3,4\n{line}\n1,2,3,4\n")
    with pytest.raises(ValueError, match=r"truth\.txt:2: "):
        read_ground_truth(file)


def test_box_without_area_is_not_visible(tmp_path: Path):
    file = tmp_path / "truth.txt"
    file.write_text("\ufeff1,2,3,4\r\n0,0,0,0\r\n")
    assert np.isnan(read_ground_truth(file)).all(axis=1).tolist() == [False, True]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe\x00\x01"])
def test_ground_truth_without_boxes_is_named(tmp_path: Path, content: bytes):
    file = tmp_path / "truth.txt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"truth\.txt: "):
        read_ground_truth(file)


def test_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match="absent: no such file or folder"):
        open_frames(tmp_path / "absent")


def test_folder_without_images_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=f"{tmp_path.name}: no images"):
        open_frames(tmp_path)


def test_unreadable_image_is_named_when_its_turn_comes(tmp_path: Path):
    write_images(tmp_path, ["1.png", "3.png"])
    (tmp_path / "2.png").write_bytes(b"\x89PNG but not really")
    images = iter(open_frames(tmp_path))
    next(images)
    with pytest.raises(ValueError, match=r"2\.png: cannot be read"):
        next(images)


def test_video_is_read_back(tmp_path: Path):
    file = tmp_path / "clip.mp4"
    with OverlayVideo(file, 12.5) as video:
        for i in range(7):
            video.write(np.full((48, 64, 3), 10 * i, np.uint8))
    source = open_frames(file)
    assert len(source) == 7
    assert source.fps == pytest.approx(12.5)
    assert (source.name, source.ground_truth) == ("clip", None)
    assert levels(source) == levels(source) == list(range(7))


def test_file_that_is_no_video_is_named(tmp_path: Path):
    file = tmp_path / "clip.mp4"
    file.write_bytes(b"no video" * 100)
    with pytest.raises(ValueError, match=r"clip\.mp4: cannot be opened as a video"):
        open_frames(file)
