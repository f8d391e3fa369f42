"""Trackers side by side: which there are, what they need, and that all of them answer alike."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from ros2_tracker.engines.load import EngineSettings
from ros2_tracker.evaluation.peers import PeerError, TrackerSpec, our_spec, parse_peer
from ros2_tracker.evaluation.synthetic import SyntheticClip
from ros2_tracker.tracking.geometry import Box, iou
from ros2_tracker.tracking.result import TrackState

SETTINGS = EngineSettings()
HAS_CONTRIB = hasattr(cv2, "TrackerCSRT_create") or hasattr(getattr(cv2, "legacy", None), "TrackerCSRT_create")
needs_contrib = pytest.mark.skipif(not HAS_CONTRIB, reason="CSRT and KCF need opencv-contrib-python")

needs_vit = pytest.mark.skipif(not hasattr(cv2, "TrackerVit_create"), reason="VitTrack needs OpenCV 4.9")


@pytest.mark.parametrize("text", ["", "siamrpn", "csrt:weights", "nano", "vit", "vit:", "model:", ":x"])
def test_unknown_peers_are_named_with_what_there_is(text: str):
    with pytest.raises(PeerError, match=r"must be one of csrt, kcf, nano:FOLDER, vit:FILE, model:NAME"):
        parse_peer(text, SETTINGS)


def test_unknown_variants_are_named_before_anything_runs():
    with pytest.raises(PeerError, match="--peer model:absent: unknown model 'absent'; known: default"):
        parse_peer("model:absent", SETTINGS)


def test_missing_weights_are_named(tmp_path: Path):
    with pytest.raises(PeerError, match=r"absent\.onnx: expected an ONNX file, found none"):
        parse_peer(f"vit:{tmp_path / 'absent.onnx'}", SETTINGS)
    with pytest.raises(PeerError, match=r"expected one file \*backbone\*\.onnx in it, found 0"):
        parse_peer(f"nano:{tmp_path}", SETTINGS)
    for name in ("nano_backbone.onnx", "nano_head.onnx", "other_head.onnx"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(PeerError, match=r"expected one file \*head\*\.onnx in it, found 2"):
        parse_peer(f"nano:{tmp_path}", SETTINGS)


@pytest.mark.skipif(HAS_CONTRIB, reason="this OpenCV has CSRT")
@pytest.mark.parametrize("kind", ["csrt", "kcf"])
def test_an_opencv_without_the_tracker_says_which_has_it(kind: str):
    with pytest.raises(PeerError, match=rf"--peer {kind}: this OpenCV \(.*\) has no .*opencv-contrib-python"):
        parse_peer(kind, SETTINGS)


def test_specs_travel_between_processes_and_know_what_they_depend_on(tmp_path: Path):
    spec = our_spec("default", SETTINGS)
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert spec.fingerprint() == our_spec("default", EngineSettings()).fingerprint()
    assert spec.fingerprint() != our_spec("default", EngineSettings(precision="fp32")).fingerprint()
    own = tmp_path / "own.onnx"
    own.write_bytes(b"one")
    first = our_spec("default", EngineSettings(weights=own)).fingerprint()
    own.write_bytes(b"two")
    assert our_spec("default", EngineSettings(weights=own)).fingerprint() != first, "trained once more"
    other = parse_peer("model:stark-s50", SETTINGS)
    assert (other.name, other.kind) == ("stark-s50", "model")
    weights = tmp_path / "vit.onnx"
    weights.write_bytes(b"one")
    first = TrackerSpec("vit", "vit", str(weights)).fingerprint()
    weights.write_bytes(b"two")
    assert TrackerSpec("vit", "vit", str(weights)).fingerprint() != first


def follow(tracker, clip: SyntheticClip, count: int = 10) -> list:
    tracker.init(clip.render(0).image, clip.render(0).box.as_tuple(), 0.0)
    return [tracker.update(clip.render(i).image, i / 15.0) for i in range(1, count)]


def test_ours_answers_with_reliability_and_signals(clip: SyntheticClip):
    tracker = our_spec("default", SETTINGS).load(threads=1)
    answers = follow(tracker, clip)
    assert "1 thread" in tracker.description
    for i, answer in enumerate(answers, start=1):
        assert iou(Box(*answer.box), clip.render(i).box) > 0.5
        assert 0.0 <= answer.reliability <= 1.0
        assert answer.signals is not None
        assert answer.state is TrackState.TRACKING


def test_ours_predicts_along_the_motion():
    tracker = our_spec("default", SETTINGS).load(threads=1)
    clip = SyntheticClip(60, 320, 240, fps=15.0)
    follow(tracker, clip, 20)
    now, later = (tracker.predict(t / 15.0) for t in (19, 22))
    true_now, true_later = (clip.render(t).box for t in (19, 22))
    moved = np.array([later[0] - now[0], later[1] - now[1]])
    truly = np.array([true_later.cx - true_now.cx, true_later.cy - true_now.cy])
    assert moved @ truly > 0.0, "in the direction in which the target goes on"


@needs_contrib
@pytest.mark.parametrize("kind", ["csrt", "kcf"])
def test_opencv_trackers_follow_the_clip(kind: str, clip: SyntheticClip):
    tracker = parse_peer(kind, SETTINGS).load()
    answers = follow(tracker, clip)
    assert all(isinstance(answer.state, TrackState) for answer in answers)
    found = [answer for answer in answers if answer.state is TrackState.TRACKING]
    assert len(found) >= 5
    assert iou(Box(*answers[0].box), clip.render(1).box) > 0.5
    assert tracker.predict(1.0) is None


@needs_contrib
def test_a_second_target_forgets_the_first(clip: SyntheticClip):
    tracker = parse_peer("csrt", SETTINGS).load()
    first = [answer.box for answer in follow(tracker, clip, 4)]
    assert [answer.box for answer in follow(tracker, clip, 4)] == first


@needs_vit
def test_vittrack_from_a_file(tmp_path: Path):
    pytest.importorskip("onnx", reason="the test's network is written with onnx (the extra `export`)")
    weights = tmp_path / "vit.onnx"
    write_vittrack(weights)
    tracker = parse_peer(f"vit:{weights}", SETTINGS).load()
    frame = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
    tracker.init(frame, (100.4, 79.6, 40.0, 30.0), 0.0)
    answer = tracker.update(frame, 0.1)
    assert answer.state is TrackState.TRACKING
    assert 0.8 < answer.score <= 0.9
    # The network below says: in the middle, a quarter of the search region of side 4 * sqrt(40 * 30) px.
    np.testing.assert_allclose(answer.box, (120 - 17.5, 95 - 17.5, 35, 35), atol=1.5)


def write_vittrack(file: Path) -> None:
    """A network with VitTrack's inputs and outputs that always sees the target in the middle."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    score = np.full((1, 1, 16, 16), 0.01, np.float32)
    score[0, 0, 8, 8] = 0.9
    values = [score, np.full((1, 2, 16, 16), 0.25, np.float32), np.zeros((1, 2, 16, 16), np.float32)]
    constants = [numpy_helper.from_array(value, f"value{i}") for i, value in enumerate(values, start=1)]
    constants.append(numpy_helper.from_array(np.zeros((), np.float32), "zero"))
    nodes = [helper.make_node("ReduceMean", [name], [f"mean_{name}"], keepdims=0) for name in ("template", "search")]
    nodes.append(helper.make_node("Add", ["mean_template", "mean_search"], ["sum"]))
    nodes.append(helper.make_node("Mul", ["sum", "zero"], ["nothing"]))
    nodes += [helper.make_node("Add", [f"value{i}", "nothing"], [f"output{i}"]) for i in (1, 2, 3)]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, side, side])
        for name, side in (("template", 128), ("search", 256))
    ]
    outputs = [
        helper.make_tensor_value_info(f"output{i}", TensorProto.FLOAT, value.shape)
        for i, value in enumerate(values, start=1)
    ]
    graph = helper.make_graph(nodes, "middle", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), file)


@needs_vit
def test_opencv_says_what_it_cannot_read(tmp_path: Path):
    weights = tmp_path / "vit.onnx"
    weights.write_bytes(b"no network")
    tracker = parse_peer(f"vit:{weights}", SETTINGS).load()
    with pytest.raises(ValueError, match="TrackerVit"):
        tracker.init(np.zeros((64, 64, 3), np.uint8), (10.0, 10.0, 20.0, 20.0), 0.0)
