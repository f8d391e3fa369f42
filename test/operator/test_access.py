"""Names and pages that the server talks to, and its token."""

from __future__ import annotations

import socket

import pytest

from ros2_tracker.operator.access import Access, security_headers
from ros2_tracker.operator.settings import OperatorSettings

TOKEN = "0123456789abcdef-long"


@pytest.fixture
def access() -> Access:
    return Access(OperatorSettings(allowed_hosts=("Robot.example",), token=TOKEN))


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8080",
        "LOCALHOST:9000",
        "127.0.0.1:8080",
        "192.168.1.20",
        "[::1]:8080",
        "robot.example:8080",
        f"{socket.gethostname()}:8080",
        f"{socket.gethostname()}.local",
    ],
)
def test_names_of_this_machine(access: Access, host: str):
    assert access.host_allowed(host)
    assert access.origin_allowed(f"http://{host}", host)
    assert access.origin_allowed(f"https://{host}", host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.com",
        "evil.com:8080",
        "localhost.evil.com",
        "127.0.0.1.evil.com",
        "robot.example.evil.com",
        "localhost@evil.com",
        "user@localhost",
        "localhost/evil",
        "localhost?x",
        "localhost#x",
        "localhost:port",
        "localhost:99999",
        "localhost, evil.com",
        "localhost;script-src",
        "local host",
        "[::1",
        "lócalhost",
    ],
)
def test_other_names_are_refused(access: Access, host: str):
    assert not access.host_allowed(host)
    assert not access.origin_allowed(f"http://{host}", host)


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "http://evil.com",
        "http://localhost",
        "http://localhost:8081",
        "http://127.0.0.1:8080",
        "ftp://localhost:8080",
        "file://localhost:8080",
        "http://localhost:8080/",
        "http://localhost:8080/page",
        "localhost:8080",
        "http://localhost:8080@evil.com",
    ],
)
def test_only_the_own_page_is_the_same_origin(access: Access, origin: str):
    assert not access.origin_allowed(origin, "localhost:8080")
    assert access.origin_allowed("http://localhost:8080", "localhost:8080")


def test_token(access: Access):
    assert access.token_matches(TOKEN)
    for wrong in ("", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "ü", "\ud800"):
        assert not access.token_matches(wrong)
        assert not access.admitted(wrong, f"Bearer {wrong}")
    assert access.admitted("", f"Bearer {TOKEN}")
    assert access.admitted(access.cookie_value, "")
    # What a browser keeps, and shows to every port of the host, is not the token.
    assert not access.admitted(TOKEN, "")
    assert TOKEN not in access.cookie_value
    assert not access.admitted("", f"Basic {TOKEN}")


def test_without_a_token_everybody_on_this_machine_is_admitted_and_no_token_fits():
    access = Access(OperatorSettings())
    assert access.open
    assert access.admitted("", "")
    assert not access.token_matches("")


def test_the_policy_allows_nothing_from_outside():
    headers = dict(security_headers("robot:8080"))
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "*" not in policy
    sources = {word for part in policy.split(";") for word in part.split()[1:]}
    assert sources == {"'none'", "'self'", "ws://robot:8080", "wss://robot:8080"}
