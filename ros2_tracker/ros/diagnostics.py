"""What /diagnostics says: three statuses (input, tracking, engine) with every counter under its name."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

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


def status(
    level: bytes, name: str, message: str, values: Mapping[str, object], hardware_id: str
) -> DiagnosticStatus:
    """One DiagnosticStatus; `level` is one of DiagnosticStatus.OK, WARN, ERROR, STALE."""
    return DiagnosticStatus(
        level=level,
        name=name,
        message=message,
        hardware_id=hardware_id,
        values=[KeyValue(key=key, value=_text(value)) for key, value in values.items()],
    )


def _text(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
