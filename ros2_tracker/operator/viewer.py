"""One browser's connection: what waits to be sent is bounded, and a browser that takes nothing in is let go."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress

from aiohttp import web

_MAX_TEXTS = 32
_MAX_UNSHOWN = 2
"""Frames on their way: one being sent while the other is being decoded."""
_SEND_BUFFER_BYTES = 256 * 1024
"""Of the kernel. More of it would only fill with frames that are old when they arrive."""


class Dropped(Exception):
    """The browser takes nothing in any more; the text says what it failed to do."""


class Viewer:
    """Sends what is offered, newest first; all methods are for the server's event loop."""

    def __init__(self, timeout_s: float) -> None:
        """Nothing to send yet; see `OperatorSettings.client_timeout`."""
        self._timeout_s = timeout_s
        self._texts: deque[str] = deque(maxlen=_MAX_TEXTS)
        self._state: str | None = None
        self._frame: tuple[int, bytes] | None = None
        self._unshown: deque[tuple[int, float]] = deque()
        self._wake = asyncio.Event()
        self._ended = False

    def offer_frame(self, sequence: int, data: bytes) -> None:
        """Send this frame when the browser is ready, unless a newer one comes first."""
        self._frame = (sequence, data)
        self._wake.set()

    def offer_state(self, text: str) -> None:
        """Send this state, unless a newer one comes first."""
        self._state = text
        self._wake.set()

    def offer_text(self, text: str) -> None:
        """Send this reply or event; the oldest is given up when too many wait."""
        self._texts.append(text)
        self._wake.set()

    def shown(self, sequence: int) -> None:
        """The browser has shown a frame, and with it all before."""
        while self._unshown and self._unshown[0][0] <= sequence:
            self._unshown.popleft()
        self._wake.set()

    def end(self) -> None:
        """Let `send` return, unless it hangs in the middle of a message: cancel it as well.

        Cancelling alone is not enough: before Python 3.12, `wait_for` swallows it now and then (python/cpython#86296).
        """
        self._ended = True
        self._wake.set()

    async def send(self, ws: web.WebSocketResponse) -> None:
        """Send until `end`.

        Raises:
            Dropped: the browser took nothing in for too long.
            ConnectionError: it has gone.

        """
        while not self._ended:
            await self._something_to_do()
            while self._texts:
                await self._within_time(ws.send_str(self._texts.popleft()))
            if self._state is not None:
                text, self._state = self._state, None
                await self._within_time(ws.send_str(text))
            if self._frame is not None and len(self._unshown) < _MAX_UNSHOWN:
                (sequence, data), self._frame = self._frame, None
                self._unshown.append((sequence, time.monotonic()))
                await self._within_time(ws.send_bytes(data))

    async def _something_to_do(self) -> None:
        self._wake.clear()
        left_s = None
        if self._unshown:
            left_s = self._unshown[0][1] + self._timeout_s - time.monotonic()
            if left_s <= 0.0:
                raise Dropped(f"showed no frame for {self._timeout_s:g} s")
        if self._texts or self._state is not None or (self._frame is not None and len(self._unshown) < _MAX_UNSHOWN):
            return
        # When the time is over, the next turn says so.
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._wake.wait(), left_s)

    async def _within_time(self, sending: Coroutine[None, None, None]) -> None:
        try:
            await asyncio.wait_for(sending, self._timeout_s)
        except asyncio.TimeoutError:
            raise Dropped(f"read nothing for {self._timeout_s:g} s") from None


def limit_send_buffer(transport: asyncio.Transport | None) -> None:
    """Keep the kernel from queueing frames for a slow link."""
    connection = transport.get_extra_info("socket") if transport is not None else None
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
