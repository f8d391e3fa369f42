"""Any number of targets on engines that take one, or a fixed number, in a run.

Which way is taken where, and why, is in docs/models.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from ros2_tracker.engines.base import Engine, NamedArrays

SEVERAL = 4
"""Targets in a run of an engine that is built for several: as many as a node follows by default."""

OtherEngine = Callable[[], Engine | None]
"""Makes the engine that several targets need; None when it cannot be had: then they run one after another."""


def run_all(engine: Engine, targets: Sequence[NamedArrays]) -> list[NamedArrays]:
    """Answers for any number of targets, in as few runs as the engine's batch allows."""
    answers: list[NamedArrays] = []
    size = engine.batch or max(len(targets), 1)
    for start in range(0, len(targets), size):
        group = list(targets[start : start + size])
        # A fixed batch is filled up; what the network makes of the filling is not read.
        answers += engine.run(group + group[-1:] * (size - len(group)))[: len(group)]
    return answers


def count_runs(engine: Engine, targets: int) -> int:
    """How often the network runs to answer for so many targets."""
    if isinstance(engine, OneOrSeveral | SideBySide):
        return engine.count_runs(targets)
    return -(-targets // engine.batch) if engine.batch else min(targets, 1)


class OneOrSeveral:
    """An engine for one target, as fast as there is, and another of the same graph for several in one run."""

    batch: int | None = None

    def __init__(self, one: Engine, several: OtherEngine) -> None:
        """`one` has a batch of 1; `several` is called once, when there is more than one target for the first time."""
        self._one = one
        self._several = _Later(several)
        self.inputs, self.outputs = _any_batch(one.inputs), _any_batch(one.outputs)
        self.description = one.description

    def run(self, targets: Sequence[NamedArrays]) -> list[NamedArrays]:
        """Answers for any number of targets; see `Engine.run`."""
        engine, count = self._split(len(targets))
        return run_all(engine, targets[:count]) + run_all(self._one, targets[count:])

    def count_runs(self, targets: int) -> int:
        """As the function of this name."""
        engine, count = self._split(targets)
        return count_runs(engine, count) + targets - count

    def _split(self, targets: int) -> tuple[Engine, int]:
        """Who answers for the first of them, and for how many; the engine for one answers for the rest."""
        several = self._several.get() if targets > 1 else None
        if several is None:
            return self._one, targets
        # One that is left over is better alone than in a run that is filled up with it.
        alone = several.batch is not None and targets % several.batch == 1
        return several, targets - alone


class SideBySide:
    """An engine on a CPU for graphs that take one target: as many run at once as there are threads, on one each.

    Threads of one run wait for each other at every operation, those of several runs do not.
    """

    batch: int | None = None

    def __init__(self, one: Engine, one_thread: OtherEngine, threads: int) -> None:
        """Two engines of the same graph with a batch of 1, and safe to be run by several threads at once.

        Args:
            one: on all threads, for a target that is alone.
            one_thread: makes the one on a single thread; called once, when it is first needed.
            threads: as many as `one` has.

        """
        self._one, self._threads = one, threads
        self._one_thread = _Later(one_thread)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="target")
        self.inputs, self.outputs = _any_batch(one.inputs), _any_batch(one.outputs)
        self.description = one.description

    def run(self, targets: Sequence[NamedArrays]) -> list[NamedArrays]:
        """Answers for any number of targets; see `Engine.run`."""
        # A thread that had one more to do than the others would be waited for: the rest has all threads, in turn.
        count = len(targets) - len(targets) % self._threads
        engine = self._one_thread.get() if count else None
        answers = [each for (each,) in self._pool.map(lambda t: engine.run([t]), targets[:count])] if engine else []
        return answers + run_all(self._one, targets[len(answers) :])

    def count_runs(self, targets: int) -> int:
        """As the function of this name."""
        return targets


class _Later:
    """An engine that is made when it is first needed."""

    def __init__(self, make: OtherEngine) -> None:
        self._make: OtherEngine | None = make
        self._made: Engine | None = None

    def get(self) -> Engine | None:
        make, self._make = self._make, None
        if make is not None:
            self._made = make()
        return self._made


def _any_batch(shapes: Mapping[str, tuple[int | None, ...]]) -> dict[str, tuple[int | None, ...]]:
    return {name: (None, *shape[1:]) for name, shape in shapes.items()}
