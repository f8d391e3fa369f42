"""Built engines kept on disk: never a stale one, never another machine's, never a damaged one.

An engine is machine code, so its files are trusted no further than who could have written them. docs/engines.md says
what is checked, and what to do when something is refused.

A file holds one engine: magic, version of this format, lengths, a JSON header with all that the engine was built for,
the engine itself (TensorRT says "plan"), and a SHA-256 of everything before it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import stat
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO

import ros2_tracker
from ros2_tracker.engines.base import EngineError, Progress
from ros2_tracker.engines.trust import make_private, refuse_unless_ours, refuse_unsafe_parents

_log = logging.getLogger(__name__)

_MAGIC = b"R2TPLAN\n"
_FORMAT = 1
_HEAD = struct.Struct("<8sIIQ")
"""Magic, format, bytes of the header, bytes of the plan."""
_DIGEST_BYTES = 32
_SUFFIX = ".engine"
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_BROKEN = re.compile(r".*\.broken-(\d+)")
_BROKEN_KEPT = 3
_LEFTOVER_AGE_S = 3600.0
_LOCK_POLL_S = 0.2
_NO_LOCK = "no lock in %s, another process may build the same engine meanwhile: %s"


class PlanRefusedError(EngineError):
    """An engine that is intact but does not work here: a stored one is set aside and built anew."""


class _DamagedError(Exception):
    """A file that is not what its name says; the text says how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineKey:
    """All that makes one engine differ from another. Any other value in any field is another engine."""

    name: str
    """Of the model and graph, for people; letters, digits, `.`, `_` and `-`."""
    graph_sha256: str
    """Of the ONNX file, in hex. Its content fixes the input shapes, but for a batch that it leaves open."""
    flavour: str
    """`tensorrt` or `tensorrt_rtx`."""
    version: str
    """Of TensorRT, in full."""
    gpu: str
    """Name of the GPU; `none` for an engine that is not built for one."""
    compute_capability: str
    """Such as `8.7`, or `none`."""
    precision: str
    """Of the graph: `fp32`, `fp16` or `int8`."""
    batch: int
    """Targets that one run handles."""
    settings: str
    """Of the builder."""

    def __post_init__(self) -> None:
        """ValueError when the fields make no file name."""
        if not _FILE_NAME.fullmatch(self.file_name):
            raise ValueError(f"no file name can be made of {self.name!r}, {self.precision!r} and {self.batch!r}")

    @property
    def file_name(self) -> str:
        """Readable, and different for every key."""
        return f"{self.name}-{self.precision}-b{self.batch}-{_digest(self)[:16]}{_SUFFIX}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingKey:
    """What TensorRT's measurements of its kernels hold for, whatever the network."""

    flavour: str
    version: str
    gpu: str
    compute_capability: str

    @property
    def file_name(self) -> str:
        """One file for each GPU and TensorRT."""
        return f"timing-{_digest(self)[:16]}.cache"


Key = EngineKey | TimingKey


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself."""

    key: dict[str, Any]
    """Fields of the key that it was stored under."""
    created: str
    """UTC, ISO 8601."""
    builder: str
    """Version of this package that built it."""
    driver: str
    """GPU and driver of the last self-test; empty where there was none."""
    self_test: str
    """What the last self-test said; empty where there was none."""


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """An engine that was read and checked, or has just been built."""

    plan: bytes
    header: Header


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the cache, for `doctor`."""

    path: Path
    size: int
    """Bytes."""
    header: Header | None
    """None when the file cannot be used."""
    problem: str
    """Why it cannot be used; empty when it can."""


