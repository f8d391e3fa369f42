"""Which frames a network is calibrated and checked with, and the crops of them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from ros2_tracker.evaluation.calibration import Place, cut, find_sequences, plan
from ros2_tracker.evaluation.synthetic import SyntheticClip
from ros2_tracker.models.variant import load_variant
from ros2_tracker.tracking.onestream import OneStream

FAMILY = OneStream(load_variant("onestream-192"))


def sequence(folder: Path, frames: int, unknown: tuple[int, ...] = ()) -> Path:
    """The rendered clip in OTB layout; a line of NaNs at the frames whose truth is not known."""
    (folder / "img").mkdir(parents=True)
    clip = SyntheticClip(frames, 160, 120, fps=10.0)
    lines = []
    for i, found in enumerate(clip.frames()):
        cv2.imwrite(str(folder / "img" / f"{i:04d}.jpg"), found.image)
        lines.append("nan,nan,nan,nan" if i in unknown else ",".join(f"{v:.2f}" for v in found.box.as_tuple()))
    (folder / "groundtruth_rect.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture
def three(tmp_path: Path) -> Path:
    for name, frames in (("a", 4), ("b", 21), ("c", 31)):
        sequence(tmp_path / name, frames, unknown=(0, 3) if name == "b" else ())
    (tmp_path / ".hidden").mkdir()
    return tmp_path


def test_sequences_in_order_of_their_names(three: Path):
    assert [s.name for s in find_sequences(three)] == ["a", "b", "c"]
    assert [s.name for s in find_sequences(three / "b")] == ["b"]


def test_frames_are_spread_and_kept_apart(three: Path):
    found = plan(find_sequences(three), 23, 10)
    counts = [sum(place.sequence == i for place in found.calibration) for i in range(3)]
    assert counts == [3, 10, 10]  # all of the short one: three have a predecessor that shows the target
    assert len(found.check) == 10
    assert set(found.calibration).isdisjoint(found.check)
    assert found.calibration == sorted(found.calibration)
    frames = [place.frame for place in found.calibration if place.sequence == 2]
    assert min(frames) <= 3
    assert max(frames) >= 28
    assert max(np.diff(frames)) <= 4
    # The first frame that shows the target is the template's; unknown ones are not asked about.
    assert not {Place(0, 0), Place(1, 0), Place(1, 1), Place(1, 3), Place(2, 0)} & {*found.calibration, *found.check}


def test_some_are_kept_back_to_check_with(three: Path):
    sequences = find_sequences(three)
    found = plan(sequences, 1000, 500)
    assert (len(found.calibration), len(found.check)) == (34, 17)  # of 3 + 18 + 30
    assert set(found.calibration).isdisjoint(found.check)
    assert len(plan(sequences, 1000, 0).calibration) == 51


def test_crops_are_jittered_around_the_true_box_and_always_the_same(three: Path):
    sequences = find_sequences(three)
    places = plan(sequences, 20, 5).calibration
    first, second = cut(FAMILY, sequences, places), cut(FAMILY, sequences, places)
    assert first.left_out == 0
    assert len(first.looks) == 20
    offsets = []
    for place, one, other in zip(places, first.looks, second.looks, strict=True):
        assert np.array_equal(one.inputs["search"], other.inputs["search"])
        x, y, w, h = sequences[place.sequence].ground_truth[place.frame - 1]  # where a tracker would search
        offsets.append(np.hypot(one.last.cx - x - w / 2, one.last.cy - y - h / 2) / np.sqrt(w * h))
    assert 0.05 < np.nanmedian(offsets) < 0.4
    assert np.nanmax(offsets) < 1.0
    template = first.looks[0].inputs["template"]
    assert template.shape == (128, 128, 3)
    same = [look.inputs["template"] is template for look in first.looks]
    assert same == [place.sequence == 0 for place in places]


def test_what_cannot_be_read_is_counted(three: Path):
    sequences = find_sequences(three)
    places = plan(sequences, 20, 5).calibration
    in_last = [place for place in places if place.sequence == 2]
    sequences[2].files[in_last[0].frame].write_bytes(b"broken")
    assert cut(FAMILY, sequences, places).left_out == 1
    sequences[1].files[1].write_bytes(b"broken")  # its template: all of it is lost
    found = cut(FAMILY, sequences, places)
    assert found.left_out == 1 + sum(place.sequence == 1 for place in places)
    assert len(found.looks) == 20 - found.left_out


def test_box_outside_its_image_is_counted(three: Path):
    (sequence_of_c,) = find_sequences(three / "c")
    sequence_of_c.ground_truth[9:11] = (5000.0, 5000.0, 20.0, 20.0)
    found = cut(FAMILY, [sequence_of_c], [Place(0, 5), Place(0, 10)])
    assert (len(found.looks), found.left_out) == (1, 1)


def test_nothing_to_calibrate_with(tmp_path: Path):
    with pytest.raises(ValueError, match="there are no sequences in this folder"):
        find_sequences(tmp_path)
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        find_sequences(tmp_path / "nowhere")
    folder = sequence(tmp_path / "one", 3, unknown=(1, 2))
    with pytest.raises(ValueError, match="no frame with a true box after the first"):
        plan(find_sequences(folder), 10, 5)
    (folder / "groundtruth_rect.txt").unlink()
    with pytest.raises(ValueError, match=r"one: there is no groundtruth_rect\.txt"):
        find_sequences(folder)
