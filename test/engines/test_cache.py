"""The cache of built engines, on real files, with real processes, and as another user where the tests run as root."""

from __future__ import annotations

import json
import logging
import os
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ros2_tracker.engines import cache as cache_module
from ros2_tracker.engines.base import EngineError
from ros2_tracker.engines.cache import EngineCache, EngineKey, PlanRefusedError, StoredPlan, default_folder

ROOT = Path(__file__).resolve().parents[2]
SOMEBODY = 65534
KEY = EngineKey(
    name="ostrack-b256",
    graph_sha256="ab" * 32,
    flavour="tensorrt",
    version="10.3.0.30",
    gpu="Orin",
    compute_capability="8.7",
    precision="fp16",
    batch=1,
    settings="workspace 1024 MiB",
)
PLAN = bytes(range(256)) * 4
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to somebody else")


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


@pytest.fixture
def stored(cache: EngineCache) -> Path:
    """The file of a stored engine."""
    assert cache.store(KEY, PLAN, driver="Orin, 540.3", self_test="box 0.1 px")
    return cache.folder / KEY.file_name


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def never(progress):
    raise AssertionError("nothing is to be built")


# Keys


def test_every_field_of_the_key_makes_another_file():
    others = {field.name: replace(KEY, **{field.name: changed(getattr(KEY, field.name))}) for field in fields(KEY)}
    assert len({KEY.file_name, *(key.file_name for key in others.values())}) == len(others) + 1


def changed(value):
    return value + 1 if isinstance(value, int) else value + "0"


def test_file_name_is_readable_and_stable():
    assert KEY.file_name.startswith("ostrack-b256-fp16-b1-")
    assert KEY.file_name == replace(KEY).file_name
    assert len(KEY.file_name) == len("ostrack-b256-fp16-b1-") + 16 + len(".engine")


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "new\nline", "x" * 300])
def test_name_that_would_leave_the_folder_is_refused(name: str):
    with pytest.raises(ValueError, match="no file name"):
        replace(KEY, name=name)


def test_default_folder(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_folder() == Path("/somewhere/ros2_tracker/engines")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the XDG specification says to ignore it
    monkeypatch.setenv("HOME", "/home/robot")
    assert default_folder() == Path("/home/robot/.cache/ros2_tracker/engines")
    assert EngineCache().folder == default_folder()


# Round trip


def test_round_trip(cache: EngineCache, stored: Path):
    found = cache.load(KEY)
    assert found.plan == PLAN
    assert found.header.driver == "Orin, 540.3"
    assert found.header.self_test == "box 0.1 px"
    assert found.header.key == {"kind": "EngineKey", **asdict(KEY)}
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700


def test_folders_on_the_way_are_made_for_this_user_alone(tmp_path: Path):
    old = os.umask(0)
    try:
        assert EngineCache(tmp_path / "a" / "b").store(KEY, PLAN)
    finally:
        os.umask(old)
    assert [stat.S_IMODE((tmp_path / p).stat().st_mode) for p in ("a", "a/b")] == [0o700, 0o700]


texts = st.text(max_size=40)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=st.binary(max_size=4096), gpu=texts, version=texts, settings_=texts, driver=texts, said=texts)
def test_anything_comes_back_as_it_was(cache: EngineCache, plan, gpu, version, settings_, driver, said):
    key = replace(KEY, gpu=gpu, version=version, settings=settings_)
    assert cache.store(key, plan, driver, said)
    found = cache.load(key)
    assert (found.plan, found.header.driver, found.header.self_test) == (plan, driver, said)


def test_nothing_is_stored(cache: EngineCache):
    assert cache.load(KEY) is None
    assert cache.entries() == []
    assert not cache.folder.exists()


def test_storing_again_replaces(cache: EngineCache, stored: Path):
    cache.store(KEY, b"newer")
    assert cache.load(KEY).plan == b"newer"
    assert os.listdir(cache.folder) == [stored.name]


# Damage


def expect_set_aside(cache: EngineCache, caplog: pytest.LogCaptureFixture, reason: str):
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert cache.load(KEY) is None
    assert reason in caplog.text
    assert KEY.file_name in caplog.text
    assert not (cache.folder / KEY.file_name).exists()
    assert cache.load(KEY) is None


