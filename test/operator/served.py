"""A real web server whose tracker is played, and what its clients say and hear."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp

from ros2_tracker.operator.board import Board
from ros2_tracker.operator.encoder import Picture
from ros2_tracker.operator.link import TrackerAbsentError
from ros2_tracker.operator.protocol import unpack_frame
from ros2_tracker.operator.server import OperatorServer
from ros2_tracker.operator.settings import OperatorSettings

WAIT_S = 20.0
JPEG = b"\xff\xd8" + bytes(40_000)


class PlayedTracker:
    """Notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.watched: list[bool] = []
        self.notices: list[str] = []
        self.there = True

    async def follow(self, box: tuple[float, ...], target_id: str, tag: object) -> None:
        self._take("follow", box, target_id, tag)

    async def cancel(self, target_id: str) -> None:
        self._take("cancel", target_id)

    async def cancel_all(self) -> str:
        self._take("cancel_all")
        return "dropped: a, b"

    def watch(self, watching: bool) -> None:
        self.watched.append(watching)

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def _take(self, *what: Any) -> None:
        if not self.there:
            raise TrackerAbsentError("nobody listens on /tracker/init")
        self.asked.append(what)


class Served:
    """A server with its tracker."""

    def __init__(self, settings: OperatorSettings) -> None:
        self.settings = settings
        self.tracker = PlayedTracker()
        self.board = Board()
        self.server = OperatorServer(settings, self.board, self.tracker)
        self.server.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    def show(self, stamp_ns: int) -> None:
        self.server.show(Picture(stamp_ns, 320, 240, JPEG, f"header {stamp_ns}"))

    @contextmanager
    def camera(self, rate: float = 50.0) -> Iterator[None]:
        """Shows one image after another."""
        stopping = threading.Event()

        def run() -> None:
            stamp_ns = 1000
            while not stopping.wait(1 / rate):
                stamp_ns += 1
                self.show(stamp_ns)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            thread.join()

    def run(self, work: Callable[[aiohttp.ClientSession], Awaitable[Any]]) -> Any:
        """Run a client's coroutine."""

        async def inner() -> Any:
            jar = aiohttp.CookieJar(unsafe=True)  # cookies of a bare address
            unlimited = aiohttp.TCPConnector(limit=0)
            async with aiohttp.ClientSession(cookie_jar=jar, connector=unlimited) as http:
                return await asyncio.wait_for(work(http), WAIT_S * 2)

        return asyncio.run(inner())

    def connect(self, http: aiohttp.ClientSession, **options: Any) -> Any:
        """A WebSocket as the page opens it."""
        headers = {"Origin": self.url, **options.pop("headers", {})}
        return http.ws_connect(f"{self.url}/socket", headers=headers, **options)

    def wait_count(self, name: str, least: int = 1) -> None:
        """Wait until something was counted."""
        deadline = time.monotonic() + WAIT_S
        while self.board.counters[name] < least:
            assert time.monotonic() < deadline, f"{name} is {self.board.counters[name]}"
            time.sleep(0.02)


async def reply(ws: Any, message: Any) -> dict[str, Any]:
    """Send something, and get what is answered to it."""
    await (ws.send_str(message) if isinstance(message, str) else ws.send_json(message))
    return await told(ws, "reply")


async def told(ws: Any, kind: str) -> dict[str, Any]:
    """The next text of a kind."""
    while True:
        message = await asyncio.wait_for(ws.receive(), WAIT_S)
        assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
        if message.type is aiohttp.WSMsgType.TEXT and json.loads(message.data)["type"] == kind:
            return json.loads(message.data)


async def frame(ws: Any) -> dict[str, Any]:
    """The header of the next frame, which is acknowledged."""
    while True:
        message = await asyncio.wait_for(ws.receive(), WAIT_S)
        if message.type is aiohttp.WSMsgType.BINARY:
            header, jpeg = unpack_frame(message.data)
            assert jpeg == JPEG
            await ws.send_json({"type": "shown", "sequence": header["sequence"]})
            return header
        assert message.type is aiohttp.WSMsgType.TEXT, message
