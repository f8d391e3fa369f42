"""Packs: what is read, what is refused, what is left out and named."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from rendered_packs import write_pack

from ros2_tracker.tracking.geometry import Box
from ros2_tracker.training.library import Library
from ros2_tracker.training.packs import Pack, PackWriter, find_packs
from ros2_tracker.training.source import CropError, box_problem


def edited(folder, tmp_path, change, name="video"):
    """Index of a copy of a pack after `change(entries)`."""
    for suffix in (".bin", ".json"):
        shutil.copy(folder / f"{name}{suffix}", tmp_path)
    index = tmp_path / f"{name}.json"
    entries = json.loads(index.read_text())
    change(entries)
    index.write_text(json.dumps(entries))
    return index


def test_reads_crops_in_the_order_of_tracks(packs, rendered):
    pack = Pack(packs / "video.json")
    assert pack.name == "video"
    assert pack.tracks.tolist() == sorted(track for track, _, _ in rendered["video"])
    assert pack.left_out == []
    first_of_9 = int(np.flatnonzero(pack.tracks == 9)[0])
    expected = next(box for track, _, box in rendered["video"] if track == 9)
    np.testing.assert_allclose(pack.boxes[first_of_9], expected, rtol=1e-6)
    image = pack.read(first_of_9)
    assert image.shape == (352, 352, 3)
    assert image.dtype == np.uint8


def test_colours_are_rgb(tmp_path):
    import cv2

    red = np.zeros((352, 352, 3), np.uint8)
    red[..., 2] = 200  # BGR
    index = write_pack(tmp_path, "red", [(0, cv2.imencode(".jpg", red)[1].tobytes(), [176, 176, 50, 60])])
    assert Pack(index).read(0)[100, 100].tolist() == pytest.approx([200, 0, 0], abs=3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda e: e[3].__setitem__(1, 10**9), "entry 3 lies at bytes"),
        (lambda e: e[3].__setitem__(1, -5), r"entry 3 is not \[track"),
        (lambda e: e[3].__setitem__(3, [1, 2, 3]), r"entry 3 is not \[track"),
        (lambda e: e[3].__setitem__(3, "box"), r"entry 3 is not \[track"),
        (lambda e: e.__setitem__(3, 12), r"entry 3 is not \[track"),
        (list.clear, "no entry of this pack can be used"),
    ],
)
def test_a_corrupt_index_is_refused_with_the_entry(packs, tmp_path, change, said):
    with pytest.raises(ValueError, match=said):
        Pack(edited(packs, tmp_path, change))


def test_a_truncated_or_missing_bin_is_refused(packs, tmp_path):
    index = edited(packs, tmp_path, lambda entries: None)
    data = index.with_suffix(".bin").read_bytes()
    index.with_suffix(".bin").write_bytes(data[:-100])
    with pytest.raises(ValueError, match="truncated"):
        Pack(index)
    index.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"video\.bin"):
        Pack(index)
    index.with_suffix(".bin").unlink()
    with pytest.raises(ValueError, match=r"video\.bin"):
        Pack(index)
    index.write_text("[[0, 1")
    with pytest.raises(ValueError, match="cannot be read as the index"):
        Pack(index)


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ([176, 176, float("nan"), 50], "not finite"),
        ([176, 176, 0, 50], "no area"),
        ([330, 176, 60, 50], "not inside the crop"),
        ([176, 176, 60, 400], "not inside the crop"),
    ],
)
def test_unusable_boxes_are_left_out_and_named(packs, tmp_path, box, said):
    whole = Pack(packs / "video.json")
    pack = Pack(edited(packs, tmp_path, lambda entries: entries[3].__setitem__(3, box)))
    assert len(pack.tracks) == len(whole.tracks) - 1
    assert len(pack.left_out) == 1
    assert "entry 3" in pack.left_out[0]
    assert said in pack.left_out[0]


def test_images_without_start_or_end_are_left_out(packs, tmp_path):
    def shift(entries):
        entries[2][1] += 1  # start marker gone
        entries[2][2] -= 1
        entries[5][2] -= 40  # end gone

    pack = Pack(edited(packs, tmp_path, shift))
    assert [text.split(": ")[1:] for text in pack.left_out] == [
        ["entry 2", "is no JPEG"],
        ["entry 5", "is a JPEG without its end"],
    ]


def test_a_jpeg_that_cannot_be_decoded_names_its_entry(packs, tmp_path):
    index = edited(packs, tmp_path, lambda entries: None)
    entries = json.loads(index.read_text())
    data = bytearray(index.with_suffix(".bin").read_bytes())
    _, offset, length, _ = entries[0]
    data[offset + 2 : offset + length - 2] = bytes(length - 4)
    index.with_suffix(".bin").write_bytes(data)
    pack = Pack(index)
    broken = [i for i in range(len(pack.tracks)) if not readable(pack, i)]
    assert len(broken) == 1
    with pytest.raises(CropError, match=r"video\.bin: entry 0 cannot be decoded"):
        pack.read(broken[0])


def readable(pack, index):
    try:
        pack.read(index)
    except CropError:
        return False
    return True


def test_box_problem_allows_boxes_that_were_rounded():
    assert box_problem([175.5, 176.4, 351.5, 10]) is None


def test_find_packs(packs, tmp_path):
    assert [path.stem for path in find_packs(packs)] == ["stills", "video"]
    with pytest.raises(ValueError, match="no packs"):
        find_packs(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        find_packs(tmp_path / "nowhere")


def test_library_numbers_tracks_over_all_sources(library, rendered):
    assert len(library) == sum(len(crops) for crops in rendered.values())
    stills = len(rendered["stills"])
    assert library.track_count.tolist()[:stills] == [1] * stills
    video = [track for track, _, _ in rendered["video"]]
    assert library.track_count.tolist()[stills:] == [video.count(track) for track in (7, 8, 9)]
    assert (np.diff(library.track) >= 0).all()
    np.testing.assert_array_equal(library.read(len(library) - 1), library.sources[1].read(len(video) - 1))


def test_split_holds_out_tracks_and_sources(library):
    train, held = library.split(["stills"], 0.0)
    assert set(library.track_source[held]) == {0}
    assert set(library.track_source[train]) == {1}
    again = [library.split([], 0.5)[1].tolist() for _ in range(2)]
    assert again[0] == again[1]
    assert 0 < len(again[0]) < len(library.track_start)
    with pytest.raises(ValueError, match="no source 'none'"):
        library.split(["none"], 0.1)
    with pytest.raises(ValueError, match="nothing is left"):
        library.split(["stills", "video"], 0.0)


def test_digest_follows_the_data(packs, tmp_path, library):
    other = Library([Pack(edited(packs, tmp_path, lambda entries: entries.pop()))])
    assert other.digest() != Library([Pack(packs / "video.json")]).digest()
    assert Library(library.sources).digest() == library.digest()


def test_real_packs_open_whole(real_packs):
    library = Library([Pack(index) for index in find_packs(real_packs)])
    assert library.left_out == []
    assert len(library) > 10_000
    assert library.read(len(library) // 2).shape == (352, 352, 3)


def test_written_tracks_are_read_again(tmp_path):
    rng = np.random.default_rng(0)
    images = [np.full((240, 320, 3), 90, np.uint8) for _ in range(3)]
    boxes = [Box(40.0 + 10 * i, 60.0, 30.0, 20.0) for i in range(3)]
    for image, box in zip(images, boxes, strict=True):
        x, y = int(box.x), int(box.y)
        image[y : y + 20, x : x + 30] = (0, 0, 250)
        image[:30] = rng.integers(0, 255, (30, 320, 3))
    index = tmp_path / "made.json"
    with PackWriter(index) as writer:
        writer.add_track(images[:2], boxes[:2])
        with pytest.raises(ValueError, match="not inside the crop"):
            writer.add_track(images[:1], [Box(0.0, 100.0, 300.0, 2.0)])
        with pytest.raises(ValueError, match="no area"):
            writer.add_track(images[:2], [boxes[0], Box(10.0, 10.0, 0.0, 5.0)])
        writer.add_track(images[2:], boxes[2:])
    pack = Pack(index)
    assert pack.tracks.tolist() == [0, 0, 1]
    assert not pack.left_out
    for number in range(3):
        cx, cy, w, h = pack.boxes[number]
        crop = pack.read(number).astype(int)
        assert crop[int(cy), int(cx), 0] > 200, "red in the middle, RGB"
        inside = crop[int(cy - h / 2) + 3 : int(cy + h / 2) - 3, int(cx - w / 2) + 3 : int(cx + w / 2) - 3]
        assert inside[..., 0].min() > 180
        assert crop[int(cy - h / 2) - 5, int(cx), 0] < 130
    with pytest.raises(FileExistsError, match="made"):
        PackWriter(index)


def test_an_interrupted_pack_is_none(tmp_path):
    image, box = np.full((240, 320, 3), 90, np.uint8), Box(40.0, 60.0, 30.0, 20.0)

    def half():
        with PackWriter(tmp_path / "half.json") as writer:
            writer.add_track([image], [box])
            writer.add_track([image], [])

    with pytest.raises(ValueError, match="shorter"):
        half()
    with PackWriter(tmp_path / "empty.json"):
        pass
    assert list(tmp_path.iterdir()) == []
