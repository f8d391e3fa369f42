"""The rendered clip: the same each time, with a truth that is true."""

from __future__ import annotations

import numpy as np
import pytest

from ros2_tracker.evaluation.synthetic import SyntheticClip, _paste


@pytest.fixture(scope="module")
def full_clip() -> SyntheticClip:
    return SyntheticClip()


def test_same_seed_same_clip(full_clip: SyntheticClip):
    again = SyntheticClip(seed=0)
    for index in (0, 150, 299):
        np.testing.assert_array_equal(again.render(index).image, full_clip.render(index).image)
    assert (SyntheticClip(seed=1).render(0).image != full_clip.render(0).image).any()


def test_frames_in_any_order_are_the_same(full_clip: SyntheticClip):
    first = next(iter(full_clip))
    full_clip.render(200)
    np.testing.assert_array_equal(full_clip.render(0).image, first)
    assert first.shape == (480, 640, 3)
    assert first.dtype == np.uint8


def test_box_is_the_extent_of_what_is_painted(full_clip: SyntheticClip):
    white = full_clip._target.copy()
    white[..., :3] = 255
    for index in range(0, 300, 23):
        canvas = np.zeros((480, 640, 3), np.uint8)
        _paste(canvas, white, full_clip._target_pose(full_clip._story_time(index)))
        rows, columns = (np.flatnonzero((canvas[..., 0] > 127).any(axis=axis)) for axis in (1, 0))
        box = full_clip.render(index).box
        assert box.x == pytest.approx(columns[0], abs=1.5)
        assert box.y == pytest.approx(rows[0], abs=1.5)
        assert box.x + box.w == pytest.approx(columns[-1] + 1, abs=1.5)
        assert box.y + box.h == pytest.approx(rows[-1] + 1, abs=1.5)


def test_story(full_clip: SyntheticClip):
    truth = full_clip.ground_truth
    hidden = np.isnan(truth).all(axis=1)
    assert 0.6 <= hidden.sum() / full_clip.fps <= 0.8
    start, end = np.flatnonzero(hidden)[[0, -1]]
    assert hidden[start : end + 1].all()
    assert 120 < start < end < 220
    visible = truth[~hidden]
    assert visible[:, 0].min() > 0
    assert visible[:, 1].min() > 0
    assert (visible[:, 0] + visible[:, 2]).max() < 640
    assert (visible[:, 1] + visible[:, 3]).max() < 480


def test_frames_agree_with_the_ground_truth(full_clip: SyntheticClip):
    for index in (0, 168, 299):
        frame = full_clip.render(index)
        row = full_clip.ground_truth[index]
        assert frame.visible == (not np.isnan(row).any())
        if frame.visible:
            assert tuple(row) == frame.box.as_tuple()


@pytest.mark.parametrize("size", [(64, 64), (101, 333), (800, 120)])
def test_other_sizes_and_lengths(size: tuple[int, int]):
    clip = SyntheticClip(5, *size)
    images = [frame.image for frame in clip.frames()]
    assert len(images) == len(clip) == 5
    assert all(image.shape == (size[1], size[0], 3) for image in images)
    assert clip.ground_truth.shape == (5, 4)


@pytest.mark.parametrize(
    "arguments", [{"frames": 0}, {"width": 63}, {"height": 0}, {"fps": 0.0}, {"fps": float("nan")}]
)
def test_impossible_clip_is_refused(arguments: dict):
    with pytest.raises(ValueError, match="a clip needs"):
        SyntheticClip(**arguments)


@pytest.mark.parametrize("index", [-1, 300])
def test_frame_out_of_range(full_clip: SyntheticClip, index: int):
    with pytest.raises(IndexError, match=str(index)):
        full_clip.render(index)
