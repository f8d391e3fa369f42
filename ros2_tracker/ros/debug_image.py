"""~/debug_image: drawn on a thread of its own, only while somebody looks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from rclpy.publisher import Publisher

from ros2_tracker.ros.image_view import image_message
from ros2_tracker.tracking.events import FrameReport
from ros2_tracker.tracking.overlay import draw_footer, draw_target


class DebugImagePublisher:
    """Draws the newest report that was offered and publishes it, at most `max_rate` times a second."""

    def __init__(
        self, publisher: Publisher, max_rate: float, on_failure: Callable[[str, Exception], None]
    ) -> None:
        """Start the drawing thread."""
        self.max_rate = max_rate
        self.drawn = 0
        """Images published so far."""
        self._publisher = publisher
        self._on_failure = on_failure
        self._changed = threading.Condition()
        self._offered: FrameReport | None = None
        self._last_offer = 0.0
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="debug_image", daemon=True)
        self._thread.start()

    def offer(self, report: FrameReport) -> None:
        """Draw this report if somebody looks and the rate allows it; costs microseconds."""
        now = time.monotonic()
        if now - self._last_offer < 0.95 / self.max_rate or self._publisher.get_subscription_count() == 0:
            return
        self._last_offer = now
        with self._changed:
            self._offered = report
            self._changed.notify()

    def stop(self) -> None:
        """End the thread; returns when it has."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._offered is not None)
                if self._stopping:
                    return
                report, self._offered = self._offered, None
            try:
                if report is not None:
                    self._draw(report)
            except Exception as error:  # a picture for people must not end the node
                if not self._stopping:
                    self._on_failure("drawing the debug image failed", error)

    def _draw(self, report: FrameReport) -> None:
        image = report.source.frame.bgr().copy()
        for target in report.targets:
            result = target.result
            draw_target(
                image,
                target.target_id,
                result.box,
                result.reliability,
                result.state,
                candidate=result.candidate,
            )
        draw_footer(image, [f"{report.processing_s * 1e3:.1f} ms"])
        self._publisher.publish(image_message(image, report.source.tag))
        self.drawn += 1
