"""How far the loading of a network is, for the log and for diagnostics."""

from __future__ import annotations

import time
from typing import Protocol

_LOG_PERIOD_S = 3.0


class _Logger(Protocol):
    def info(self, message: str) -> object: ...


class Loading:
    """Told of progress by the loading thread, read by the node's."""

    def __init__(self, logger: _Logger, model: str) -> None:
        self._logger = logger
        self._model = model
        self._started = self._logged = time.monotonic()
        self._phase = "reading the network"
        self._fraction: float | None = None

    @property
    def elapsed_s(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._started

    @property
    def text(self) -> str:
        """For people."""
        done = "" if self._fraction is None else f" {self._fraction:.0%}"
        return f"loading {self._model}: {self._phase}{done}, {self.elapsed_s:.0f} s"

    def report(self, phase: str, fraction: float | None) -> None:
        """Note progress; logged at once for a new phase, else every few seconds."""
        new = phase != self._phase
        self._phase, self._fraction = phase, fraction
        if new or time.monotonic() - self._logged >= _LOG_PERIOD_S:
            self._logged = time.monotonic()
            self._logger.info(self.text)
