"""How many browsers the real web server takes, how much of them, and how slow they may be."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="aiohttp is not there")

import aiohttp
from served import WAIT_S, Served, frame

from ros2_tracker.operator.protocol import MAX_MESSAGE_BYTES


def test_of_fifty_browsers_as_many_as_allowed_are_served(serve: Callable[..., Served]):
    served = serve(max_clients=8)

    async def work(http: aiohttp.ClientSession) -> None:
        async def one() -> Any:
            try:
                return await served.connect(http)
            except aiohttp.WSServerHandshakeError as refusal:
                return refusal.status

        results = await asyncio.gather(*(one() for _ in range(50)))
        sockets = [result for result in results if not isinstance(result, int)]
        assert len(sockets) == 8
        assert [result for result in results if isinstance(result, int)] == [503] * 42
        async with http.get(f"{served.url}/ready") as answer:
            assert answer.status == 503
            assert "8 browsers are watching already" in await answer.text()
        with served.camera():
            for ws in sockets:
                await frame(ws)
        await sockets.pop().close()
        deadline = time.monotonic() + WAIT_S
        while isinstance(again := await one(), int):  # until there is room again
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        sockets.append(again)
        for ws in sockets:
            await ws.close()

    served.run(work)
    assert served.board.counters["clients_refused"] >= 42
    deadline = time.monotonic() + WAIT_S
    while served.tracker.watched[-1] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not served.tracker.watched[-1]


def test_connections_that_say_nothing_are_bounded(serve: Callable[..., Served]):
    served = serve(max_clients=1)
    silent = [socket.create_connection(("127.0.0.1", served.server.port), WAIT_S) for _ in range(40)]
    try:
        served.wait_count("clients_refused", 16)
    finally:
        for connection in silent:
            connection.close()


def test_an_oversized_message_ends_the_connection(serve: Callable[..., Served]):
    served = serve()

    async def work(http: aiohttp.ClientSession) -> None:
        async with served.connect(http) as ws:
            await ws.send_str('{"type": "ping", "number": 1, "x": "' + "x" * MAX_MESSAGE_BYTES + '"}')
            async for _ in ws:
                pass
            assert ws.close_code == 1009

    served.run(work)
    served.wait_count("messages_oversized")


def test_a_flood_of_messages_ends_the_connection(serve: Callable[..., Served]):
    served = serve()

    async def work(http: aiohttp.ClientSession) -> None:
        async with served.connect(http) as ws:
            with suppress(ConnectionError):
                for number in range(1000):
                    await ws.send_json({"type": "ping", "number": number})
            async for _ in ws:
                pass

    served.run(work)
    served.wait_count("clients_dropped")


def handshake(served: Served) -> socket.socket:
    """A WebSocket that nobody reads from."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.settimeout(WAIT_S)
    raw.connect(("127.0.0.1", served.server.port))
    host = f"127.0.0.1:{served.server.port}"
    raw.sendall(
        f"GET /socket HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
    )
    return raw


def test_who_never_reads_is_dropped_and_holds_up_nobody(serve: Callable[..., Served]):
    served = serve(client_timeout=3.0)
    raw = handshake(served)

    async def work(http: aiohttp.ClientSession) -> int:
        seen = 0
        async with served.connect(http) as ws:
            while not served.board.counters["clients_dropped"]:
                await frame(ws)
                seen += 1
        return seen

    with served.camera(), raw:
        seen = served.run(work)
    # At 50 images a second for three seconds; far more than the two that the other one let through.
    assert seen > 20
    assert served.board.counters["clients_dropped"] == 1
    assert any("dropped: it" in text for text in served.tracker.notices)


def test_a_slow_browser_gets_the_newest_images_and_no_queue(serve: Callable[..., Served]):
    served = serve()

    async def work(http: aiohttp.ClientSession) -> None:
        async with served.connect(http) as ws:
            with served.camera(rate=100.0):
                first = await frame(ws)
                await asyncio.sleep(1.0)
            await asyncio.sleep(0.2)
            newest = served.board.counters["frames_shown"]
            # Two more were on their way; after them comes the newest at once.
            rest = [(await frame(ws))["sequence"] for _ in range(3)]
            assert rest[1] - first["sequence"] < 5
            assert rest[2] == newest > rest[1] + 20

    served.run(work)
