import ctypes
import json
import subprocess
import sys

import pytest

from ros2_tracker.ros.memory import tune_malloc

# Page faults of ten 24 MB buffers (4K images) that are filled and freed in turn, before and after.
COUNT_FAULTS = """
import json, resource
from ros2_tracker.ros.memory import tune_malloc

def faults():
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        b"x" * (3840 * 2160 * 3)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start

before = faults()
said = tune_malloc()
faults()  # the heap grows once
print(json.dumps([before, said, faults()]))
"""


def has_glibc():
    try:
        return hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
    except (OSError, TypeError):
        return False


@pytest.mark.skipif(not has_glibc(), reason="the C library is not glibc")
def test_page_faults_go_away():
    # In a process of its own: the settings cannot be taken back.
    result = subprocess.run([sys.executable, "-c", COUNT_FAULTS], capture_output=True, text=True, check=True)
    before, said, after = json.loads(result.stdout)
    assert said == []
    assert after < max(before / 10, 10)


class FakeLibc:
    """A C library that refuses what `allowed` says no to."""

    def __init__(self, allowed):
        self.calls = []

        class Function:
            def __init__(self, call):
                self.call = call

            def __call__(self, *args):
                return self.call(*args)

        self.mallopt = Function(lambda number, value: self.calls.append((number, value)) or int(allowed(number, value)))
        self.gnu_get_libc_version = Function(lambda: b"2.31")


def test_older_glibc_gets_the_largest_threshold_it_takes(monkeypatch):
    libc = FakeLibc(lambda number, value: number != -3 or value <= 32 * 2**20)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: libc)
    assert tune_malloc() == []
    assert libc.calls == [(-3, 2**30), (-3, 2**25), (-1, 2**30), (-2, 2**27), (-8, 1)]


def test_refused_setting_is_named(monkeypatch):
    libc = FakeLibc(lambda number, value: number != -8)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: libc)
    (line,) = tune_malloc()
    assert "M_ARENA_MAX=1" in line
    assert "2.31" in line


@pytest.mark.parametrize("failure", [lambda name: object(), lambda name: ctypes.c_int(name)])
def test_other_c_libraries_are_left_alone(monkeypatch, failure):
    monkeypatch.setattr(ctypes, "CDLL", failure)
    assert tune_malloc() == ["malloc not tuned: the C library is not glibc"]