class EngineCache:
    """Engines in one folder. Any number of processes and threads may share it.

    Every method but `entries` treats a folder that cannot be read or written (disk full, mounted read-only) as an empty
    one, with a warning; and raises EngineError for a folder or file that somebody else could have written to.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        """`folder` is made when it is first written to; None: `default_folder()`."""
        self.folder = Path(folder).expanduser().absolute() if folder else default_folder()

    def load(self, key: Key) -> StoredPlan | None:
        """What is stored under a key, completely checked; None where there is nothing.

        A file that is damaged or was renamed is logged, set aside, and counts as nothing.

        Raises:
            EngineError: the folder or the file is refused; the text says why and what to do.

        """
        path = self.folder / key.file_name
        try:
            with self._opened() as folder:
                try:
                    stored = _read(folder, path)
                    if stored.header.key != _fields(key):
                        raise _DamagedError(f"it was stored as {stored.header.key}")
                    return stored
                except _DamagedError as damage:
                    self._set_aside(folder, path.name, str(damage))
        except FileNotFoundError:
            pass
        except OSError as error:
            _log.warning("%s cannot be used: %s", path, error)
        return None

    def store(self, key: Key, plan: bytes, driver: str = "", self_test: str = "") -> bool:
        """Write or replace what is stored under a key, all or nothing.

        Args:
            key: what it was built for.
            plan: the engine.
            driver: GPU and driver that it was tested with, if it was.
            self_test: what that test said.

        Returns:
            Whether it is on disk now; if not, a warning was logged.

        Raises:
            EngineError: the folder is refused.

        """
        return self._write(key, plan, _new_header(key, driver, self_test))

    def get_or_build(
        self,
        key: EngineKey,
        build: Callable[[Progress], bytes],
        progress: Progress = lambda phase, fraction: None,
        verify: Callable[[bytes, bool], str] | None = None,
        driver: str = "",
    ) -> StoredPlan:
        """The stored engine, or a new one, which is then stored.

        Of processes that want the same engine at once, one builds; the others wait for it and load the result.

        Args:
            key: which engine.
            build: makes it; told where to report progress.
            progress: also called now and then while another process builds; what it raises ends the wait.
            verify: called with every engine before it is returned, and with whether it has passed a self-test with this
                driver before. Loads it, and tests it where it has not; returns what the test said, in a line;
                empty where there was none.
                PlanRefusedError from it sets a stored engine aside; a new one is then not stored.
            driver: names this GPU and its driver: an engine is tested again when they change.

        Raises:
            EngineError: the folder or the file is refused; PlanRefusedError when the new engine does not work either.

        """
        stored = self._usable(key, verify, driver)
        if stored is not None:
            return stored
        with self._locked(key, progress):
            stored = self._usable(key, verify, driver)
            if stored is not None:
                return stored
            plan = build(progress)
            self_test = verify(plan, False) if verify else ""
            header = _new_header(key, driver if self_test else "", self_test)
            self._write(key, plan, header)
            return StoredPlan(plan, header)

    def timing_cache(self, key: EngineKey) -> TimingCache:
        """Where TensorRT keeps its measurements between builds for one GPU."""
        return TimingCache(self, TimingKey(**{name: getattr(key, name) for name in TimingKey.__dataclass_fields__}))

    def own_folder(self, name: str) -> Path:
        """A folder in this one for what another library keeps there itself: made where it is missing, and checked.

        Raises:
            EngineError: this folder or that one is refused, or cannot be made.

        """
        folder = self.folder / name
        try:
            with self._opened(create=True):
                make_private(folder)
                status = os.lstat(folder)
        except OSError as error:
            raise EngineError(f"{folder} cannot be made: {error}") from error
        if not stat.S_ISDIR(status.st_mode):
            raise EngineError(f"{folder} is refused because it is no folder: delete it")
        refuse_unless_ours(status, folder)
        return folder

    def entries(self) -> list[Entry]:
        """All engines in the folder, checked, by name; nothing is changed or set aside.

        Raises:
            EngineError: the folder is refused.
            OSError: it cannot be read. (One that does not exist is empty.)

        """
        try:
            with self._opened() as folder:
                names = sorted(name for name in os.listdir(folder) if name.endswith(_SUFFIX))
                return [_entry(folder, self.folder / name) for name in names]
        except FileNotFoundError:
            return []

    def _usable(self, key: EngineKey, verify: Callable[[bytes, bool], str] | None, driver: str) -> StoredPlan | None:
        """What is stored, if it works here."""
        stored = self.load(key)
        if stored is None or verify is None:
            return stored
        tested = bool(stored.header.self_test) and stored.header.driver == driver
        try:
            said = verify(stored.plan, tested)
        except PlanRefusedError as refusal:
            with suppress(OSError), self._opened() as folder:
                self._set_aside(folder, key.file_name, str(refusal))
            return None
        if tested or not said:
            return stored
        header = replace(stored.header, driver=driver, self_test=said)
        self._write(key, stored.plan, header)
        return StoredPlan(stored.plan, header)

    @contextmanager
    def _opened(self, create: bool = False) -> Iterator[int]:
        """The folder's descriptor, checked; EngineError when it is refused, OSError when it is not to be had."""
        if create:
            with suppress(FileNotFoundError):
                refuse_unsafe_parents(self.folder)
            make_private(self.folder)
        refuse_unsafe_parents(self.folder)
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            refuse_unless_ours(os.fstat(folder), self.folder)
            yield folder
        finally:
            os.close(folder)

    def _write(self, key: Key, plan: bytes, header: Header) -> bool:
        text = json.dumps(asdict(header)).encode()
        head = _HEAD.pack(_MAGIC, _FORMAT, len(text), len(plan))
        try:
            with self._opened(create=True) as folder:
                _remove_leftovers(folder)
                _write_atomically(folder, key.file_name, (head, text, plan, _sha256(head, text, plan)))
        except OSError as error:
            _log.warning("%s is not kept for the next start: %s", self.folder / key.file_name, error)
            return False
        return True

    def _set_aside(self, folder: int, name: str, reason: str) -> None:
        _log.warning("%s is set aside and not used: %s", self.folder / name, reason)
        broken = {int(match[1]): other for other in os.listdir(folder) if (match := _BROKEN.fullmatch(other))}
        number = max(broken, default=0) + 1
        os.rename(name, f"{name}.broken-{number}", src_dir_fd=folder, dst_dir_fd=folder)
        for old in sorted(broken)[: max(0, len(broken) + 1 - _BROKEN_KEPT)]:
            os.unlink(broken[old], dir_fd=folder)

    @contextmanager
    def _locked(self, key: EngineKey, progress: Progress) -> Iterator[None]:
        """While this process alone may build; a killed process lets go by itself.

        The lock's file stays: removing it would let two processes lock two files of one name.
        """
        try:
            with self._opened(create=True) as folder:
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                lock = os.open(f".{key.file_name}.lock", flags, 0o600, dir_fd=folder)
        except OSError as error:
            _log.warning(_NO_LOCK, self.folder, error)
            yield
            return
        try:
            self._wait_for(lock, key, progress)
            yield
        finally:
            os.close(lock)

    def _wait_for(self, lock: int, key: EngineKey, progress: Progress) -> None:
        announced = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if not announced:
                    _log.info("another process is building %s; waiting for it", key.file_name)
                announced = True
            except OSError as error:  # a network file system without locks
                _log.warning(_NO_LOCK, self.folder, error)
                return
            progress("another process is building this engine", None)
            time.sleep(_LOCK_POLL_S)