def damaged_cache(parent: Path, data: bytes) -> EngineCache:
    cache = EngineCache(parent / "engines")
    cache.store(KEY, b"")
    (cache.folder / KEY.file_name).write_bytes(data)
    return cache


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.floats(0, 1, exclude_max=True))
def test_truncated_anywhere(tmp_path: Path, cache: EngineCache, stored: Path, caplog, cut: float):
    cache.store(KEY, PLAN)
    data = stored.read_bytes()
    expect_set_aside(damaged_cache(tmp_path, data[: int(cut * len(data))]), caplog, "is set aside")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit(tmp_path: Path, cache: EngineCache, stored: Path, caplog, where: float, bit: int):
    cache.store(KEY, PLAN)
    data = bytearray(stored.read_bytes())
    data[int(where * len(data))] ^= 1 << bit
    expect_set_aside(damaged_cache(tmp_path, bytes(data)), caplog, "is set aside")


def test_one_flipped_bit_in_every_region(tmp_path: Path, stored: Path, caplog):
    data = stored.read_bytes()
    head, end = cache_module._HEAD.size, len(data) - 32
    plan_at = end - len(PLAN)
    regions = {
        0: "not an engine of ros2_tracker",  # magic
        8: "its format is 0",
        12: "bytes, not",  # length of the header
        16: "bytes, not",  # length of the plan
        head + 10: "SHA-256",  # header
        plan_at: "SHA-256",
        end - 1: "SHA-256",
        end: "SHA-256",  # of the digest itself
    }
    for at, reason in regions.items():
        flipped = bytearray(data)
        flipped[at] ^= 1
        expect_set_aside(damaged_cache(tmp_path, bytes(flipped)), caplog, reason)


def test_something_appended(tmp_path: Path, stored: Path, caplog):
    expect_set_aside(damaged_cache(tmp_path, stored.read_bytes() + b"x"), caplog, "bytes, not")


def test_engine_of_a_later_format(cache: EngineCache, monkeypatch: pytest.MonkeyPatch, caplog):
    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "_FORMAT", 2)
        cache.store(KEY, PLAN)
    expect_set_aside(cache, caplog, "its format is 2, this ros2_tracker reads 1")


@pytest.mark.parametrize("header", [b"{", b"[]", b"{}", b"[" * 60_000, b"\xff"])
def test_header_that_is_no_header(cache: EngineCache, stored: Path, caplog, header: bytes):
    head = cache_module._HEAD.pack(b"R2TPLAN\n", 1, len(header), 3)
    parts = (head, header, b"abc")
    stored.write_bytes(b"".join(parts) + cache_module._sha256(*parts))
    expect_set_aside(cache, caplog, "its header cannot be read")


def test_engine_of_another_gpu_renamed(cache: EngineCache, caplog):
    other = replace(KEY, gpu="NVIDIA GeForce RTX 4090", compute_capability="8.9")
    cache.store(other, PLAN)
    (cache.folder / other.file_name).rename(cache.folder / KEY.file_name)
    assert "it was stored as" in cache.entries()[0].problem
    expect_set_aside(cache, caplog, "RTX 4090")


def test_only_a_few_broken_files_are_kept(cache: EngineCache):
    for i in range(7):
        cache.store(KEY, PLAN)
        (cache.folder / KEY.file_name).write_bytes(b"%d" % i)
        assert cache.load(KEY) is None
    broken = sorted(cache.folder.glob("*.broken-*"))
    assert [path.read_bytes() for path in broken] == [b"4", b"5", b"6"]


def test_entries_for_doctor(cache: EngineCache, stored: Path):
    bad = replace(KEY, batch=2)
    cache.store(bad, PLAN)
    (cache.folder / bad.file_name).write_bytes(b"short")
    entries = {entry.path.name: entry for entry in cache.entries()}
    assert entries[KEY.file_name].header.self_test == "box 0.1 px"
    assert entries[KEY.file_name].size == stored.stat().st_size
    assert entries[bad.file_name].header is None
    assert entries[bad.file_name].problem == "it ends after 5 bytes"
    assert (cache.folder / bad.file_name).exists()


# Who could have written it


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o707, 0o722, 0o1777])
def test_folder_that_others_can_write_to(cache: EngineCache, stored: Path, mode: int):
    cache.folder.chmod(mode)
    for use in (lambda: cache.load(KEY), lambda: cache.store(KEY, PLAN), lambda: cache.get_or_build(KEY, never)):
        with pytest.raises(EngineError, match=rf"{cache.folder} is refused.*mode {mode:04o}.*chmod go-w") as error:
            use()
    assert "owner" in str(error.value)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_file_that_others_can_write_to(cache: EngineCache, stored: Path, mode: int):
    stored.chmod(mode)
    with pytest.raises(EngineError, match=rf"{KEY.file_name} is refused.*mode {mode:04o}"):
        cache.load(KEY)


