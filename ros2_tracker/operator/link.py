"""What the page needs of the tracker; the ROS side (`ros/operator_bridge.py`) provides it."""

from __future__ import annotations

from typing import Protocol

XYWH = tuple[float, float, float, float]


class TrackerAbsentError(Exception):
    """Nobody is there to take a command; the text says on which topic or service."""


class TrackerLink(Protocol):
    """Commands to the tracker; called on the server's thread.

    A command may wait for the tracker, but less than the shortest `OperatorSettings.client_timeout`: meanwhile the
    browser that sent it is not heard.
    """

    async def follow(self, box: XYWH, target_id: str, tag: object) -> None:
        """Ask to follow a box in the image with this tag; TrackerAbsentError when nobody listens."""
        ...

    async def cancel(self, target_id: str) -> None:
        """Ask to drop a target; TrackerAbsentError when nobody listens."""
        ...

    async def cancel_all(self) -> str:
        """Drop all targets; the tracker's answer. TrackerAbsentError when none comes."""
        ...

    def watch(self, watching: bool) -> None:
        """Whether images are needed."""
        ...

    def notice(self, text: str) -> None:
        """Something the person at the robot should know, for the log."""
        ...
