"""Who may use the page: names it is served under, pages that may talk to it, and the token.

A page of another site can make a browser on this machine send requests here. It cannot choose their `Origin`, and a
name of its own that it lets point here (DNS rebinding) stays in `Host`: so both are checked, token or not.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import SplitResult, urlsplit

from ros2_tracker.operator.settings import OperatorSettings

_SCHEMES = ("http", "https")


class Access:
    """The checks for one server."""

    def __init__(self, settings: OperatorSettings) -> None:
        """For the names of this machine, and those in the settings."""
        own = socket.gethostname().lower()
        self._names = {"localhost", own, f"{own}.local", *(name.lower() for name in settings.allowed_hosts)}
        self._token = settings.token.encode()
        # Cookies go to every port of a host: what is kept there is not the token itself, and has the port in its name.
        self.cookie_name = f"ros2_tracker_operator_{settings.port}"
        self.cookie_value = hmac.new(self._token, b"ros2_tracker operator", hashlib.sha256).hexdigest()

    @property
    def open(self) -> bool:
        """Whether there is no token."""
        return not self._token

    def host_allowed(self, host: str) -> bool:
        """Whether a `Host` header names this machine: by an address, its own name, or one that was allowed."""
        name = _host_name(host)
        return name is not None and (_is_address(name) or name in self._names)

    def origin_allowed(self, origin: str, host: str) -> bool:
        """Whether an `Origin` header is the page that this server sent, reached under `host`."""
        parts = _split(origin)
        if parts is None or parts.scheme not in _SCHEMES or parts.path or parts.query or parts.fragment:
            return False
        return bool(parts.netloc) and parts.netloc.lower() == host.lower() and self.host_allowed(host)

    def token_matches(self, token: str) -> bool:
        """Whether it is the token; takes the same time for each wrong one."""
        return bool(self._token) and hmac.compare_digest(self._token, token.encode(errors="replace"))

    def admitted(self, cookie: str, authorization: str) -> bool:
        """Whether the browser's cookie or the header `Authorization: Bearer TOKEN` lets in."""
        if self.open:
            return True
        if hmac.compare_digest(self.cookie_value.encode(), cookie.encode(errors="replace")):
            return True
        scheme, _, token = authorization.partition(" ")
        return scheme.lower() == "bearer" and self.token_matches(token.strip())


def security_headers(host: str) -> Iterable[tuple[str, str]]:
    """Headers of every answer; `host` is a `Host` header that was allowed."""
    # 'self' did not cover WebSockets in Safari before 15.4.
    sockets = f"ws://{host} wss://{host}"
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        f"connect-src 'self' {sockets}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return (
        ("Content-Security-Policy", policy),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
        # Not no-referrer, under which browsers send `Origin: null` with the form that asks for the token.
        ("Referrer-Policy", "same-origin"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Cache-Control", "no-store"),
    )


def _host_name(host: str) -> str | None:
    """The name in `name`, `name:port` or `[address]:port`, in lower case; None for anything else."""
    parts = _split(f"//{host}")
    if parts is None or parts.netloc != host or parts.username is not None or parts.hostname is None:
        return None
    return parts.hostname.lower()


def _split(url: str) -> SplitResult | None:
    """Parts of an address; None when it, or its port, makes no sense or holds what no browser sends."""
    if not url.isascii() or any(c.isspace() or c in "\\;,'\"" for c in url):
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