def test_readable_by_others_is_fine(cache: EngineCache, stored: Path):
    stored.chmod(0o644)
    cache.folder.chmod(0o755)
    assert cache.load(KEY).plan == PLAN


@as_root
def test_folder_and_file_of_somebody_else(cache: EngineCache, stored: Path):
    os.chown(stored, SOMEBODY, -1)
    with pytest.raises(EngineError, match=rf"{KEY.file_name} is refused.*owner "):
        cache.load(KEY)
    os.chown(stored, 0, -1)
    os.chown(cache.folder, SOMEBODY, -1)
    with pytest.raises(EngineError, match=rf"{cache.folder} is refused.*engine_cache_dir"):
        cache.load(KEY)


def test_parent_that_others_can_write_to(tmp_path: Path):
    cache = EngineCache(tmp_path / "shared" / "mine" / "engines")
    cache.store(KEY, PLAN)
    (tmp_path / "shared").chmod(0o777)
    with pytest.raises(EngineError, match=rf"{tmp_path}/shared is refused.*{cache.folder} lies behind it.*chmod go-w"):
        cache.load(KEY)
    (tmp_path / "shared").chmod(0o1777)  # sticky, as /tmp
    assert cache.load(KEY).plan == PLAN


def test_nothing_is_made_below_an_unsafe_parent(tmp_path: Path):
    tmp_path.chmod(0o777)
    with pytest.raises(EngineError, match="is refused"):
        EngineCache(tmp_path / "engines").store(KEY, PLAN)
    assert list(tmp_path.iterdir()) == []


@as_root
def test_group_writable_parent_only_with_a_group_of_ones_own(tmp_path: Path):
    cache = EngineCache(tmp_path / "home" / "engines")
    cache.store(KEY, PLAN)
    home = tmp_path / "home"
    home.chmod(0o775)
    assert cache.load(KEY).plan == PLAN
    os.chown(home, -1, SOMEBODY)
    with pytest.raises(EngineError, match=rf"{home} is refused"):
        cache.load(KEY)


@as_root
def test_parent_of_somebody_else(tmp_path: Path):
    cache = EngineCache(tmp_path / "theirs" / "engines")
    cache.store(KEY, PLAN)
    os.chown(tmp_path / "theirs", SOMEBODY, -1)
    with pytest.raises(EngineError, match=rf"{tmp_path}/theirs is refused"):
        cache.load(KEY)


def test_link_to_a_folder_is_followed_and_checked(tmp_path: Path, cache: EngineCache, stored: Path):
    (tmp_path / "disk").symlink_to(".", target_is_directory=True)
    (tmp_path / "link").symlink_to("engines/../disk/engines", target_is_directory=True)
    through = EngineCache(tmp_path / "link")
    assert through.load(KEY).plan == PLAN
    cache.folder.chmod(0o777)
    with pytest.raises(EngineError, match="is refused"):
        through.load(KEY)
    cache.folder.chmod(0o700)
    open_folder = tmp_path / "open"
    open_folder.mkdir()
    (tmp_path / "disk").unlink()
    (tmp_path / "disk").symlink_to(open_folder / "..", target_is_directory=True)
    open_folder.chmod(0o777)
    with pytest.raises(EngineError, match=rf"{open_folder} is refused"):
        through.load(KEY)


@as_root
def test_link_of_somebody_else(tmp_path: Path, cache: EngineCache, stored: Path):
    link = tmp_path / "link"
    link.symlink_to(cache.folder, target_is_directory=True)
    os.lchown(link, SOMEBODY, -1)
    with pytest.raises(EngineError, match=rf"{link} is refused"):
        EngineCache(link).load(KEY)


def test_links_in_a_circle_are_no_folder(tmp_path: Path, caplog):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with caplog.at_level(logging.WARNING):
        assert EngineCache(tmp_path / "a").load(KEY) is None
    assert "symbolic links" in caplog.text


def test_link_or_pipe_instead_of_the_file(cache: EngineCache, stored: Path, tmp_path: Path):
    stored.rename(tmp_path / "elsewhere")
    stored.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EngineError, match="symbolic link"):
        cache.load(KEY)
    stored.unlink()
    os.mkfifo(stored)
    with pytest.raises(EngineError, match="it is no file"):
        cache.load(KEY)


# Building


def test_built_once_then_loaded(cache: EngineCache):
    seen = []
    built = cache.get_or_build(KEY, lambda progress: progress("tactics", 0.5) or PLAN, lambda *told: seen.append(told))
    assert built.plan == PLAN
    assert seen == [("tactics", 0.5)]
    assert cache.get_or_build(KEY, never) == cache.load(KEY)


