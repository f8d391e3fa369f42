"""What goes over the WebSocket: commands from a browser as checked dataclasses, frames and texts to it.

A browser sends JSON objects with a `type`; stamps are nanoseconds as a string, because they do not fit a JavaScript
number. It gets JSON objects (`hello`, `state`, `event`, `reply`) and binary frames: a big-endian uint32 with the
length of a JSON header, the header, a JPEG.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_MESSAGE_BYTES = 4096
"""Of a browser: the longest command has some hundred."""
_MAX_ID = 128
_SHOWN_CHARS = 60
_MAX_STAMP_NS = 2**31 * 1_000_000_000

XYWH = tuple[float, float, float, float]


class MessageError(ValueError):
    """A message that is refused; the text is for the person at the browser."""


@dataclass(frozen=True, slots=True)
class Follow:
    """Start a target, or move one."""

    number: int
    """The browser's own, which comes back with the reply."""
    stamp_ns: int
    """Of the image the box was drawn on."""
    box: XYWH
    """px of that image."""
    target_id: str
    """Empty: a new target."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Drop a target; all with None."""

    number: int
    target_id: str | None


@dataclass(frozen=True, slots=True)
class Shown:
    """The browser has shown a frame, and can take another."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Ping:
    """To be answered at once; `number` comes back."""

    number: int


Command = Follow | Cancel | Shown | Ping


def parse(text: str) -> Command:
    """A browser's message.

    Raises:
        MessageError: it is not a command, or one of its values cannot be used.

    """
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise MessageError(f"{_short(text)} is not JSON") from None
    if not isinstance(message, dict):
        raise MessageError(f"{_short(text)} is not a JSON object")
    kind = message.get("type")
    if kind == "shown":
        return Shown(_whole(message, "sequence"))
    number = _whole(message, "number")
    if kind == "ping":
        return Ping(number)
    if kind == "follow":
        return Follow(number, _stamp(message.get("stamp")), _box(message.get("box")), _id(message.get("id", "")))
    if kind == "cancel":
        target_id = _id(message.get("id"))
        if not target_id:
            raise MessageError("cancel needs the id of a target")
        return Cancel(number, target_id)
    if kind == "cancel_all":
        return Cancel(number, None)
    raise MessageError(f"type {_short(kind)} is unknown")


def number_in(text: str) -> int | None:
    """The number of a message that was refused, so that the browser knows which; None if it has none."""
    try:
        return _whole(json.loads(text), "number")
    except (ValueError, RecursionError, AttributeError):
        return None


def check_box(box: XYWH, width: int, height: int) -> None:
    """MessageError unless at least 2×2 px of the box lie inside the image."""
    x, y, w, h = box
    inside = (min(x + w, width) - max(x, 0.0), min(y + h, height) - max(y, 0.0))
    if min(inside) < 2.0:
        shown = ", ".join(f"{value:.1f}" for value in box)
        raise MessageError(f"box ({shown}): less than 2x2 px of it lie inside the {width}x{height} image")


def pack_frame(header: Mapping[str, Any], jpeg: bytes) -> bytes:
    """A frame for the browser."""
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    return b"".join((struct.pack(">I", len(text)), text, jpeg))


def unpack_frame(data: bytes) -> tuple[dict[str, Any], bytes]:
    """(header, JPEG) of a frame; the browser's side of `pack_frame`, for tests and measurements."""
    (length,) = struct.unpack_from(">I", data)
    return json.loads(data[4 : 4 + length]), data[4 + length :]


def _whole(message: Mapping[str, Any], name: str) -> int:
    value = message.get(name)
    if type(value) is not int or not 0 <= value < 2**53:
        raise MessageError(f"{name} {_short(value)} is not a whole number")
    return value


def _stamp(value: object) -> int:
    if not (isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 19):
        raise MessageError(f"stamp {_short(value)} is not nanoseconds in a string")
    stamp_ns = int(value)
    if stamp_ns >= _MAX_STAMP_NS:
        raise MessageError(f"stamp {value} is beyond the times of ROS messages")
    return stamp_ns


def _box(value: object) -> XYWH:
    if not (isinstance(value, list) and len(value) == 4 and all(type(part) in (int, float) for part in value)):
        raise MessageError(f"box {_short(value)} is not four numbers x, y, w, h")
    try:
        x, y, w, h = (float(part) for part in value)
    except OverflowError:
        raise MessageError(f"box {_short(value)} is not finite") from None
    if not all(math.isfinite(part) for part in (x, y, w, h, x + w, y + h)):
        raise MessageError(f"box {_short(value)} is not finite")
    if w <= 0.0 or h <= 0.0:
        raise MessageError(f"box {_short(value)} has no area")
    return (x, y, w, h)


def _id(value: object) -> str:
    if not isinstance(value, str) or len(value) > _MAX_ID or not (value == "" or value.isprintable()):
        raise MessageError(f"id {_short(value)} is not a text of at most {_MAX_ID} printable characters")
    return value


def _short(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        text = "a number"
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"
