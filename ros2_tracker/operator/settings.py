"""What the operator's page can be told: where it listens, who may see it, how much it sends."""

from __future__ import annotations

import ipaddress
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

LOOPBACK = "127.0.0.1"
_MIN_TOKEN = 16
# What needs no quoting in an address, a header or a cookie.
_TOKEN = re.compile(r"[A-Za-z0-9._~-]+")
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
HOW_TO_MAKE_A_TOKEN = "(umask 077; openssl rand -hex 16 > operator.token)"


@dataclass(frozen=True, slots=True)
class OperatorSettings:
    """ValueError with the offending value when one of them is not valid."""

    host: str = LOOPBACK
    """Address to listen on: an IP address or localhost."""
    port: int = 8080
    """0: one that is free."""
    token: str = field(default="", repr=False)
    """Who knows it may see and steer; empty: everybody on this machine, and no one else can reach it."""
    allowed_hosts: tuple[str, ...] = ()
    """Further names that browsers may use for this machine, as behind a proxy or with a name of one's own."""
    max_rate: float = 10.0
    """Images shown per second at most."""
    max_width: int = 960
    """Width of the images sent at most, px. More: finer boxes, and more for the link and this machine to carry."""
    jpeg_quality: int = 75
    max_clients: int = 8
    """Browsers served at once."""
    client_timeout: float = 10.0
    """s after which a browser that takes nothing in is dropped."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("port", 0, 65535),
            ("max_rate", 0.1, 120.0),
            ("max_width", 64, 7680),
            ("jpeg_quality", 5, 100),
            ("max_clients", 1, 1000),
            ("client_timeout", 3.0, 3600.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is {value!r}, must be within [{low:g}, {high:g}]")
        for name in self.allowed_hosts:
            if not _HOST_NAME.fullmatch(name):
                raise ValueError(f"allowed_hosts has {name!r}, which is not a host name (without port)")
        if self.token:
            if not _TOKEN.fullmatch(self.token):
                # Its value must not end up in a log, not even a wrong one.
                raise ValueError("the token may hold letters, digits and - . _ ~ only")
            if len(self.token) < _MIN_TOKEN:
                raise ValueError(f"the token has {len(self.token)} characters, at least {_MIN_TOKEN} are needed")
        elif not self.only_this_machine:
            raise ValueError(
                f"host is {self.host!r}, which others can reach: that needs a token (token_file, or the environment's "
                f"ROS2_TRACKER_OPERATOR_TOKEN). One is made by {HOW_TO_MAKE_A_TOKEN}"
            )

    @property
    def only_this_machine(self) -> bool:
        """Whether nobody else can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            # An empty host or 0.0.0.0 would be everywhere, and a name can come to mean another address.
            raise ValueError(f"host is {self.host!r}, must be an IP address or localhost") from None


def read_token(path: Path) -> str:
    """The token in a file's only line.

    Raises:
        ValueError: the file cannot be read, or others than its owner can read it.

    """
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise ValueError(f"token_file {path}: {reason}. One is made by {HOW_TO_MAKE_A_TOKEN}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ValueError(f"token_file {path} can be read by others: chmod 600 {path}")
    if not text:
        raise ValueError(f"token_file {path} is empty. One is made by {HOW_TO_MAKE_A_TOKEN}")
    return text
