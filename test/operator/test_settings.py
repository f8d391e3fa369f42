"""What the page may be told, and where its token comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from ros2_tracker.operator.settings import OperatorSettings, read_token

TOKEN = "0123456789abcdef-long"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.5", "::1", "localhost"])
def test_this_machine_alone_needs_no_token(host: str):
    assert OperatorSettings(host=host).only_this_machine


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.20"])
def test_listening_for_others_needs_a_token(host: str):
    with pytest.raises(ValueError, match=f"host is '{host}'.*needs a token"):
        OperatorSettings(host=host)
    assert not OperatorSettings(host=host, token=TOKEN).only_this_machine


@pytest.mark.parametrize("host", ["", "robot", "127.0.0.1:80", "localhost.evil.com", "*"])
def test_a_host_that_could_mean_anything_is_refused(host: str):
    with pytest.raises(ValueError, match="must be an IP address or localhost"):
        OperatorSettings(host=host)


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ({"port": 70000}, "port is 70000"),
        ({"max_rate": 0.0}, "max_rate is 0.0"),
        ({"max_rate": float("nan")}, "max_rate is nan"),
        ({"max_width": 10}, "max_width is 10"),
        ({"jpeg_quality": 101}, "jpeg_quality is 101"),
        ({"max_clients": 0}, "max_clients is 0"),
        ({"client_timeout": 0.5}, "client_timeout is 0.5"),
        ({"allowed_hosts": ("a b",)}, "allowed_hosts has 'a b'"),
        ({"allowed_hosts": ("robot:8080",)}, "allowed_hosts has 'robot:8080'"),
        ({"token": "short"}, "the token has 5 characters"),
    ],
)
def test_a_wrong_value_is_named(setting: dict, complaint: str):
    with pytest.raises(ValueError, match=complaint.replace("(", r"\(")):
        OperatorSettings(**setting)


def test_a_token_is_in_no_text():
    bad = "not;a;token;of;ours"
    with pytest.raises(ValueError, match="the token may hold") as refusal:
        OperatorSettings(token=bad)
    assert bad not in str(refusal.value)
    assert TOKEN not in repr(OperatorSettings(token=TOKEN))


def test_token_file(tmp_path: Path):
    file = tmp_path / "token"
    with pytest.raises(ValueError, match="No such file"):
        read_token(file)
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o640)
    with pytest.raises(ValueError, match="can be read by others: chmod 600"):
        read_token(file)
    file.chmod(0o600)
    assert read_token(file) == TOKEN
    file.write_text("\n")
    with pytest.raises(ValueError, match="is empty"):
        read_token(file)
