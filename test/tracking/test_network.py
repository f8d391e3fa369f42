"""Which graph a precision means, and that the graphs agree."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest

from ros2_tracker.evaluation.synthetic import SyntheticClip
from ros2_tracker.models.variant import WeightsMissingError, load_variant
from ros2_tracker.tracking.geometry import Box, iou
from ros2_tracker.tracking.network import TrackingNetwork
from ros2_tracker.tracking.tracker import Tracker


def test_precision_chooses_the_graph():
    variant = load_variant("default")
    assert variant.require_graph("fp32").name == "onestream-192.onnx"
    assert variant.require_graph("int8") == variant.require_graph("auto") == variant.graph_int8
    plain = replace(variant, graph_int8=None)
    assert plain.require_graph("auto") == variant.graph
    with pytest.raises(ValueError, match="no int8 graph"):
        plain.require_graph("int8")


def test_named_weights_win_over_the_precision(tmp_path):
    with pytest.raises(WeightsMissingError, match=r"missing\.onnx"):
        load_variant("default").require_graph("int8", tmp_path / "missing.onnx")


def test_unknown_precision_is_named():
    with pytest.raises(ValueError, match="fp12"):
        TrackingNetwork.load(precision="fp12")


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