def test_self_test_is_recorded_and_repeated_on_a_new_driver(cache: EngineCache):
    asked = []

    def verify(plan, tested):
        asked.append(tested)
        return f"test {len(asked)}"

    def get(driver):
        return cache.get_or_build(KEY, lambda progress: PLAN, verify=verify, driver=driver).header

    assert get("1").self_test == "test 1"
    assert get("1").self_test == "test 1"
    assert get("2").self_test == "test 3"
    assert get("2").driver == "2"
    assert cache.load(KEY).header.self_test == "test 3"
    assert asked == [False, True, False, True]


def test_engine_built_ahead_is_tested_where_it_runs(cache: EngineCache):
    assert cache.get_or_build(KEY, lambda progress: PLAN).header.self_test == ""
    header = cache.get_or_build(KEY, never, verify=lambda plan, tested: f"tested before: {tested}", driver="x").header
    assert header.self_test == "tested before: False"


def test_stored_engine_that_does_not_work_is_built_anew(cache: EngineCache, stored: Path, caplog):
    def verify(plan, tested):
        if plan == PLAN:
            raise PlanRefusedError("boxes are 7 px off")
        return "good"

    assert cache.get_or_build(KEY, lambda progress: b"anew", verify=verify, driver="d").plan == b"anew"
    assert "boxes are 7 px off" in caplog.text
    assert cache.load(KEY).plan == b"anew"
    assert len(list(cache.folder.glob("*.broken-1"))) == 1


def test_new_engine_that_does_not_work_is_not_stored(cache: EngineCache):
    def verify(plan, tested):
        raise PlanRefusedError("NaN")

    with pytest.raises(PlanRefusedError, match="NaN"):
        cache.get_or_build(KEY, lambda progress: PLAN, verify=verify)
    assert cache.load(KEY) is None


def test_other_errors_of_the_self_test_leave_the_engine_alone(cache: EngineCache, stored: Path):
    def verify(plan, tested):
        raise EngineError("out of GPU memory")

    with pytest.raises(EngineError, match="out of GPU memory"):
        cache.get_or_build(KEY, never, verify=verify)
    assert stored.exists()


def test_timing_cache_belongs_to_a_gpu_not_to_a_network(cache: EngineCache):
    cache.timing_cache(KEY).store(b"measured")
    assert cache.timing_cache(replace(KEY, name="stark-s50", batch=4, precision="fp32")).load() == b"measured"
    for other in (replace(KEY, gpu="Thor"), replace(KEY, version="10.7"), replace(KEY, compute_capability="8.9")):
        assert cache.timing_cache(other).load() == b""
    assert cache.entries() == []


# Other processes

PROGRAM = """
import sys, time
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, {root!r})
from ros2_tracker.engines.cache import EngineCache, EngineKey
KEY = EngineKey(**{key!r})
cache = EngineCache({folder!r})
"""


def program(cache: EngineCache, body: str) -> list[str]:
    start = PROGRAM.format(root=str(ROOT), key=asdict(KEY), folder=str(cache.folder))
    return [sys.executable, "-c", start + textwrap.dedent(body)]


def test_of_several_processes_one_builds(cache: EngineCache, tmp_path: Path):
    body = f"""
    told = []
    def build(progress):
        with open({str(tmp_path / "built")!r}, "a") as file:
            file.write("x")
        time.sleep(1)
        return b"the one"
    plan = cache.get_or_build(KEY, build, lambda phase, fraction: told.append(phase)).plan
    assert plan == b"the one"
    print(len(told))
    """
    children = [subprocess.Popen(program(cache, body), stdout=subprocess.PIPE) for _ in range(3)]
    told = sorted(int(child.communicate(timeout=60)[0]) for child in children)
    assert [child.returncode for child in children] == [0, 0, 0]
    assert (tmp_path / "built").read_text() == "x"
    assert told[0] == 0


