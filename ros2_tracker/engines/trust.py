"""Who could have written to a folder or a file: what is refused, and in which words."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from ros2_tracker.engines.base import EngineError

_MOST_LINKS = 40


def make_private(folder: Path) -> None:
    """Make a folder and the missing ones above it, for this user alone."""
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        with suppress(FileExistsError):
            missing.mkdir(mode=0o700)


def refuse_unless_ours(status: os.stat_result, path: Path) -> None:
    """EngineError for what somebody else could have written: only this user, or root, may."""
    if status.st_uid not in (0, os.geteuid()):
        raise EngineError(f"{_as_found(path, status)}: delete it, or set engine_cache_dir to a folder of your own")
    if status.st_mode & 0o022:
        raise EngineError(
            f"{_as_found(path, status)}: delete what is in it if you do not trust everybody who could write, then run "
            f"`chmod go-w {path}`"
        )


def refuse_unsafe_parents(folder: Path) -> None:
    """EngineError when somebody else could put another folder in this one's place, as OpenSSH checks.

    In a folder with the sticky bit, such as /tmp, one cannot.
    """
    # In a container the root folder may belong to nobody that the container knows; its owner can do anything anyway.
    trusted = {0, os.geteuid(), os.stat("/").st_uid}
    for path, status in _way_to(folder):
        link = stat.S_ISLNK(status.st_mode)
        if status.st_uid in trusted and (link or not _open_to_others(status)):
            continue
        if path == folder and not link:
            continue  # the folder itself is checked more strictly, once it is open
        raise EngineError(
            f"{_as_found(path, status)}, and the engine cache {folder} lies behind it: see that it belongs to you or "
            f"root, run `chmod go-w {path}`, or set engine_cache_dir to a folder of your own"
        )


def _open_to_others(status: os.stat_result) -> bool:
    """Whether somebody else can rename what is in a folder."""
    if status.st_mode & stat.S_ISVTX:
        return False
    if status.st_mode & stat.S_IWOTH:
        return True
    return bool(status.st_mode & stat.S_IWGRP) and not _is_private_group(status.st_gid)


def _is_private_group(gid: int) -> bool:
    """Whether a group is this user's alone, as Ubuntu makes one for each: their folders are group-writable."""
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return user.pw_gid == gid and group.gr_name == user.pw_name and {*group.gr_mem} <= {user.pw_name}


def _way_to(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """All that the look-up of an absolute path goes through, links and what they lead to included; OSError."""
    at = Path("/")
    yield at, os.lstat(at)
    pending = [*reversed(path.parts[1:])]
    links = 0
    while pending:
        here = at / pending.pop()
        status = os.lstat(here)
        yield here, status
        if not stat.S_ISLNK(status.st_mode):
            at = here
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target = PurePosixPath(os.readlink(here))
        if target.is_absolute():
            at = Path("/")
        pending += [part for part in reversed(target.parts) if part != "/"]


def _as_found(path: Path, status: os.stat_result) -> str:
    """The beginning of a refusal."""
    try:
        owner = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        owner = str(status.st_uid)
    mode = stat.S_IMODE(status.st_mode)
    return f"{path} is refused because others can write to it (mode {mode:04o}, owner {owner})"
