"""Messages of browsers: what is taken, and what each refusal says."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ros2_tracker.operator.protocol import (
    MAX_MESSAGE_BYTES,
    Cancel,
    Follow,
    MessageError,
    Ping,
    Shown,
    check_box,
    number_in,
    pack_frame,
    parse,
    unpack_frame,
)

FOLLOW = {"type": "follow", "number": 7, "stamp": "1795292839532460752", "box": [1, 2.5, 30, 40], "id": "it"}


def test_commands():
    assert parse(json.dumps(FOLLOW)) == Follow(7, 1795292839532460752, (1.0, 2.5, 30.0, 40.0), "it")
    assert parse('{"type": "cancel", "number": 1, "id": "it"}') == Cancel(1, "it")
    assert parse('{"type": "cancel_all", "number": 2}') == Cancel(2, None)
    assert parse('{"type": "shown", "sequence": 3}') == Shown(3)
    assert parse('{"type": "ping", "number": 4}') == Ping(4)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"box": [float("nan"), 0, 5, 5]}, r"box \[nan, 0, 5, 5\] is not finite"),
        ({"box": [0, 0, float("inf"), 5]}, "is not finite"),
        ({"box": [1e308, 0, 1.7e308, 5]}, "is not finite"),
        ({"box": [0, 0, 10**400, 5]}, "is not finite"),
        ({"box": [0, 0, 0, 5]}, "has no area"),
        ({"box": [0, 0, 5, -5]}, "has no area"),
        ({"box": [0, 0, 5]}, "is not four numbers"),
        ({"box": [0, 0, 5, True]}, "is not four numbers"),
        ({"box": [0, 0, 5, "5"]}, "is not four numbers"),
        ({"box": None}, "box None is not four numbers"),
        ({"stamp": 1795292839532460752}, "is not nanoseconds in a string"),
        ({"stamp": "-5"}, "is not nanoseconds in a string"),
        ({"stamp": "١٢"}, "is not nanoseconds in a string"),
        ({"stamp": "9" * 19}, "is beyond the times of ROS messages"),
        ({"id": "x" * 129}, "id 'xxx"),
        ({"id": "a\nb"}, "printable"),
        ({"id": 5}, "id 5 is not a text"),
        ({"number": None}, "number None is not a whole number"),
        ({"number": True}, "number True is not a whole number"),
        ({"number": -1}, "number -1 is not a whole number"),
        ({"type": "shutdown"}, "type 'shutdown' is unknown"),
        ({"type": ["follow"]}, r"type \['follow'\] is unknown"),
        ({"type": "cancel", "id": ""}, "cancel needs the id of a target"),
    ],
)
def test_a_wrong_value_is_named(change: dict, complaint: str):
    with pytest.raises(MessageError, match=complaint):
        parse(json.dumps({**FOLLOW, **change}))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is not JSON"),
        ("hello", "'hello' is not JSON"),
        ("[" * MAX_MESSAGE_BYTES, "is not JSON"),
        ("9" * MAX_MESSAGE_BYTES, "is not"),
        ("[1, 2]", "is not a JSON object"),
        ("null", "is not a JSON object"),
    ],
)
def test_what_is_no_object_is_refused(text: str, complaint: str):
    with pytest.raises(MessageError, match=complaint) as refusal:
        parse(text)
    assert len(str(refusal.value)) < 200
    assert number_in(text) is None


# Of all characters hypothesis makes a table first, on a clean checkout for longer than its own health check allows.
_TEXT = st.text("aZ09 -.\\\"\0\n\x7fé☃😀", max_size=10)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(_TEXT, inner, max_size=5),
    max_leaves=10,
)


@given(
    st.sampled_from(["follow", "cancel", "cancel_all", "shown", "ping", "x"]),
    st.dictionaries(st.sampled_from(["number", "stamp", "box", "id", "sequence"]), _JSON),
)
def test_whatever_comes_is_a_command_or_a_short_refusal(kind: str, message: dict):
    refusal = ""
    try:
        parse(json.dumps({"type": kind, **message}))
    except MessageError as error:
        refusal = str(error)
    assert len(refusal) < 200


@pytest.mark.parametrize(
    "box", [(-50, 0, 51, 50), (319, 0, 50, 50), (0, 239.5, 50, 50), (400, 400, 5, 5), (5, 5, 1, 9)]
)
def test_a_box_outside_the_image_is_refused(box: tuple[float, float, float, float]):
    with pytest.raises(MessageError, match="less than 2x2 px of it lie inside the 320x240 image"):
        check_box(box, 320, 240)


def test_a_box_over_the_edge_is_taken():
    check_box((-10, -10, 20, 20), 320, 240)
    check_box((318, 238, 50, 50), 320, 240)


def test_frame():
    header = {"sequence": 1, "stamp": "5", "boxes": [{"id": "ü"}]}
    assert unpack_frame(pack_frame(header, b"\xff\xd8jpeg")) == (header, b"\xff\xd8jpeg")
