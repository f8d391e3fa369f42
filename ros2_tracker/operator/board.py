"""What is known of the targets: where each is in each image, its last status, its reliability over time, rates.

Filled by the ROS side's thread, read by the server's. Times are monotonic seconds, boxes (x, y, w, h) px.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

XYWH = tuple[float, float, float, float]

CURVE_S = 30.0
"""How far back a browser can look when it connects."""
_CURVE_STEP_S = 0.1
_FORGET_S = 5.0
"""Without a status for this long a target is no longer listed."""
_RATE_WINDOW_S = 3.0
_MAX_STAMPS = 256
_MAX_TARGETS = 64
_MAX_EVENTS = 20
_SILENT_S = 1.0


@dataclass(frozen=True, slots=True)
class Status:
    """One target in one image, as ~/status tells it."""

    target_id: str
    stamp_ns: int
    state: str
    reliability: float
    predicted: bool
    calibrated: bool
    box: XYWH | None
    """None while LOST."""


@dataclass(slots=True)
class _Listed:
    status: Status
    seen_s: float
    curve: deque[tuple[float, float, str]] = field(default_factory=deque)
    """(time, lowest reliability in the step, state then)."""


@dataclass(slots=True)
class _Answer:
    tracks: int | None = None
    """Detections in ~/tracks; None as long as it has not come."""
    statuses: dict[str, Status] = field(default_factory=dict)


class _Rate:
    """Events a second, over the last seconds."""

    def __init__(self) -> None:
        self.times: deque[float] = deque(maxlen=1000)

    def add(self, now_s: float) -> None:
        self.times.append(now_s)

    def value(self, now_s: float) -> float:
        while self.times and now_s - self.times[0] > _RATE_WINDOW_S:
            self.times.popleft()
        if len(self.times) < 2:
            return 0.0
        # Between the events and not over the window: right also at the start; falls when they cease.
        return (len(self.times) - 1) / max(now_s - self.times[0], 1e-3)


class Board:
    """All of it for one tracker."""

    def __init__(self) -> None:
        """Nothing known yet."""
        self._lock = threading.Lock()
        self._answers: OrderedDict[int, _Answer] = OrderedDict()
        self._targets: dict[str, _Listed] = {}
        self._events: deque[dict[str, Any]] = deque(maxlen=_MAX_EVENTS)
        self._images, self._tracks, self._shown = _Rate(), _Rate(), _Rate()
        self._latencies: deque[float] = deque(maxlen=200)
        self._image_s = self._answer_s = -_SILENT_S
        self.counters = dict.fromkeys(COUNTERS, 0)
        """Of the server; written by its threads."""

    # -- from the ROS side --------------------------------------------------------------------------------------

    def on_image(self, now_s: float) -> None:
        """An image has come."""
        with self._lock:
            self._image_s = now_s
            self._images.add(now_s)

    def on_tracks(self, stamp_ns: int, detections: int, latency_s: float, now_s: float) -> bool:
        """~/tracks of an image, `latency_s` after its stamp; whether that image's answer is complete now."""
        with self._lock:
            self._answer_s = now_s
            self._tracks.add(now_s)
            self._latencies.append(latency_s)
            answer = self._answer(stamp_ns)
            answer.tracks = detections
            return len(answer.statuses) >= detections

    def on_status(self, status: Status, now_s: float) -> bool:
        """~/status of a target; whether its image's answer is complete now."""
        with self._lock:
            self._answer_s = now_s
            answer = self._answer(status.stamp_ns)
            before = answer.statuses.get(status.target_id)
            if before is None or before.predicted or not status.predicted:
                answer.statuses[status.target_id] = status
            self._list(status, now_s)
            # The model's answers to an image that must wait come all at once, and without ~/tracks.
            return status.predicted or (answer.tracks is not None and len(answer.statuses) >= answer.tracks)

    def on_event(self, event: dict[str, Any], now_s: float) -> dict[str, Any]:
        """Something happened to a target; what to tell the browsers."""
        with self._lock:
            told = {"type": "event", "t": round(now_s, 3), **event}
            self._events.append(told)
            if event["kind"] == "CANCELLED":
                self._targets.pop(event["id"], None)
            return told

    # -- for the browsers ---------------------------------------------------------------------------------------

    def boxes(self, stamp_ns: int) -> list[dict[str, Any]]:
        """Boxes of the targets in the image with this stamp, in no other."""
        with self._lock:
            answer = self._answers.get(stamp_ns)
            statuses = list(answer.statuses.values()) if answer is not None else []
        return [
            {
                "id": status.target_id,
                "box": [round(value, 2) for value in status.box],
                "state": status.state,
                "reliability": round(status.reliability, 3),
                "predicted": status.predicted,
            }
            for status in statuses
            if status.box is not None
        ]

    def on_shown(self, now_s: float) -> None:
        """A frame goes out to the browsers."""
        with self._lock:
            self._shown.add(now_s)

    def count(self, what: str) -> None:
        """One more of one of COUNTERS."""
        with self._lock:
            self.counters[what] += 1

    def state(self, now_s: float, clients: int) -> dict[str, Any]:
        """The `state` message."""
        with self._lock:
            self._forget(now_s)
            latency = np.percentile(self._latencies, [50, 99]) * 1e3 if self._latencies else (0.0, 0.0)
            return {
                "type": "state",
                "t": round(now_s, 3),
                "targets": [
                    {
                        "id": name,
                        "state": listed.status.state,
                        "reliability": round(listed.status.reliability, 3),
                        "low": round(listed.curve[-1][1], 3),
                        "predicted": listed.status.predicted,
                        "calibrated": listed.status.calibrated,
                        "age": round(now_s - listed.seen_s, 2),
                    }
                    for name, listed in self._targets.items()
                ],
                "rates": {
                    "images": round(self._images.value(now_s), 1),
                    "tracks": round(self._tracks.value(now_s), 1),
                    "shown": round(self._shown.value(now_s), 1),
                },
                "latency_ms": {"p50": round(float(latency[0]), 1), "p99": round(float(latency[1]), 1)},
                "images_come": now_s - self._image_s < _SILENT_S,
                "tracker_answers": now_s - self._answer_s < _SILENT_S,
                "clients": clients,
                "counters": dict(self.counters),
            }

    def history(self, now_s: float) -> dict[str, Any]:
        """What a browser needs of the past when it connects: curves by id, and events."""
        with self._lock:
            self._forget(now_s)
            curves = {
                name: [[round(t, 3), round(low, 3), state] for t, low, state in listed.curve]
                for name, listed in self._targets.items()
            }
            return {"curves": curves, "events": list(self._events)}

    # -- under the lock -----------------------------------------------------------------------------------------

    def _answer(self, stamp_ns: int) -> _Answer:
        answer = self._answers.setdefault(stamp_ns, _Answer())
        while len(self._answers) > _MAX_STAMPS:
            self._answers.popitem(last=False)
        return answer

    def _list(self, status: Status, now_s: float) -> None:
        listed = self._targets.get(status.target_id)
        if listed is None:
            if len(self._targets) >= _MAX_TARGETS:
                return
            listed = self._targets[status.target_id] = _Listed(status, now_s)
        listed.status, listed.seen_s = status, now_s
        curve = listed.curve
        if curve and now_s - curve[-1][0] < _CURVE_STEP_S:
            # The lowest of a step, so that a short dip stays in sight.
            curve[-1] = (curve[-1][0], min(curve[-1][1], status.reliability), status.state)
        else:
            curve.append((now_s, status.reliability, status.state))
        while now_s - curve[0][0] > CURVE_S:
            curve.popleft()

    def _forget(self, now_s: float) -> None:
        for name in [n for n, listed in self._targets.items() if now_s - listed.seen_s > _FORGET_S]:
            del self._targets[name]


COUNTERS = (
    "clients_refused",
    "clients_dropped",
    "tokens_refused",
    "origins_refused",
    "messages_refused",
    "messages_oversized",
    "frames_shown",
    "images_broken",
)
"""What the server counts: in every `state` message, and in the log when it ends."""
