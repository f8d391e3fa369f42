"""The Python API with the shipped network."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from ros2_tracker import Tracker, TrackState
from ros2_tracker.evaluation.metrics import agreement
from ros2_tracker.evaluation.synthetic import SyntheticClip
from ros2_tracker.models.variant import WeightsMissingError
from ros2_tracker.tracking.network import TrackingNetwork


@pytest.fixture
def tracker(network: TrackingNetwork) -> Tracker:
    return Tracker(network)


def bad_frames() -> list:
    return [
        None,
        [[0, 0, 0]],
        np.zeros((48, 64), np.uint8),
        np.zeros((48, 64, 4), np.uint8),
        np.zeros((48, 64, 3), np.float32),
        np.zeros((0, 64, 3), np.uint8),
    ]


def named(frame: object) -> str:
    return f"shape {frame.shape} of {frame.dtype}" if isinstance(frame, np.ndarray) else type(frame).__name__


def test_update_before_init(tracker: Tracker):
    with pytest.raises(RuntimeError, match=r"before Tracker\.init"):
        tracker.update(np.zeros((48, 64, 3), np.uint8))


@pytest.mark.parametrize("frame", bad_frames(), ids=named)
def test_frame_that_cannot_be_used_is_named_and_changes_nothing(tracker: Tracker, clip: SyntheticClip, frame: object):
    with pytest.raises(ValueError, match=re.escape(named(frame))):
        tracker.init(frame, (1, 2, 30, 30))
    with pytest.raises(RuntimeError):
        tracker.update(clip.render(1).image)

    twin = Tracker(tracker.network)
    for each in (tracker, twin):
        each.init(clip.render(0).image, clip.render(0).box.as_tuple())
        each.update(clip.render(1).image)
    with pytest.raises(ValueError, match=re.escape(named(frame))):
        tracker.update(frame)
    assert_same_future(tracker, twin, clip)


@pytest.mark.parametrize(
    "box",
    [(math.nan, 2, 3, 4), (1, 2, -3, 4), (1, 2, 3), "abcd", (10000, 2, 30, 30)],
    ids=lambda box: str(box).replace(" ", ""),
)
def test_box_that_cannot_be_used_leaves_the_target_alone(tracker: Tracker, clip: SyntheticClip, box: object):
    twin = Tracker(tracker.network)
    for each in (tracker, twin):
        each.init(clip.render(0).image, clip.render(0).box.as_tuple())
    with pytest.raises(ValueError, match="box"):
        tracker.init(clip.render(5).image, box)
    assert_same_future(tracker, twin, clip)


@pytest.mark.parametrize("stamp", [math.nan, math.inf])
def test_stamp_that_is_not_finite_is_refused(tracker: Tracker, clip: SyntheticClip, stamp: float):
    with pytest.raises(ValueError, match=str(stamp)):
        tracker.init(clip.render(0).image, clip.render(0).box.as_tuple(), stamp)
    tracker.init(clip.render(0).image, clip.render(0).box.as_tuple())
    with pytest.raises(ValueError, match=str(stamp)):
        tracker.update(clip.render(1).image, stamp)


def assert_same_future(tracker: Tracker, twin: Tracker, clip: SyntheticClip) -> None:
    for i in (2, 3):
        mine, theirs = tracker.update(clip.render(i).image), twin.update(clip.render(i).image)
        assert mine.box == theirs.box
        assert mine.reliability == theirs.reliability
        assert mine.velocity == theirs.velocity


def test_demo_clip_is_followed_through_its_occlusion(tracker: Tracker, clip: SyntheticClip):
    first = clip.render(0)
    tracker.init(first.image, first.box.as_tuple(), 0.0)
    boxes, states = [first.box.as_tuple()], [TrackState.TRACKING]
    for i in range(1, len(clip)):
        result = tracker.update(clip.render(i).image, i / clip.fps)
        boxes.append(result.box or (math.nan,) * 4)
        states.append(result.state)
        assert 0.0 <= result.reliability <= 1.0
        assert (result.box is None) == (result.state is TrackState.LOST)
    hidden = np.isnan(clip.ground_truth[:, 0])
    assert agreement(np.array(boxes), clip.ground_truth).mean_iou >= 0.5
    assert TrackState.TRACKING not in [s for s, h in zip(states, hidden, strict=True) if h][3:]
    assert states[int(np.flatnonzero(hidden)[-1]) + 15] is TrackState.TRACKING
    assert states[-1] is TrackState.TRACKING


def test_input_is_not_written_to(tracker: Tracker, clip: SyntheticClip):
    image = clip.render(0).image
    image.setflags(write=False)
    tracker.init(image, clip.render(0).box.as_tuple())
    tracker.update(image)


def test_load_names_what_is_unknown(tmp_path):
    with pytest.raises(ValueError, match="'nonsense'"):
        Tracker.load("nonsense")
    with pytest.raises(ValueError, match="'abacus'"):
        Tracker.load(engine="abacus")
    with pytest.raises(ValueError, match="'int1'"):
        Tracker.load(precision="int1")
    with pytest.raises(WeightsMissingError, match=r"absent\.onnx"):
        Tracker.load(weights=tmp_path / "absent.onnx")


def test_weights_that_are_no_network_are_named(tmp_path):
    from ros2_tracker.engines.base import EngineError

    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a network")
    with pytest.raises(EngineError, match=r"broken\.onnx"):
        Tracker.load(weights=broken)
