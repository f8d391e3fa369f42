"""Start and stop the node and the camera as processes of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO


def start(
    module: str, arguments: Sequence[str], environment: Mapping[str, str], output: IO[str] | None = None
) -> subprocess.Popen[str]:
    """Run `python -m module arguments...`; what it prints goes to `output`, or to ours.

    A shell's background jobs ignore SIGINT and hand that on to their children, so it is set back first.
    """
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env=dict(environment),
        stdout=output,
        stderr=subprocess.STDOUT if output is not None else None,
        text=True,
        preexec_fn=_restore_interrupt,
    )


def stop(process: subprocess.Popen[str], timeout_s: float = 5.0) -> int:
    """End a process as Ctrl-C does, by force after `timeout_s`; returns its exit status."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def _restore_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
