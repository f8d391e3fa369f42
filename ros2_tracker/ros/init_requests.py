"""Where every box goes in, whatever it came from: to the session, or back as a REJECTED event."""

from __future__ import annotations

from collections.abc import Callable

from ros2_tracker.tracking.admission import MAX_ID_LENGTH
from ros2_tracker.tracking.events import Counters, EventType, InitRequest, Reason, TargetEvent
from ros2_tracker.tracking.session import TrackingSession

SELECTOR_ID = "selected"
"""Id of the target that selectors without ids choose: a new choice replaces the old."""
NO_BOX = (0.0, 0.0, 0.0, 0.0)
"""Of a request that is refused before there is a box."""


class InitRequests:
    """Asks the session for targets, and answers for it while there is none."""

    def __init__(self, counters: Counters, on_event: Callable[[TargetEvent], None]) -> None:
        """No session yet."""
        self.session: TrackingSession | None = None
        """The active node's."""
        self._counters = counters
        self._on_event = on_event

    def request(self, request: InitRequest) -> None:
        """Ask to follow a box; the answer is an INITIALIZED or REJECTED event."""
        session = self.session
        if session is None:
            self.refuse(request, Reason.NOT_ACTIVE, "the node is not active")
        else:
            session.request_init(request)

    def refuse(self, request: InitRequest, reason: Reason, text: str) -> None:
        """Count a box that is not accepted and say so."""
        session = self.session
        if session is not None:
            session.refuse(request, reason, text)
            return
        self._counters.inits_rejected += 1
        shown_id = request.target_id[:MAX_ID_LENGTH]
        self._on_event(TargetEvent(EventType.REJECTED, shown_id, 0, request.stamp_ns, request.tag, reason, text))

    def cancelled(self, request: InitRequest) -> None:
        """Say that a box was dropped on request before it was a target."""
        self._on_event(TargetEvent(EventType.CANCELLED, request.target_id, 0, request.stamp_ns, request.tag))
