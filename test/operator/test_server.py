"""The real web server, spoken to by real HTTP and WebSocket clients; only the tracker is played."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="aiohttp is not there")

import aiohttp

from ros2_tracker.operator.board import Board
from ros2_tracker.operator.encoder import Picture
from ros2_tracker.operator.link import TrackerAbsentError
from ros2_tracker.operator.protocol import MAX_MESSAGE_BYTES, unpack_frame
from ros2_tracker.operator.server import OperatorServer
from ros2_tracker.operator.settings import OperatorSettings

TOKEN = "0123456789abcdef-long"
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


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    served: list[Served] = []

    def start(**settings: Any) -> Served:
        served.append(Served(OperatorSettings(port=0, **settings)))
        return served[-1]

    yield start
    for one in served:
        one.server.stop()


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


# -- the page -------------------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_from_outside(serve: Callable[..., Served]):
    served = serve()

    async def work(http: aiohttp.ClientSession) -> None:
        for name, kind in (("", "text/html"), ("main.js", "text/javascript"), ("page.css", "text/css"),
                           ("icon.svg", "image/svg+xml")):  # fmt: skip
            async with http.get(f"{served.url}/{name}") as answer:
                assert (answer.status, answer.content_type) == (200, kind)
                assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
                text = await answer.text()
                assert "://" not in text.replace("${scheme}://${location.host}", "").replace("http://www.w3.org", "")

    served.run(work)


@pytest.mark.parametrize("path", ["server.py", "../server.py", "%2e%2e/server.py", "index.html", "page/main.js", "x"])
def test_only_the_pages_own_files_are_served(serve: Callable[..., Served], path: str):
    served = serve()
    with socket.create_connection(("127.0.0.1", served.server.port), WAIT_S) as raw:
        raw.sendall(f"GET /{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 404 ")


# -- who may come ----------------------------------------------------------------------------------------------------


def test_another_name_for_this_machine_is_refused(serve: Callable[..., Served]):
    served = serve()

    async def work(http: aiohttp.ClientSession) -> None:
        headers = {"Host": "evil.example", "Origin": "http://evil.example"}
        for path in ("/", "/main.js", "/socket", "/ready"):
            async with http.get(served.url + path, headers=headers) as answer:
                assert answer.status == 403
                assert "evil" not in str(answer.headers)

    served.run(work)
    assert served.board.counters["origins_refused"] == 4


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "", "http://127.0.0.1:1"])
def test_another_sites_page_gets_no_socket(serve: Callable[..., Served], origin: str):
    served = serve()

    async def work(http: aiohttp.ClientSession) -> None:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await served.connect(http, headers={"Origin": origin})
        assert refusal.value.status == 403

    served.run(work)
    assert served.board.counters["origins_refused"] == 1
    assert served.tracker.watched == []


def test_a_wrong_token_opens_nothing(serve: Callable[..., Served]):
    served = serve(token=TOKEN)

    async def work(http: aiohttp.ClientSession) -> None:
        for query in ("", "?token=", f"?token={TOKEN[:-1]}", "?token=%FF"):
            async with http.get(f"{served.url}/{query}") as answer:
                assert answer.status == 401
                assert "Set-Cookie" not in answer.headers
                assert 'type="password"' in await answer.text()
        async with http.post(f"{served.url}/login", data={"token": "wrong"}, headers={"Origin": served.url}) as answer:
            assert answer.status == 401
        async with http.post(f"{served.url}/login", data={"token": TOKEN}) as answer:
            assert answer.status == 403  # no Origin: not from the page
        async with http.get(f"{served.url}/ready") as answer:
            assert answer.status == 401
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": "ros2_tracker_operator_0=wrong"}):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
                await served.connect(http, headers=headers)
            assert refusal.value.status == 401

    served.run(work)
    assert served.tracker.watched == []
    assert served.board.counters["tokens_refused"] >= 7
    assert TOKEN not in "".join(served.tracker.notices)


@pytest.mark.parametrize("way", ["address", "form", "header"])
def test_the_token_is_handed_over_once(serve: Callable[..., Served], way: str):
    served = serve(token=TOKEN)

    async def work(http: aiohttp.ClientSession) -> None:
        headers = {}
        if way == "header":
            headers = {"Authorization": f"Bearer {TOKEN}"}
        else:
            asking = (
                http.get(f"{served.url}/?token={TOKEN}")
                if way == "address"
                else http.post(f"{served.url}/login", data={"token": TOKEN}, headers={"Origin": served.url})
            )
            async with asking as answer:
                assert answer.status == 200
                cookie = answer.headers["Set-Cookie"]
                assert "HttpOnly" in cookie
                assert "SameSite=Strict" in cookie
                assert TOKEN not in cookie
                assert TOKEN not in await answer.text()
        async with http.get(served.url, headers=headers) as answer:
            assert "picture" in await answer.text()
        async with served.connect(http, headers=headers) as ws:
            assert (await reply(ws, {"type": "ping", "number": 1}))["ok"]

    served.run(work)


# -- how many, how much ----------------------------------------------------------------------------------------------


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


# -- commands --------------------------------------------------------------------------------------------------------


def test_a_box_goes_out_with_the_image_it_was_drawn_on(serve: Callable[..., Served]):
    served = serve()

    async def work(http: aiohttp.ClientSession) -> None:
        async with served.connect(http) as ws:
            await told(ws, "hello")
            served.show(5_000_000_001)
            frozen = await frame(ws)
            assert (frozen["stamp"], frozen["width"], frozen["height"]) == ("5000000001", 320, 240)
            for number in range(30):
                served.show(5_000_000_002 + number)
            follow = {"type": "follow", "number": 3, "stamp": frozen["stamp"], "box": [1, 2, 30, 40], "id": ""}
            assert await reply(ws, follow) == {"type": "reply", "number": 3, "ok": True, "text": "sent"}
            await reply(ws, {"type": "cancel", "number": 4, "id": "a"})
            answer = await reply(ws, {"type": "cancel_all", "number": 5})
            assert answer["text"] == "dropped: a, b"

    served.run(work)
    assert served.tracker.asked == [
        ("follow", (1.0, 2.0, 30.0, 40.0), "", "header 5000000001"),
        ("cancel", "a"),
        ("cancel_all",),
    ]


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ("hello", "is not JSON"),
        ('{"type": "follow", "number": 9, "stamp": "7", "box": [NaN, 0, 5, 5]}', "is not finite"),
        ('{"type": "follow", "number": 9, "stamp": "7", "box": [400, 0, 50, 50]}', "lie inside the 320x240 image"),
        ('{"type": "follow", "number": 9, "stamp": "8", "box": [4, 4, 50, 50]}', "stamp 8: no image with it was shown"),
        ('{"type": "follow", "number": 9, "stamp": "7", "box": [4, 4, 50, 0]}', "has no area"),
    ],
)
def test_a_broken_message_is_answered_with_the_reason_and_counted(
    serve: Callable[..., Served], message: str, complaint: str
):
    served = serve()

    async def work(http: aiohttp.ClientSession) -> None:
        async with served.connect(http) as ws, served.connect(http) as other:
            await told(ws, "hello")
            served.show(7)
            await frame(ws)
            answer = await reply(ws, message)
            assert not answer["ok"]
            assert complaint in answer["text"]
            assert answer["number"] == (9 if "9" in message else None)
            # The connection stays, and nobody else hears of it.
            assert (await reply(ws, {"type": "ping", "number": 1}))["ok"]
            assert (await reply(other, {"type": "ping", "number": 2}))["number"] == 2

    served.run(work)
    assert served.board.counters["messages_refused"] == 1
    assert served.tracker.asked == []


def test_binary_messages_are_refused(serve: Callable[..., Served]):
    served = serve()

    async def work(http: aiohttp.ClientSession) -> None:
        async with served.connect(http) as ws:
            await ws.send_bytes(b"\x00" * 10)
            assert not (await told(ws, "reply"))["ok"]

    served.run(work)
    assert served.board.counters["messages_refused"] == 1


def test_without_a_tracker_the_browser_is_told(serve: Callable[..., Served]):
    served = serve()
    served.tracker.there = False

    async def work(http: aiohttp.ClientSession) -> None:
        async with served.connect(http) as ws:
            answer = await reply(ws, {"type": "cancel_all", "number": 1})
            assert (answer["ok"], answer["text"]) == (False, "nobody listens on /tracker/init")

    served.run(work)


def test_events_and_states_reach_all(serve: Callable[..., Served]):
    served = serve()
    event = {"kind": "LOST", "id": "a", "reason": "OCCLUDED", "text": "behind a lorry", "stamp": "1"}

    async def work(http: aiohttp.ClientSession) -> None:
        async with served.connect(http) as first, served.connect(http) as second:
            for ws in (first, second):
                await told(ws, "hello")
            served.server.tell(served.board.on_event(event, time.monotonic()))
            for ws in (first, second):
                assert (await told(ws, "event"))["text"] == "behind a lorry"
                assert (await told(ws, "state"))["clients"] == 2
        async with served.connect(http) as late:
            assert [old["id"] for old in (await told(late, "hello"))["events"]] == ["a"]

    served.run(work)


# -- start and end ----------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_an_error_at_once(serve: Callable[..., Served]):
    taken = serve()
    second = OperatorServer(OperatorSettings(port=taken.server.port), Board(), PlayedTracker())
    with pytest.raises(OSError, match=str(taken.server.port)):
        second.start()


def test_stopping_tells_the_browsers_and_takes_no_time(serve: Callable[..., Served]):
    served = serve()

    async def work(http: aiohttp.ClientSession) -> None:
        async with served.connect(http) as ws:
            await told(ws, "hello")
            stopping = asyncio.get_running_loop().run_in_executor(None, served.server.stop)
            async for _ in ws:
                pass
            assert ws.close_code == 1001
            await stopping

    served.run(work)
