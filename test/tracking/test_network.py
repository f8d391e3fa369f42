"""The shipped graphs agree."""

from __future__ import annotations

from itertools import islice

from ros2_tracker.evaluation.synthetic import SyntheticClip
from ros2_tracker.tracking.geometry import Box, iou
from ros2_tracker.tracking.tracker import Tracker


def test_int8_and_fp32_see_the_same_target():
    clip = SyntheticClip(300)
    trackers = [Tracker.load(precision=precision) for precision in ("fp32", "int8")]
    assert "int8" in trackers[1].network.engine.description
    overlaps = []
    # Before the look-alike and the lorry come.
    for index, frame in enumerate(islice(clip.frames(), 60)):
        if index == 0:
            for tracker in trackers:
                tracker.init(frame.image, frame.box.as_tuple())
            continue
        boxes = [tracker.update(frame.image).box for tracker in trackers]
        assert all(box is not None for box in boxes)
        overlaps.append(iou(*(Box(*box) for box in boxes if box is not None)))
    assert min(overlaps) > 0.75
    assert sum(overlaps) / len(overlaps) > 0.9