class TimingCache:
    """TensorRT's measurements of its kernels on one GPU, kept between builds and checked like an engine."""

    def __init__(self, cache: EngineCache, key: TimingKey) -> None:
        self._cache, self._key = cache, key

    def load(self) -> bytes:
        """What was measured before; empty where nothing was."""
        stored = self._cache.load(self._key)
        return stored.plan if stored else b""

    def store(self, measurements: bytes) -> None:
        """Keep them."""
        self._cache.store(self._key, measurements)


def default_folder() -> Path:
    """`$XDG_CACHE_HOME/ros2_tracker/engines`; EngineError for a user without a home."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        cache = Path(base) if base.startswith("/") else Path.home() / ".cache"
    except RuntimeError as error:
        raise EngineError(f"no folder for engines ({error}): set engine_cache_dir or XDG_CACHE_HOME") from error
    return cache / "ros2_tracker" / "engines"


def _fields(key: Key) -> dict[str, Any]:
    return {"kind": type(key).__name__, **asdict(key)}


def _digest(key: Key) -> str:
    return hashlib.sha256(json.dumps(_fields(key), sort_keys=True).encode()).hexdigest()


def _new_header(key: Key, driver: str, self_test: str) -> Header:
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return Header(_fields(key), created, ros2_tracker.__version__, driver, self_test)


def _read(folder: int, path: Path) -> StoredPlan:
    """A file of the folder, all of it verified; _DamagedError, EngineError when it is refused, OSError."""
    try:
        # O_NONBLOCK: a pipe of that name would wait for a writer.
        descriptor = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise EngineError(f"{path} is refused because it is a symbolic link: delete it") from error
        raise
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise EngineError(f"{path} is refused because it is no file: delete it")
        refuse_unless_ours(status, path)
        return _parsed(stream, status.st_size)


def _parsed(stream: BinaryIO, size: int) -> StoredPlan:
    """Of a file of that many bytes; _DamagedError."""
    head = stream.read(_HEAD.size)
    if len(head) < _HEAD.size:
        raise _DamagedError(f"it ends after {size} bytes")
    magic, version, header_bytes, plan_bytes = _HEAD.unpack(head)
    if magic != _MAGIC:
        raise _DamagedError("it is not an engine of ros2_tracker")
    if version != _FORMAT:
        raise _DamagedError(f"its format is {version}, this ros2_tracker reads {_FORMAT}")
    wanted = _HEAD.size + header_bytes + plan_bytes + _DIGEST_BYTES
    if size != wanted:
        raise _DamagedError(f"it has {size} bytes, not {wanted}")
    header, plan = stream.read(header_bytes), stream.read(plan_bytes)
    if _sha256(head, header, plan) != stream.read(_DIGEST_BYTES):
        raise _DamagedError("its SHA-256 is wrong")
    try:
        return StoredPlan(plan, Header(**json.loads(header)))
    except (ValueError, TypeError, RecursionError) as error:
        raise _DamagedError(f"its header cannot be read: {error}") from error


def _entry(folder: int, path: Path) -> Entry:
    size = 0
    try:
        size = os.stat(path.name, dir_fd=folder, follow_symlinks=False).st_size
        header = _read(folder, path).header
        if EngineKey(**{name: header.key[name] for name in EngineKey.__dataclass_fields__}).file_name != path.name:
            raise _DamagedError(f"it was stored as {header.key}")
        return Entry(path, size, header, "")
    except (_DamagedError, EngineError, OSError, KeyError, TypeError) as error:
        return Entry(path, size, None, str(error))


def _sha256(*parts: bytes) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


def _write_atomically(folder: int, name: str, parts: tuple[bytes, ...]) -> None:
    """All or nothing, also when the power goes; OSError leaves nothing behind."""
    temporary = f".{name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600, dir_fd=folder)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            for part in parts:
                stream.write(part)
            stream.flush()
            os.fsync(descriptor)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise


def _remove_leftovers(folder: int) -> None:
    """Of processes that were killed while they wrote."""
    for name in os.listdir(folder):
        if name.startswith(".") and name.endswith(".tmp"):
            with suppress(OSError):
                if time.time() - os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime > _LEFTOVER_AGE_S:
                    os.unlink(name, dir_fd=folder)
