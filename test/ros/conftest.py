"""Fixtures for tests that talk to the real node over DDS."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

# pytest's importlib mode does not put this folder on the path, and the helpers beside this file are no tests.
sys.path.insert(0, str(Path(__file__).resolve().parent))
# Read when the first DDS participant of a process is made; the node's process inherits them.
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["FASTDDS_DEFAULT_PROFILES_FILE"] = str(Path(__file__).resolve().parents[2] / "config/fastdds_profile.xml")

if TYPE_CHECKING:
    from node_process import Client

StartNode = Callable[..., "Client"]


@contextmanager
def _starter(folder: Path) -> Iterator[StartNode]:
    """Start nodes, each in a domain of its own, and end all of them at the end."""
    # Here and not above: this file is also read for tests that need no ROS, and the tests here skip without it.
    from node_process import Client, NodeProcess, free_domain

    with ExitStack() as stack:

        def start(parameters: dict[str, Any] | None = None, *, active: bool = True, **client: Any) -> Client:
            domain = stack.enter_context(free_domain())
            process = NodeProcess(domain, folder / f"node_{domain}.log", parameters)
            process.start()
            stack.callback(process.stop)
            node = Client(domain, process, **client)
            stack.callback(node.close)
            node.wait_connected(active)
            return node

        yield start


@pytest.fixture(scope="module")
def start_module_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartNode]:
    """As `start_node`, for nodes that all tests of a module share."""
    with _starter(tmp_path_factory.mktemp("node")) as start:
        yield start


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[StartNode]:
    """`start_node(parameters, active=True, compressed=False)` -> client of a new node, which runs until the test ends.

    With `active=False` it is not waited for beyond its first answer.
    """
    with _starter(tmp_path) as start:
        yield start
