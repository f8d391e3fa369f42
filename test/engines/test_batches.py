"""Any number of targets on engines that take one, or a fixed number."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from ros2_tracker.engines.batches import OneOrSeveral, SideBySide, count_runs, run_all


class Doubling:
    """An engine that doubles a number, and writes down how many targets each of its runs had, and on which thread."""

    def __init__(self, batch):
        self.batch, self.description = batch, f"doubles {batch}"
        self.inputs = self.outputs = {"number": (batch,)}
        self.runs, self.threads = [], set()

    def run(self, targets):
        assert self.batch in (None, len(targets))
        self.runs.append(len(targets))
        self.threads.add(threading.get_ident())
        return [{"number": 2 * target["number"]} for target in targets]


def ask(engine, count):
    """Numbers from 0; the answers must be in their order."""
    answers = run_all(engine, [{"number": np.array(i)} for i in range(count)])
    assert [int(answer["number"]) for answer in answers] == [2 * i for i in range(count)]


@pytest.mark.parametrize(
    ("batch", "count", "runs"),
    [(None, 5, [5]), (1, 3, [1, 1, 1]), (4, 1, [4]), (4, 4, [4]), (4, 6, [4, 4]), (None, 0, []), (4, 0, [])],
)
def test_runs_of_an_engine(batch, count, runs):
    engine = Doubling(batch)
    ask(engine, count)
    assert engine.runs == runs
    assert count_runs(engine, count) == len(runs)


@pytest.mark.parametrize(
    ("batch", "count", "for_one", "for_several"),
    [
        (None, 1, [1], []),
        (None, 7, [], [7]),
        (4, 1, [1], []),
        (4, 2, [], [4]),
        (4, 5, [1], [4]),  # rather than four places for one
        (4, 6, [], [4, 4]),
        (4, 9, [1], [4, 4]),
    ],
)
def test_one_or_several(batch, count, for_one, for_several):
    one, several = Doubling(1), Doubling(batch)
    engine = OneOrSeveral(one, lambda: several)
    assert (engine.batch, engine.inputs) == (None, {"number": (None,)})
    ask(engine, count)
    assert (one.runs, several.runs) == (for_one, for_several)
    assert count_runs(engine, count) == len(for_one + for_several)


def test_engine_for_several_is_made_once_and_only_when_it_is_needed():
    made = []
    engine = OneOrSeveral(Doubling(1), lambda: made.append(Doubling(4)) or made[-1])
    ask(engine, 1)
    assert made == []
    ask(engine, 2)
    ask(engine, 3)
    assert len(made) == 1


@pytest.mark.parametrize("kind", [OneOrSeveral, SideBySide])
def test_without_the_other_engine_targets_run_one_after_another(kind):
    one = Doubling(1)
    engine = kind(one, lambda: None, *([2] if kind is SideBySide else []))
    ask(engine, 3)
    assert one.runs == [1, 1, 1]
    assert count_runs(engine, 3) == 3


@pytest.mark.parametrize(("count", "alone", "at_once"), [(1, 1, 0), (2, 2, 0), (3, 0, 3), (4, 1, 3), (8, 2, 6)])
def test_as_many_at_once_as_there_are_threads(count, alone, at_once):
    one, one_thread = Doubling(1), Doubling(1)
    engine = SideBySide(one, lambda: one_thread, 3)
    ask(engine, count)
    assert (len(one.runs), len(one_thread.runs)) == (alone, at_once)
    assert threading.get_ident() not in one_thread.threads
    assert count_runs(engine, count) == count


def test_targets_run_at_the_same_time():
    class Meeting(Doubling):
        """Goes on when all are there."""

        def __init__(self):
            super().__init__(1)
            self.barrier = threading.Barrier(3, timeout=30.0)

        def run(self, targets):
            self.barrier.wait()
            return super().run(targets)

    ask(SideBySide(Doubling(1), Meeting, 3), 6)


def test_failure_of_one_target_is_told():
    class Failing(Doubling):
        def run(self, targets):
            raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        ask(SideBySide(Doubling(1), lambda: Failing(1), 2), 2)
