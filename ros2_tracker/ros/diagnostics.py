"""What /diagnostics says: three statuses (input, tracking, engine) with every counter under its name."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from ros2_tracker.tracking.events import Counters

# Enough for a 99th percentile, little enough to follow a change within seconds.
_WINDOW = 600


class LatencyWindow:
    """The last few hundred durations of one kind, in seconds."""

    def __init__(self) -> None:
        """An empty window."""
        self._values: deque[float] = deque(maxlen=_WINDOW)

    def add(self, seconds: float) -> None:
        """Add one duration."""
        self._values.append(seconds)

    def percentiles_ms(self) -> tuple[float, float] | None:
        """(p50, p99) in milliseconds, None while empty."""
        values = list(self._values)
        if not values:
            return None
        p50, p99 = np.percentile(values, [50, 99]) * 1e3
        return float(p50), float(p99)


class RateMeter:
    """How often something happened between two readings."""

    def __init__(self) -> None:
        """Nothing counted yet."""
        self._count = 0
        self._time = 0.0

    def rate(self, count: int, now_s: float) -> float:
        """Hz since the last call, given the running count."""
        elapsed = now_s - self._time
        rate = (count - self._count) / elapsed if self._time and elapsed > 0 else 0.0
        self._count, self._time = count, now_s
        return rate


@dataclass(frozen=True, slots=True)
class Input:
    """Images of an active node."""

    topic: str
    publishers: int
    silent_s: float
    """Since the last image, or since activation."""
    timeout_s: float
    """From here on silence is a warning."""
    buffered: tuple[int, int]
    """(frames, bytes) in the frame buffer."""

    @property
    def silence(self) -> str:
        """What to tell a user who waits for images; empty while they come."""
        if self.silent_s <= self.timeout_s:
            return ""
        since = f"no image for {self.silent_s:.1f} s"
        if self.publishers == 0:
            return f"{since}: nobody publishes {self.topic} (remap `image`, check ROS_DOMAIN_ID)"
        return (
            f"{since} although {self.publishers} publisher(s) of {self.topic} are there: the camera stopped, or its "
            "images do not fit into its shared-memory segment (start the camera with our Fast DDS profile, or set "
            "qos.image.reliability: reliable; see README, troubleshooting)"
        )


@dataclass(frozen=True, slots=True)
class Engine:
    """What runs the network; `failure` says why nothing does, `loading` how far it is; empty before configuring."""

    model: str = ""
    description: str = ""
    calibrated: bool = False
    failure: str = ""
    loading: str = ""


class Reporter:
    """Keeps what the statuses need between two reports, and writes them."""

    def __init__(self, name: str, hardware_id: str) -> None:
        """For the node of this name; `hardware_id` tells several apart."""
        self._name = name
        self._hardware_id = hardware_id
        self._image_rate, self._answer_rate = RateMeter(), RateMeter()
        self.images_unstamped = 0
        self.latencies = {kind: LatencyWindow() for kind in ("transport", "image_age", "processing", "network")}

    def input_status(self, counters: Counters, images: Input | None) -> DiagnosticStatus:
        """Every counter, and whether images come; None for a node that is not active."""
        values: dict[str, object] = dict(counters.as_dict())
        values["images_unstamped"] = self.images_unstamped
        values["image_rate_hz"] = self._image_rate.rate(counters.images_received, time.monotonic())
        if images is None:
            return self._status(DiagnosticStatus.OK, "input", "not active", values)
        frames, n_bytes = images.buffered
        values.update(
            image_topic=images.topic,
            image_publishers=images.publishers,
            buffered_frames=frames,
            buffered_megabytes=n_bytes / 2**20,
        )
        level = DiagnosticStatus.WARN if images.silence else DiagnosticStatus.OK
        return self._status(level, "input", images.silence or "images arrive", values)

    def tracking_status(self, counters: Counters, targets: Sequence[str], debug_images: int) -> DiagnosticStatus:
        """Who is followed, how often and how fast."""
        values: dict[str, object] = {
            "targets": ", ".join(targets),
            "debug_images": debug_images,
            "answer_rate_hz": self._answer_rate.rate(counters.images_answered, time.monotonic()),
        }
        for kind, window in self.latencies.items():
            percentiles = window.percentiles_ms()
            if percentiles is not None:
                values[f"{kind}_p50_ms"], values[f"{kind}_p99_ms"] = percentiles
        return self._status(DiagnosticStatus.OK, "tracking", "following" if targets else "idle", values)

    def engine_status(self, engine: Engine) -> DiagnosticStatus:
        """Whether the network is ready, or why not."""
        if engine.failure:
            return self._status(DiagnosticStatus.ERROR, "engine", engine.failure, {})
        if engine.loading:
            return self._status(DiagnosticStatus.WARN, "engine", engine.loading, {})
        if not engine.model:
            return self._status(DiagnosticStatus.OK, "engine", "not configured", {})
        values = {
            "model": engine.model,
            "engine": engine.description,
            "reliability_calibrated": engine.calibrated,
        }
        return self._status(DiagnosticStatus.OK, "engine", "ready", values)

    def _status(self, level: bytes, name: str, message: str, values: Mapping[str, object]) -> DiagnosticStatus:
        return DiagnosticStatus(
            level=level,
            name=f"{self._name}: {name}",
            message=message,
            hardware_id=self._hardware_id,
            values=[KeyValue(key=key, value=_text(value)) for key, value in values.items()],
        )


def _text(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
