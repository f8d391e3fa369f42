"""The real web server, spoken to by real HTTP and WebSocket clients; only the tracker is played."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable

import pytest

pytest.importorskip("aiohttp", reason="aiohttp is not there")

import aiohttp
from served import WAIT_S, PlayedTracker, Served, frame, reply, told

from ros2_tracker.operator.board import Board
from ros2_tracker.operator.server import OperatorServer
from ros2_tracker.operator.settings import OperatorSettings

TOKEN = "0123456789abcdef-long"


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
