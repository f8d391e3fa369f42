"""Fixtures for tests of the operator's page without ROS."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ros2_tracker.operator.settings import OperatorSettings

# pytest's importlib mode does not put this folder on the path, and the helper beside this file is no test.
sys.path.insert(0, str(Path(__file__).resolve().parent))

if TYPE_CHECKING:
    from served import Served


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """`serve(**settings)` -> a server on a free port, which runs until the test ends."""
    # Here and not above: this file is also read for tests that need no aiohttp.
    from served import Served

    servers: list[Served] = []

    def start(**settings: Any) -> Served:
        servers.append(Served(OperatorSettings(port=0, **settings)))
        return servers[-1]

    yield start
    for one in servers:
        one.server.stop()
