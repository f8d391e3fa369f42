"""What the page knows of targets."""

from __future__ import annotations

import json
import math

import pytest

from ros2_tracker.operator.board import CURVE_S, Board, Status

T = 50.0
BOX = (10.0, 20.0, 30.0, 40.0)


def status(stamp_ns: int, target_id: str = "a", reliability: float = 0.9, **changes) -> Status:
    given = {"state": "TRACKING", "predicted": False, "calibrated": True, "box": BOX, **changes}
    return Status(target_id, stamp_ns, reliability=reliability, **given)


def test_boxes_are_those_of_the_very_image():
    board = Board()
    board.on_status(status(1), T)
    board.on_status(status(2, box=(11.0, 20.0, 30.0, 40.0)), T)
    board.on_status(status(2, "b", state="LOST", box=None), T)
    assert [entry["box"][0] for entry in board.boxes(1)] == [10.0]
    assert [(entry["id"], entry["box"][0]) for entry in board.boxes(2)] == [("a", 11.0)]
    assert board.boxes(3) == []


def test_a_measured_box_replaces_a_predicted_one_and_not_the_other_way():
    board = Board()
    board.on_status(status(1, predicted=True, box=(0.0, 0.0, 1.0, 1.0)), T)
    board.on_status(status(1), T)
    board.on_status(status(1, predicted=True, box=(0.0, 0.0, 1.0, 1.0)), T)
    assert board.boxes(1)[0]["box"] == list(BOX)


def test_an_answer_is_complete_when_every_detection_has_its_status():
    board = Board()
    assert board.on_tracks(1, 0, 0.02, T)  # no targets
    assert not board.on_tracks(2, 2, 0.02, T)
    assert not board.on_status(status(2, "a"), T)
    assert board.on_status(status(2, "b"), T)
    # Each comes on a topic of its own, so the order is open.
    assert not board.on_status(status(3, "a"), T)
    assert board.on_tracks(3, 1, 0.02, T)
    assert board.on_status(status(4, predicted=True), T)


def test_short_dips_stay_in_the_curve_which_is_bounded():
    board = Board()
    for tick in range(4000):
        now = T + tick / 100
        board.on_status(status(tick, reliability=0.1 if tick == 3905 else 0.9), now)
    curve = board.history(now)["curves"]["a"]
    assert len(curve) <= CURVE_S / 0.1 + 2
    assert min(point[1] for point in curve) == 0.1
    assert curve[0][0] >= now - CURVE_S - 0.2


def test_state_lists_targets_rates_and_latency_and_is_json():
    board = Board()
    for tick in range(90):
        now = T + tick / 30
        board.on_image(now)
        board.on_tracks(tick, 1, 0.040 if tick == 50 else 0.020, now)
        board.on_status(status(tick, reliability=0.25, state="UNCERTAIN"), now)
    state = json.loads(json.dumps(board.state(now, 3), allow_nan=False))
    (target,) = state["targets"]
    assert (target["id"], target["state"], target["reliability"]) == ("a", "UNCERTAIN", 0.25)
    assert state["rates"]["images"] == pytest.approx(30.0, abs=0.5)
    assert state["rates"]["tracks"] == pytest.approx(30.0, abs=0.5)
    assert state["latency_ms"]["p50"] == 20.0
    assert 20.0 < state["latency_ms"]["p99"] <= 40.0
    assert state["images_come"]
    assert state["tracker_answers"]
    assert state["clients"] == 3
    later = board.state(now + 2.0, 0)
    assert not later["images_come"]
    assert not later["tracker_answers"]
    assert later["rates"]["images"] < 20.0


def test_a_target_leaves_when_it_is_cancelled_or_not_heard_of():
    board = Board()
    board.on_status(status(1, "a"), T)
    board.on_status(status(1, "b"), T)
    event = board.on_event({"kind": "CANCELLED", "id": "a", "reason": "NONE", "text": "", "stamp": "1"}, T)
    assert event["type"] == "event"
    assert [target["id"] for target in board.state(T, 0)["targets"]] == ["b"]
    assert board.state(T + 60.0, 0)["targets"] == []
    assert [told["id"] for told in board.history(T)["events"]] == ["a"]


def test_memory_is_bounded():
    board = Board()
    for number in range(2000):
        board.on_tracks(number, 1, math.pi, T)
        board.on_status(status(number, f"id {number}"), T)
        board.on_event({"kind": "LOST", "id": str(number), "reason": "NONE", "text": "", "stamp": "1"}, T)
    assert board.boxes(0) == []
    assert len(board.state(T, 0)["targets"]) <= 64
    assert len(board.history(T)["events"]) <= 20
