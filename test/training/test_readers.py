"""Folders of the public data sets: tracks, crops cut as the packs were, what is missing is named."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from ros2_tracker.training.config import DataConfig, SourceConfig
from ros2_tracker.training.library import Library
from ros2_tracker.training.readers import Annotated, FrameCrops, open_folder
from ros2_tracker.training.source import CropError
from ros2_tracker.training.sources import open_library

BOX = (60, 40, 24, 30)


def picture(file, box=BOX, size=(160, 120)):
    """A grey image with a red object."""
    image = np.full((size[1], size[0], 3), 90, np.uint8)
    x, y, w, h = box
    image[y : y + h, x : x + w] = (10, 20, 220)  # BGR
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), image)
    return file


def lines(boxes):
    return "".join(",".join(str(v) for v in box) + "\n" for box in boxes)


def got10k(folder, name="GOT-10k_Train_000001", count=5):
    for i in range(count):
        picture(folder / name / f"{i + 1:08d}.jpg")
    (folder / name / "groundtruth.txt").write_text(lines([BOX] * count))
    (folder / name / "absence.label").write_text("0\n" * (count - 1) + "1\n")
    (folder / name / "cover.label").write_text("8\n" * count)
    return folder


def test_got10k_leaves_out_absent_frames(tmp_path):
    got10k(tmp_path)
    got10k(tmp_path, "GOT-10k_Train_000002", 3)
    source = open_folder("got10k", tmp_path, "got10k")
    assert source.tracks.tolist() == [0] * 4 + [1] * 2
    scale = 352 / (6 * (24 * 30) ** 0.5)
    np.testing.assert_allclose(source.boxes[0], [176, 176, 24 * scale, 30 * scale], rtol=1e-6)


def test_crops_show_the_object_in_its_box(tmp_path):
    source = open_folder("got10k", got10k(tmp_path), "got10k")
    image = source.read(0)
    assert image.shape == (352, 352, 3)
    red = (image[..., 0] > 150) & (image[..., 1] < 80)
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    cx, cy, w, h = source.boxes[0]
    assert [columns[0], columns[-1] + 1] == pytest.approx([cx - w / 2, cx + w / 2], abs=3)
    assert [rows[0], rows[-1] + 1] == pytest.approx([cy - h / 2, cy + h / 2], abs=3)


def test_lasot(tmp_path):
    home = tmp_path / "bird" / "bird-1"
    for i in range(3):
        picture(home / "img" / f"{i + 1:08d}.jpg")
    (home / "groundtruth.txt").write_text(lines([BOX] * 3))
    (home / "full_occlusion.txt").write_text("0,1,0")
    (home / "out_of_view.txt").write_text("0,0,0")
    assert len(open_folder("lasot", tmp_path, "lasot").tracks) == 2


def test_trackingnet(tmp_path):
    for part, name, count in (("TRAIN_0", "abc_0", 3), ("TRAIN_1", "xyz_1", 2), ("TRAIN_1", "short", 2)):
        for i in range(count):
            picture(tmp_path / part / "frames" / name / f"{i}.jpg")
        anno = tmp_path / part / "anno" / f"{name}.txt"
        anno.parent.mkdir(exist_ok=True)
        anno.write_text(lines([BOX] * (count + (name == "short"))))
    source = open_folder("trackingnet", tmp_path, "trackingnet")
    assert source.tracks.tolist() == [0, 0, 0, 1, 1]
    assert len(source.left_out) == 1
    assert "3 boxes for 2 images" in source.left_out[0]
    assert len(open_folder("trackingnet", tmp_path / "TRAIN_0", "t").tracks) == 3
    with pytest.raises(ValueError, match="no sequence in the layout of trackingnet"):
        open_folder("trackingnet", tmp_path / "TRAIN_0" / "anno", "t")


def coco(folder, annotations):
    picture(folder / "train2017" / "1.jpg")
    (folder / "annotations").mkdir()
    index = {"images": [{"id": 5, "file_name": "1.jpg"}, {"id": 6, "file_name": "2.jpg"}], "annotations": annotations}
    (folder / "annotations" / "instances_train2017.json").write_text(json.dumps(index))
    return folder


def test_coco_stills_are_tracks_of_their_own(tmp_path):
    coco(
        tmp_path,
        [
            {"id": 1, "image_id": 5, "bbox": BOX, "iscrowd": 0},
            {"id": 2, "image_id": 5, "bbox": BOX, "iscrowd": 1},
            {"id": 3, "image_id": 5, "bbox": [1, 1, 2, 40], "iscrowd": 0},
            {"id": 4, "image_id": 6, "bbox": BOX},
        ],
    )
    source = open_folder("coco", tmp_path, "coco")
    assert len(np.unique(source.tracks)) == len(source.tracks) == 2
    assert [text.split(":")[0] for text in source.left_out] == ["annotation 3"]
    assert source.read(0).shape == (352, 352, 3)
    with pytest.raises(CropError, match=r"2\.jpg: does not exist"):
        source.read(1)


@pytest.mark.parametrize("annotation", [{"id": 1, "image_id": 9, "bbox": BOX}, {"id": 1, "image_id": 5}, 4])
def test_coco_annotations_that_fit_nothing_are_refused(tmp_path, annotation):
    with pytest.raises(ValueError, match=r"instances_train2017\.json: cannot be read as annotations"):
        open_folder("coco", coco(tmp_path, [annotation]), "coco")


def test_broken_images_and_boxes_outside_are_named(tmp_path):
    good = picture(tmp_path / "a.jpg")
    broken = tmp_path / "b.jpg"
    broken.write_bytes(b"no image")
    boxes = np.array([BOX, (400, 40, 24, 30), (60, -200, 24, 30)], float)
    source = FrameCrops("x", [Annotated("t", (broken, good, good), boxes)])
    with pytest.raises(CropError, match=r"b\.jpg: cannot be read as an image"):
        source.read(0)
    for index in (1, 2):
        with pytest.raises(CropError, match=r"a\.jpg: the box .* lies outside its image of 160x120 px"):
            source.read(index)


def test_boxes_without_use_are_left_out_and_named(tmp_path):
    file = picture(tmp_path / "a.jpg")
    boxes = np.array([BOX, (1, 1, 900, 5), (1, 1, 3, 3), (1, 1, np.nan, 3)], float)
    source = FrameCrops("x", [Annotated("t", (file,) * 4, boxes)])
    assert len(source.tracks) == 1
    assert source.left_out == ["t: 2 boxes below 4 px or too long, the first is 1,1,900,5 (a.jpg)"]
    with pytest.raises(ValueError, match="no box of these data can be used"):
        FrameCrops("x", [Annotated("t", (file,), boxes[2:3])])


def test_sources_of_a_config_are_one_library(tmp_path, packs):
    got10k(tmp_path / "got" / "train")
    sources = (SourceConfig(path="packs", only=("stills",)), SourceConfig(format="got10k", path="got/train"))
    (tmp_path / "packs").symlink_to(packs)
    library = open_library(DataConfig(folder=str(tmp_path), sources=sources))
    assert [source.name for source in library.sources] == ["stills", "got/train"]
    assert isinstance(library, Library)
    assert library.read(len(library) - 1).shape == (352, 352, 3)
    with pytest.raises(ValueError, match="there is no pack 'none'"):
        open_library(DataConfig(folder=str(tmp_path), sources=(SourceConfig(path="packs", only=("none",)),)))
    with pytest.raises(ValueError, match="no such folder"):
        open_library(DataConfig(folder=str(tmp_path), sources=(SourceConfig(format="coco", path="nowhere"),)))
