"""Long work during a lifecycle transition, while the node goes on answering."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

_Result = TypeVar("_Result")
_POLL_S = 0.05


def run_serving(node: Node, work: Callable[[threading.Event], _Result]) -> _Result:
    """Run `work` on a thread of its own and serve the node's other callbacks here until it is done.

    To be called from a callback of the node, or before it has an executor. Callbacks of the calling callback's group
    wait, all others are served. `work` is handed an event that is set when it should end early because ROS shuts down.

    Raises:
        ExternalShutdownException: ROS was shut down meanwhile.
        Exception: whatever `work` raised.

    """
    cancelled = threading.Event()
    with ThreadPoolExecutor(1, thread_name_prefix="loading") as pool:
        future: Future[_Result] = pool.submit(work, cancelled)
        try:
            with _served(node) as executor:
                while not future.done():
                    if not node.context.ok():
                        raise ExternalShutdownException
                    executor.spin_once(_POLL_S)
        except BaseException:
            # Before the pool waits for the thread: Ctrl-C must not last as long as a build.
            cancelled.set()
            raise
        return future.result()


@contextmanager
def _served(node: Node) -> Iterator[SingleThreadedExecutor]:
    """An executor for the node while its own is busy with the callback that we are in."""
    outer = node.executor
    inner = SingleThreadedExecutor(context=node.context)
    if outer is not None:
        outer.remove_node(node)
    inner.add_node(node)
    try:
        yield inner
    finally:
        inner.remove_node(node)
        inner.shutdown()
        if outer is not None:
            outer.add_node(node)