@pytest.fixture
def builder(cache: EngineCache) -> Iterator[subprocess.Popen]:
    """A process that holds the lock and builds for ever."""
    body = """
    def build(progress):
        print("building", flush=True)
        time.sleep(600)
    cache.get_or_build(KEY, build)
    """
    with subprocess.Popen(program(cache, body), stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"building\n"
        yield child
        child.kill()


def test_killed_builder_makes_room(cache: EngineCache, builder: subprocess.Popen):
    told, found = [], []
    thread = threading.Thread(
        target=lambda: found.append(cache.get_or_build(KEY, lambda progress: PLAN, lambda *what: told.append(what)))
    )
    thread.start()
    wait_until(lambda: told)
    assert told[0] == ("another process is building this engine", None)
    assert not found
    builder.kill()
    thread.join(20)
    assert [stored.plan for stored in found] == [PLAN]


def test_waiting_can_be_given_up(cache: EngineCache, builder: subprocess.Popen):
    def give_up(phase, fraction):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.get_or_build(KEY, never, give_up)


def test_another_engine_does_not_wait(cache: EngineCache, builder: subprocess.Popen):
    assert cache.get_or_build(replace(KEY, batch=2), lambda progress: PLAN).plan == PLAN


def test_writer_killed_in_the_middle_leaves_no_engine_and_is_cleaned_up(cache: EngineCache):
    body = """
    import os
    os.fsync = lambda descriptor: os.kill(os.getpid(), 9)
    cache.store(KEY, b"half" * 1000)
    """
    child = subprocess.run(program(cache, body), check=False)
    assert child.returncode == -signal.SIGKILL
    (leftover,) = cache.folder.iterdir()
    assert leftover.name.endswith(".tmp")
    assert cache.load(KEY) is None
    cache.store(KEY, PLAN)
    assert leftover.exists()  # another process might be writing it
    hours_ago = time.time() - 2 * 3600
    os.utime(leftover, (hours_ago, hours_ago))
    cache.store(KEY, PLAN)
    assert os.listdir(cache.folder) == [KEY.file_name]


# Disks that are full or read-only


def expect_in_memory(cache: EngineCache, caplog, reason: str) -> StoredPlan:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        built = cache.get_or_build(KEY, lambda progress: PLAN)
    assert built.plan == PLAN
    assert reason in caplog.text
    assert str(cache.folder) in caplog.text
    return built


def test_file_that_may_not_grow_leaves_nothing_behind(cache: EngineCache):
    """RLIMIT_FSIZE, as `ulimit -f`: a write stops half-way."""
    body = """
    import logging, resource
    logging.basicConfig(stream=sys.stdout)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    print(len(cache.get_or_build(KEY, lambda progress: bytes(100_000)).plan))
    """
    child = subprocess.run(program(cache, body), capture_output=True, text=True, check=True)
    assert "is not kept for the next start" in child.stdout
    assert "File too large" in child.stdout
    assert child.stdout.endswith("100000\n")
    assert [path.name for path in cache.folder.iterdir()] == [f".{KEY.file_name}.lock"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k,mode=0700", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@as_root
def test_full_disk(small_disk: Path, caplog):
    cache = EngineCache(small_disk / "engines")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert len(cache.get_or_build(KEY, lambda progress: bytes(200_000)).plan) == 200_000
    assert "No space left on device" in caplog.text
    assert [path.name for path in cache.folder.iterdir()] == [f".{KEY.file_name}.lock"]
    assert cache.get_or_build(KEY, lambda progress: PLAN).plan == PLAN  # small enough
    assert cache.load(KEY).plan == PLAN


@as_root
def test_read_only_disk(small_disk: Path, caplog):
    cache = EngineCache(small_disk / "engines")
    cache.store(KEY, PLAN)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert cache.load(KEY).plan == PLAN
    other = replace(KEY, batch=2)
    assert cache.get_or_build(other, lambda progress: b"new").plan == b"new"
    assert "Read-only file system" in caplog.text
    assert cache.load(other) is None


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """Unlike pytest's own, one that every user can reach."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@as_root
def test_engines_that_root_provides_are_used_by_others_who_cannot_write(public_folder: Path, caplog):
    cache = EngineCache(public_folder / "engines")
    cache.store(KEY, PLAN)
    cache.folder.chmod(0o755)
    (cache.folder / KEY.file_name).chmod(0o644)
    os.seteuid(SOMEBODY)
    try:
        assert cache.get_or_build(KEY, never).plan == PLAN
        other = replace(KEY, batch=2)
        assert cache.get_or_build(other, lambda progress: b"new").plan == b"new"
        assert "Permission denied" in caplog.text
    finally:
        os.seteuid(0)
    assert cache.load(other) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(cache: EngineCache, caplog):
    cache.folder.mkdir(0o500)
    expect_in_memory(cache, caplog, "Permission denied")


def test_folder_that_cannot_be_made(tmp_path: Path, caplog):
    (tmp_path / "file").touch()
    expect_in_memory(EngineCache(tmp_path / "file" / "engines"), caplog, "Not a directory")


def test_header_is_json_that_people_can_read(stored: Path):
    data = stored.read_bytes()
    header = json.loads(data[cache_module._HEAD.size : -32 - len(PLAN)])
    assert header["key"]["gpu"] == "Orin"
    assert header["created"].endswith("+00:00")
