"""Pseudo-labels, with a detector and a tracker that see colours; the real ones' weights are their users'."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from ros2_tracker.tracking.geometry import Box, iou

SCRIPT = Path(__file__).parents[2] / "scripts/label_clips.py"


@pytest.fixture(scope="module")
def script(load_script):
    return load_script(SCRIPT)


def truth(time: int, speed: float) -> Box:
    return Box(20.0 + speed * time, 50.0, 40.0, 30.0)


def clip(count: int = 80, speed: float = 3.0, hidden: range = range(0)) -> list[np.ndarray]:
    """A red square on grey noise, moving to the right."""
    noise = np.random.default_rng(0).integers(60, 100, (240, 320, 3), np.uint8)
    frames = []
    for time in range(count):
        frame = noise.copy()
        box = truth(time, speed)
        if time not in hidden:
            frame[50:80, int(box.x) : int(box.x) + 40] = (0, 0, 255)
        frames.append(frame)
    return frames


def red(image: np.ndarray) -> list[Box]:
    ys, xs = np.nonzero((image[..., 2] > 200) & (image[..., 1] < 50))
    if not len(xs):
        return []
    return [Box(float(xs.min()), float(ys.min()), float(np.ptp(xs) + 1), float(np.ptp(ys) + 1))]


def follow(frames: list[np.ndarray], box: Box) -> list[Box]:
    boxes = [box]
    for frame in frames[1:]:
        if not red(frame):
            break
        boxes += red(frame)
    return boxes


def test_what_is_followed_both_ways_becomes_a_track(script):
    (track,) = script.tracks_of(clip(), red, follow)
    assert len(track) <= 21
    assert all(iou(box, truth(time, 3.0)) > 0.95 for time, box in track.items())
    assert max(track) - min(track) > 60


def test_a_track_ends_where_the_thing_is_hidden(script):
    (track,) = script.tracks_of(clip(58, hidden=range(40, 45)), red, follow)
    assert max(track) < 40


def test_what_stands_still_teaches_nothing(script):
    assert script.tracks_of(clip(speed=0.0), red, follow) == []


def test_what_the_way_back_does_not_confirm_is_left_out(script):
    def drifting(frames, box):
        return [Box(box.x, box.y + 0.8 * i, box.w, box.h) for i in range(len(frames))]

    assert script.tracks_of(clip(), red, drifting) == []


def test_nothing_is_followed_over_a_cut(script):
    frames = clip(40) + [np.full((240, 320, 3), 230, np.uint8) for _ in range(20)]

    def stubborn(frames, box):
        boxes = [box]
        for frame in frames[1:]:
            boxes += red(frame) or boxes[-1:]
        return boxes

    (track,) = script.tracks_of(frames, red, stubborn)
    assert max(track) < 40


def test_proposals_are_where_the_graph_says(script, tmp_path):
    """A graph that always answers with one box, around the cell in row 5 and column 7 of the second level."""
    onnx = pytest.importorskip("onnx")
    constants = []
    for stride in (8, 16, 32):
        cells = 416 // stride
        scores = np.zeros((1, cells * cells, 80), np.float32)
        sides = np.zeros((1, cells * cells, 4, 8), np.float32)
        if stride == 16:
            scores[0, 5 * cells + 7, 2] = 0.9
            # Strides to the left, the top, the right and the bottom.
            for side, far in enumerate((3, 2, 4, 1)):
                sides[0, 5 * cells + 7, side, far] = 50.0
        constants.append((scores, sides.reshape(1, -1, 32)))
    arrays = [pair[0] for pair in constants] + [pair[1] for pair in constants]
    nodes = [
        onnx.helper.make_node("Constant", [], [f"o{i}"], value=onnx.numpy_helper.from_array(array))
        for i, array in enumerate(arrays)
    ]
    value = onnx.helper.make_tensor_value_info
    shown = value("image", onnx.TensorProto.FLOAT, [1, 3, 416, 416])
    outputs = [value(f"o{i}", onnx.TensorProto.FLOAT, array.shape) for i, array in enumerate(arrays)]
    graph = onnx.helper.make_graph(nodes, "always", [shown], outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "always.onnx")
    (box,) = script.NanoDet(tmp_path / "always.onnx")(np.zeros((416, 832, 3), np.uint8))
    x, y = 7 * 16 + 7.5, 5 * 16 + 7.5
    # The image is shrunk by two.
    expected = [2 * (x - 48), 2 * (y - 32), 2 * (48 + 64), 2 * (32 + 16)]
    np.testing.assert_allclose(box.as_tuple(), expected, atol=1e-3)


def test_command_line_names_what_is_missing(tmp_path):
    video = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 30.0, (320, 240))
    for frame in clip(5):
        writer.write(frame)
    writer.release()
    command = [sys.executable, SCRIPT, video, "--detector", tmp_path / "no.onnx", "--tracker", tmp_path, "-o"]
    run = subprocess.run([*command, tmp_path / "pack"], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "no.onnx" in run.stderr
    assert "Traceback" not in run.stderr
