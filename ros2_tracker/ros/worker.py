"""The one thread that runs the network, beside the executor's."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ros2_tracker.tracking.session import TrackingSession

_IDLE_WAIT_S = 0.25


class Worker:
    """Calls `session.work` until it is stopped."""

    def __init__(self, session: TrackingSession, on_failure: Callable[[str, Exception], None]) -> None:
        """Start working at once; `on_failure` hears of errors that `work` let through."""
        self._session = session
        self._on_failure = on_failure
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish the frame in work and end; returns when the thread has."""
        self._stopping.set()
        self._session.wake()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._session.work(_IDLE_WAIT_S)
            except Exception as error:  # publishing can fail while ROS shuts down; anything else must be seen
                if not self._stopping.is_set():
                    self._on_failure("the worker caught an error", error)
