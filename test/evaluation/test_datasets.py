"""Layouts of the benchmarks, which frames they leave out, and what is said about broken ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scripted_tracking import numbered_images

from ros2_tracker.evaluation.datasets import detected_format, load_dataset
from ros2_tracker.evaluation.published_ranges import UAV123_PARTS


def boxes(count: int, first: int = 0) -> str:
    return "".join(f"{10 + i},20,30,40\n" for i in range(first, first + count))


def otb(root: Path, name: str, count: int = 4, truth: str | None = None) -> Path:
    numbered_images(root / name / "img", count)
    (root / name / "groundtruth_rect.txt").write_text(truth if truth is not None else boxes(count))
    return root / name


def test_otb(tmp_path: Path):
    otb(tmp_path, "b", truth="1,2,3,4\nnan,nan,nan,nan\n1,2,3,4\n1,2,3,4\n")
    otb(tmp_path, "a")
    dataset = load_dataset(tmp_path)
    assert (dataset.format, [s.name for s in dataset.sequences], dataset.left_out) == ("otb", ["a", "b"], [])
    b = dataset.sequences[1]
    assert b.absent.tolist() == [False, True, False, False]
    assert b.scorable.tolist() == [True, False, True, True]
    assert [int(b.image(i)[0, 0, 0]) for i in range(4)] == [0, 1, 2, 3]
    assert [s.name for s in load_dataset(tmp_path / "b").sequences] == ["b"], "a sequence's own folder"
    assert [s.name for s in load_dataset(tmp_path, names=["b"]).sequences] == ["b"]


def test_otb_with_two_targets_in_the_same_images(tmp_path: Path):
    numbered_images(tmp_path / "Jogging" / "img", 3)
    for number, first in ((1, 0), (2, 50)):
        (tmp_path / "Jogging" / f"groundtruth_rect.{number}.txt").write_text(boxes(3, first))
    sequences = load_dataset(tmp_path).sequences
    assert [(s.name, s.truth[0, 0]) for s in sequences] == [("Jogging-1", 10.0), ("Jogging-2", 60.0)]


def test_otb_sequences_that_are_shorter_than_their_folders(tmp_path: Path):
    otb(tmp_path, "David", 305, boxes(3))
    otb(tmp_path, "Diving", 5, boxes(3))
    david, diving = load_dataset(tmp_path).sequences
    assert [f.name for f in david.files] == ["0300.png", "0301.png", "0302.png"]
    assert [f.name for f in diving.files] == ["0001.png", "0002.png", "0003.png"]


def test_got10k(tmp_path: Path):
    for name in ("GOT-10k_Val_000001", "GOT-10k_Val_000002"):
        numbered_images(tmp_path / "val" / name, 4, ".jpg")
        (tmp_path / "val" / name / "groundtruth.txt").write_text(boxes(4))
        (tmp_path / "val" / name / "absence.label").write_text("0\n1\n0\n0\n")
        (tmp_path / "val" / name / "cover.label").write_text("8\n8\n0\n3\n")
    (tmp_path / "val" / "list.txt").write_text("GOT-10k_Val_000002\n")
    dataset = load_dataset(tmp_path)
    assert (dataset.format, len(dataset.sequences)) == ("got10k", 2)
    assert dataset.sequences[0].absent.tolist() == [False, True, True, False]
    assert not dataset.convention.first_frame
    assert dataset.convention.clipped
    assert [s.name for s in load_dataset(tmp_path / "val").sequences] == ["GOT-10k_Val_000002"], "the folder's list"


def test_a_listed_sequence_that_is_not_there_is_left_out(tmp_path: Path):
    otb(tmp_path, "a")
    (tmp_path / "list.txt").write_text("a\nb\n")
    dataset = load_dataset(tmp_path)
    assert [s.name for s in dataset.sequences] == ["a"]
    assert "there is no sequence 'b', though the folder's list names it" in dataset.left_out[0].reason


def test_got10k_test_set_has_only_a_first_box(tmp_path: Path):
    numbered_images(tmp_path / "GOT-10k_Test_000001", 4)
    (tmp_path / "GOT-10k_Test_000001" / "groundtruth.txt").write_text("1,2,3,4\n")
    (sequence,) = load_dataset(tmp_path, "got10k").sequences
    assert sequence.scorable.tolist() == [True, False, False, False]
    assert not sequence.absent.any(), "not known is not the same as not there"


def test_lasot(tmp_path: Path):
    home = tmp_path / "airplane" / "airplane-1"
    numbered_images(home / "img", 5)
    (home / "groundtruth.txt").write_text(boxes(5))
    (home / "full_occlusion.txt").write_text("0,1,0,0,0")
    (home / "out_of_view.txt").write_text("0,0,0,1,0")
    dataset = load_dataset(tmp_path)
    assert (dataset.format, dataset.sequences[0].name) == ("lasot", "airplane-1")
    assert dataset.sequences[0].scorable.tolist() == [True, False, True, False, True]


def test_uav123(tmp_path: Path):
    numbered_images(tmp_path / "data_seq" / "UAV123" / "bike1", 3)
    numbered_images(tmp_path / "data_seq" / "UAV123" / "truck4", 600)
    truth = tmp_path / "anno" / "UAV123"
    truth.mkdir(parents=True)
    (truth / "bike1.txt").write_text("1,2,3,4\nNaN,NaN,NaN,NaN\n1,2,3,4\n")
    (truth / "truck4_1.txt").write_text(boxes(577))
    (truth / "truck4_2.txt").write_text(boxes(685))
    dataset = load_dataset(tmp_path)
    assert dataset.format == "uav123"
    assert [(s.name, len(s)) for s in dataset.sequences] == [("bike1", 3), ("truck4_1", 577)]
    assert dataset.convention.unknown_counts
    # Of the second part, images 577 to 1261, only 24 are there.
    assert [(name, "685 boxes for 24 images" in why) for name, why in dataset.left_out] == [("truck4_2", True)]


def test_parts_of_uav123_are_in_order():
    assert len(UAV123_PARTS) == 51
    assert UAV123_PARTS["uav1_3"] == ("uav1", 2473, 3469)
    for folder, first, last in UAV123_PARTS.values():
        assert 1 <= first < last, folder


def test_vot_with_polygons(tmp_path: Path):
    numbered_images(tmp_path / "ants" / "color", 3, ".jpg")
    lines = ["10,20,40,10,50,40,20,50", "10,20,30,40", "nan,nan,nan,nan,nan,nan,nan,nan"]
    (tmp_path / "ants" / "groundtruth.txt").write_text("\n".join(lines))
    (tmp_path / "list.txt").write_text("ants\n")
    dataset = load_dataset(tmp_path)
    (sequence,) = dataset.sequences
    assert dataset.format == "vot"
    np.testing.assert_array_equal(sequence.truth[:2], [[10, 10, 40, 40], [10, 20, 30, 40]])
    np.testing.assert_array_equal(sequence.polygons[1], [10, 20, 40, 20, 40, 60, 10, 60])
    assert sequence.absent.tolist() == [False, False, True]


def test_vot_masks_are_refused_by_name(tmp_path: Path):
    numbered_images(tmp_path / "ants" / "color", 1, ".jpg")
    (tmp_path / "ants" / "groundtruth.txt").write_text("m10,20,3,4,1,2,3\n")
    (left_out,) = load_dataset(tmp_path, "vot").left_out
    assert "groundtruth.txt:1: " in left_out.reason
    assert "mask" in left_out.reason


def test_missing_image_is_named_and_the_others_go_on(tmp_path: Path):
    (otb(tmp_path, "broken") / "img" / "0003.png").unlink()
    otb(tmp_path, "whole")
    dataset = load_dataset(tmp_path)
    assert [s.name for s in dataset.sequences] == ["whole"]
    (left_out,) = dataset.left_out
    assert left_out.name == "broken"
    assert "4 boxes for 3 images; number 3, after 0002.png, is missing" in left_out.reason


@pytest.mark.parametrize(
    ("truth", "reason"),
    [
        ("nan,nan,nan,nan\n" + boxes(3), "no box in its first frame"),
        ("1,2,3\n" + boxes(3), r"groundtruth_rect\.txt:1: expected a box"),
        ("1,2,3,4\n1,2,-3,4\n" + boxes(2), r"groundtruth_rect\.txt:2: box '1,2,-3,4'"),
        ("", "holds no box"),
    ],
)
def test_broken_truth_leaves_the_sequence_out_with_the_reason(tmp_path: Path, truth: str, reason: str):
    otb(tmp_path, "broken", truth=truth)
    (left_out,) = load_dataset(tmp_path).left_out
    with pytest.raises(ValueError, match=reason):
        raise ValueError(left_out.reason)


def test_flags_must_fit(tmp_path: Path):
    home = tmp_path / "airplane-1"
    numbered_images(home / "img", 3)
    (home / "groundtruth.txt").write_text(boxes(3))
    (home / "full_occlusion.txt").write_text("0,1")
    assert "full_occlusion.txt: 2 flags for 3 images" in load_dataset(tmp_path).left_out[0].reason


@pytest.mark.parametrize(
    ("layout", "names", "match"),
    [
        (None, ["absent"], "there is no sequence 'absent'; there are a"),
        ("uav123", None, "no sequence in the layout of uav123"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, layout: str | None, names: list[str] | None, match: str):
    otb(tmp_path, "a")
    with pytest.raises(ValueError, match=match):
        load_dataset(tmp_path, layout, names)


def test_folders_that_are_no_dataset(tmp_path: Path):
    with pytest.raises(ValueError, match="absent: no such folder"):
        load_dataset(tmp_path / "absent")
    numbered_images(tmp_path / "images", 2)
    with pytest.raises(ValueError, match="--format names the layout"):
        detected_format(tmp_path)


def test_digest_changes_with_truth_and_images(tmp_path: Path):
    folder = otb(tmp_path, "a")
    first = load_dataset(tmp_path).sequences[0].digest()
    assert load_dataset(tmp_path).sequences[0].digest() == first
    (folder / "groundtruth_rect.txt").write_text(boxes(4, 1))
    changed = load_dataset(tmp_path).sequences[0].digest()
    (folder / "img" / "0002.png").write_bytes(b"another")
    assert len({first, changed, load_dataset(tmp_path).sequences[0].digest()}) == 3


def test_real_sequences(sequences: Path):
    dataset = load_dataset(sequences)
    assert (dataset.format, len(dataset.sequences), dataset.left_out) == ("otb", 26, [])
    assert {s.name for s in dataset.sequences if s.absent.any()} == {"uav123_group3_2", "uav123_person9"}
