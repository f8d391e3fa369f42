"""The browsers that watch: what is sent to all of them, and what each may ask for."""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from ros2_tracker.operator.board import Board
from ros2_tracker.operator.encoder import Picture
from ros2_tracker.operator.link import TrackerAbsentError, TrackerLink
from ros2_tracker.operator.protocol import (
    MAX_MESSAGE_BYTES,
    Cancel,
    Follow,
    MessageError,
    Ping,
    Shown,
    check_box,
    number_in,
    pack_frame,
    parse,
)
from ros2_tracker.operator.settings import OperatorSettings
from ros2_tracker.operator.viewer import Dropped, Viewer, limit_send_buffer

_STATE_PERIOD_S = 0.1
_HEARTBEAT_S = 15.0
# More than a browser that shows every frame and a busy hand send.
_MAX_MESSAGES_PER_S = 200
# Frames on which a box may still come in: a minute at ten a second.
_MAX_REMEMBERED = 600


class Hub:
    """All viewers of one server; its methods are for the server's event loop."""

    def __init__(self, settings: OperatorSettings, board: Board, link: TrackerLink) -> None:
        """Nobody watches yet."""
        self._settings = settings
        self._board = board
        self._link = link
        self._viewers: set[Viewer] = set()
        self._sockets: dict[web.WebSocketResponse, web.Request] = {}
        self._sequence = 0
        self._shown: OrderedDict[int, Picture] = OrderedDict()

    @property
    def full(self) -> bool:
        """Whether no more browsers are served."""
        return len(self._viewers) >= self._settings.max_clients

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Serve one browser until it goes, or is dropped; the caller has checked who it is and that there is room."""
        viewer = Viewer(self._settings.client_timeout)
        self._viewers.add(viewer)
        self._link.watch(True)
        ws = web.WebSocketResponse(max_msg_size=MAX_MESSAGE_BYTES, heartbeat=_HEARTBEAT_S, compress=False)
        try:
            limit_send_buffer(request.transport)
            await ws.prepare(request)
            self._sockets[ws] = request
            viewer.offer_text(self._greeting())
            sender = asyncio.create_task(self._send(viewer, ws, request))
            try:
                await self._receive(viewer, ws)
            finally:
                viewer.end()
                sender.cancel()
                await asyncio.gather(sender, return_exceptions=True)
        except ConnectionError:
            pass  # it went while it was being greeted
        finally:
            self._sockets.pop(ws, None)
            self._viewers.discard(viewer)
            self._link.watch(bool(self._viewers))
        return ws

    async def close(self, timeout_s: float) -> None:
        """Tell all browsers that it is over; those that do not answer are cut off."""
        requests = list(self._sockets.values())
        goodbyes = [ws.close(code=WSCloseCode.GOING_AWAY, message=b"the page ends") for ws in self._sockets]
        closing = [asyncio.ensure_future(goodbye) for goodbye in goodbyes]
        if closing:
            _, late = await asyncio.wait(closing, timeout=timeout_s)
            for task in late:
                task.cancel()
        for request in requests:
            _abort(request)

    def show(self, picture: Picture) -> None:
        """Send an image, with the boxes of its stamp, to all who are ready for one."""
        if not self._viewers:
            return
        self._sequence += 1
        self._shown[picture.stamp_ns] = Picture(picture.stamp_ns, picture.width, picture.height, b"", picture.tag)
        self._shown.move_to_end(picture.stamp_ns)
        while len(self._shown) > _MAX_REMEMBERED:
            self._shown.popitem(last=False)
        header = {
            "sequence": self._sequence,
            "stamp": str(picture.stamp_ns),
            "width": picture.width,
            "height": picture.height,
            "boxes": self._board.boxes(picture.stamp_ns),
        }
        self._board.on_shown(time.monotonic())
        self._board.count("frames_shown")
        data = pack_frame(header, picture.jpeg)
        for viewer in self._viewers:
            viewer.offer_frame(self._sequence, data)

    def tell(self, event: Mapping[str, Any]) -> None:
        """Send an event to all."""
        text = _json(event)
        for viewer in self._viewers:
            viewer.offer_text(text)

    async def send_states(self) -> None:
        """Send what is known of the targets several times a second, until cancelled."""
        while True:
            await asyncio.sleep(_STATE_PERIOD_S)
            if self._viewers:
                text = _json(self._board.state(time.monotonic(), len(self._viewers)))
                for viewer in self._viewers:
                    viewer.offer_state(text)

    def _greeting(self) -> str:
        now_s = time.monotonic()
        return _json({"type": "hello", "t": round(now_s, 3), **self._board.history(now_s)})

    async def _send(self, viewer: Viewer, ws: web.WebSocketResponse, request: web.Request) -> None:
        try:
            await viewer.send(ws)
        except Dropped as reason:
            self._board.count("clients_dropped")
            self._link.notice(f"browser {request.remote} dropped: it {reason}")
        except (ConnectionError, RuntimeError):
            pass  # it has gone, or is going
        # Not close(), which would wait for somebody who does not read.
        _abort(request)

    async def _receive(self, viewer: Viewer, ws: web.WebSocketResponse) -> None:
        budget, last_s = float(_MAX_MESSAGES_PER_S), time.monotonic()
        async for message in ws:
            now_s = time.monotonic()
            budget = min(budget + (now_s - last_s) * _MAX_MESSAGES_PER_S, _MAX_MESSAGES_PER_S) - 1.0
            last_s = now_s
            if budget < 0.0:
                self._board.count("clients_dropped")
                await ws.close(code=WSCloseCode.POLICY_VIOLATION, message=b"too many messages")
                break
            if message.type is WSMsgType.TEXT:
                await self._obey(viewer, message.data)
            elif message.type is WSMsgType.BINARY:
                self._refuse(viewer, None, "binary messages mean nothing here")
            elif getattr(message.data, "code", None) == WSCloseCode.MESSAGE_TOO_BIG:
                self._board.count("messages_oversized")

    async def _obey(self, viewer: Viewer, text: str) -> None:
        try:
            command = parse(text)
            if isinstance(command, Shown):
                viewer.shown(command.sequence)
                return
            answer = "" if isinstance(command, Ping) else await self._carry_out(command)
        except (MessageError, TrackerAbsentError) as error:
            self._refuse(viewer, number_in(text), str(error))
            return
        viewer.offer_text(_json({"type": "reply", "number": command.number, "ok": True, "text": answer}))

    async def _carry_out(self, command: Follow | Cancel) -> str:
        if isinstance(command, Follow):
            picture = self._shown.get(command.stamp_ns)
            if picture is None:
                raise MessageError(f"stamp {command.stamp_ns}: no image with it was shown in the last minute")
            check_box(command.box, picture.width, picture.height)
            await self._link.follow(command.box, command.target_id, picture.tag)
            return "sent"
        if command.target_id is None:
            return await self._link.cancel_all()
        await self._link.cancel(command.target_id)
        return "sent"

    def _refuse(self, viewer: Viewer, number: int | None, reason: str) -> None:
        self._board.count("messages_refused")
        viewer.offer_text(_json({"type": "reply", "number": number, "ok": False, "text": reason}))


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def _json(message: Mapping[str, Any]) -> str:
    return json.dumps(message, separators=(",", ":"), allow_nan=False)
