"""The web server of the operator's page, on a thread of its own: static files, the token, the WebSocket."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiohttp import web

from ros2_tracker.operator.access import Access, security_headers
from ros2_tracker.operator.board import Board
from ros2_tracker.operator.encoder import Picture
from ros2_tracker.operator.hub import Hub
from ros2_tracker.operator.link import TrackerLink
from ros2_tracker.operator.settings import OperatorSettings

_PAGE = Path(__file__).resolve().parent / "page"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_MAX_BODY_BYTES = 1024
_IDLE_S = 10.0
_SHUTDOWN_S = 1.0
_COOKIE_DAYS = 30

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class OperatorServer:
    """Serves the page from `start` to `stop`; `show` and `tell` may be called from any thread."""

    def __init__(self, settings: OperatorSettings, board: Board, link: TrackerLink) -> None:
        """Read the page's files."""
        self._settings = settings
        self._board = board
        self._link = link
        self._access = Access(settings)
        self._hub = Hub(settings, board, link)
        self._files = {path.name: path.read_bytes() for path in _PAGE.iterdir() if path.suffix in _TYPES}
        self._loop = asyncio.new_event_loop()
        self._stopping: asyncio.Event | None = None
        self._started = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="operator_page", daemon=True)
        self.port = settings.port
        """Where it listens, also when the settings leave the choice to the system."""

    def start(self) -> None:
        """Listen; OSError when the address cannot be had."""
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Close all connections; returns when that is done."""
        self._post(lambda: self._stopping.set() if self._stopping is not None else None)
        self._thread.join()

    def show(self, picture: Picture) -> None:
        """Send an image to the browsers."""
        self._post(lambda: self._hub.show(picture))

    def tell(self, event: Mapping[str, Any]) -> None:
        """Send an event to the browsers."""
        self._post(lambda: self._hub.tell(event))

    def _post(self, call: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(call)

    # -- the server's thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except Exception as error:  # `start` raises it
            self._failure = error
        finally:
            self._started.set()
            self._loop.close()

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        application = web.Application(middlewares=[self._guard], client_max_size=_MAX_BODY_BYTES)
        application.on_response_prepare.append(self._add_headers)
        application.router.add_get("/", self._page)
        application.router.add_get("/ready", self._is_ready)
        application.router.add_get("/socket", self._socket)
        application.router.add_post("/login", self._login)
        application.router.add_get("/{name}", self._file)
        # No log of requests: the first one has the token in its address.
        runner = web.AppRunner(application, access_log=None, keepalive_timeout=_IDLE_S, handle_signals=False)
        await runner.setup()
        listener = states = None
        try:
            listener = await self._listen(runner)
            self._started.set()
            states = asyncio.create_task(self._hub.send_states())
            await self._stopping.wait()
        finally:
            if states is not None:
                states.cancel()
            if listener is not None:
                listener.close()
            await self._hub.close(_SHUTDOWN_S)
            await runner.cleanup()

    async def _listen(self, runner: web.AppRunner) -> asyncio.Server:
        server = runner.server
        assert server is not None  # setup() has made it
        # A browser keeps up to six connections for its files, beside the WebSocket.
        most = 16 + 8 * self._settings.max_clients
        accepted = 0

        def is_listed() -> None:
            nonlocal accepted
            accepted -= 1

        def connection() -> asyncio.Protocol:
            nonlocal accepted
            if len(server.connections) + accepted >= most:
                return _Refusing(self._board)
            # Many may be accepted in one turn of the loop; the server lists them in the next.
            accepted += 1
            self._loop.call_soon(is_listed)
            return server()

        family = socket.AF_INET6 if ":" in self._settings.host else socket.AF_INET
        listener = await self._loop.create_server(connection, self._settings.host, self._settings.port, family=family)
        self.port = listener.sockets[0].getsockname()[1]
        return listener

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        if not self._access.host_allowed(request.headers.get("Host", "")):
            self._board.count("origins_refused")
            text = "This page is not served under that name. The parameter allowed_hosts can add it.\n"
            return web.Response(status=403, text=text)
        return await handler(request)

    # -- requests -----------------------------------------------------------------------------------------------

    async def _page(self, request: web.Request) -> web.Response:
        token = request.query.get("token")
        if token is not None:
            return self._welcome(token)
        if not self._admitted(request):
            return self._static("login.html", status=401)
        return self._static("index.html")

    async def _login(self, request: web.Request) -> web.Response:
        if not self._same_origin(request):
            return web.Response(status=403, text="The request comes from another page.\n")
        form = await request.post()
        token = form.get("token", "")
        return self._welcome(token if isinstance(token, str) else "")

    def _welcome(self, token: str) -> web.Response:
        if self._access.open:
            return self._static("welcome.html")
        if not self._access.token_matches(token.strip()):
            self._board.count("tokens_refused")
            self._link.notice("somebody came with a wrong token")
            return self._static("login.html", status=401)
        # A page that goes on by itself and no redirect: after one, a link from another site would count as that
        # site's request, and the browser would keep the strict cookie back.
        response = self._static("welcome.html")
        response.set_cookie(
            self._access.cookie_name,
            self._access.cookie_value,
            max_age=_COOKIE_DAYS * 86400,
            httponly=True,
            samesite="Strict",
            path="/",
        )
        return response

    async def _is_ready(self, request: web.Request) -> web.Response:
        """Why the WebSocket is refused: browsers do not tell a page."""
        return self._refusal(request) or web.Response(status=204)

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        if not self._same_origin(request):
            return web.Response(status=403, text="The request comes from another page.\n")
        refusal = self._refusal(request)
        if refusal is not None:
            if refusal.status == 503:
                self._board.count("clients_refused")
            return refusal
        return await self._hub.serve(request)

    def _refusal(self, request: web.Request) -> web.Response | None:
        if not self._admitted(request):
            self._board.count("tokens_refused")
            return web.Response(status=401, text="The token is missing or wrong.\n")
        if self._hub.full:
            text = f"{self._settings.max_clients} browsers are watching already, which is the limit (max_clients).\n"
            return web.Response(status=503, text=text)
        return None

    async def _file(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self._files or name.endswith(".html"):
            return web.Response(status=404, text="There is no such file.\n")
        return self._static(name)

    def _static(self, name: str, status: int = 200) -> web.Response:
        kind = _TYPES[Path(name).suffix]
        return web.Response(status=status, body=self._files[name], content_type=kind, charset="utf-8")

    def _admitted(self, request: web.Request) -> bool:
        cookie = request.cookies.get(self._access.cookie_name, "")
        return self._access.admitted(cookie, request.headers.get("Authorization", ""))

    def _same_origin(self, request: web.Request) -> bool:
        if self._access.origin_allowed(request.headers.get("Origin", ""), request.headers.get("Host", "")):
            return True
        self._board.count("origins_refused")
        return False

    async def _add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        host = request.headers.get("Host", "")
        # One that was refused gets into no header.
        for name, value in security_headers(host if self._access.host_allowed(host) else "localhost"):
            response.headers[name] = value


class _Refusing(asyncio.Protocol):
    """Ends a connection that is one too many."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._board.count("clients_refused")
        transport.close()
