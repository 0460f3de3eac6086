"""Locks on files that end with their process: the kernel's `flock`, and the holder's name written into the file.

A lock that the kernel holds cannot be stale: it ends with its process, also after SIGKILL, and with the machine. The record in
the file (pid, start time, boot) only names the holder; where a file system knows no `flock` the record alone decides, and
a pid that was given to another process, or a machine that was started anew, is seen by start time and boot.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = ["Held", "holder", "locked", "started"]

NO_FLOCK = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
LOOK = 0.05  # seconds between two tries


class Held(Exception):
    """Another process holds the lock; the message names it: pid, since when, on which host."""


@contextmanager
def locked(
    path: Path | Sequence[Path], wait: float = 0.0, *, shared: bool = False, patience: float | None = None
) -> Iterator[None]:
    """Hold the lock of `path` (made where missing, its folders too), or of the first of several that is free, after at most `wait` seconds.

    `shared`: beside others who share it, while nobody holds it alone. `patience`: give up earlier, once one holder has kept it for so
    many seconds.

    Raises:
        Held: another process still holds it.
        OSError: the file cannot be made.
    """
    paths = [path] if isinstance(path, Path) else list(path)
    taken, handle = _wait(paths, wait, shared, wait if patience is None else patience)
    try:
        yield
    finally:
        # one of several who share it leaves the file to the others
        if (not shared or _alone(handle)) and _same_file(taken, handle):
            taken.unlink(
                missing_ok=True
            )  # not the next holder's, made after ours was taken away with its folder
        os.close(handle)


def _wait(paths: Sequence[Path], wait: float, shared: bool, patience: float) -> tuple[Path, int]:
    """The first of the locks that is free, and its open file."""
    since = now = time.monotonic()
    until, seen = now + wait, [_record(path) for path in paths]
    while True:
        for path in paths:
            if (handle := _take(path, shared)) is not None:
                return path, handle
        records, now = [_record(path) for path in paths], time.monotonic()
        if records != seen:
            seen, since = records, now
        if now >= until or now - since >= patience:
            raise Held(f"held by {_told(seen[0])}")
        time.sleep(LOOK)


def _alone(handle: int) -> bool:
    """Whether nobody shares a lock with us: then it is ours alone now."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def holder(path: Path) -> dict[str, Any] | None:
    """Who holds the lock now: {pid, started, host, since}; None where nobody does."""
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as refused:
        found = _record(path)
        return found if refused.errno not in NO_FLOCK or _lives(found) else None
    finally:
        os.close(handle)
    return None


def _take(path: Path, shared: bool) -> int | None:
    """The open, locked file with our record in it; None where another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except FileNotFoundError:  # the folder was cleared away in between
        return None
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        free = True
    except OSError as refused:
        free = refused.errno in NO_FLOCK and not _lives(_record(path))
    # the holder before us takes its file away when it ends: a lock on a file without a name guards nothing
    if not free or not _same_file(path, handle):
        os.close(handle)
        return None
    os.truncate(handle, 0)
    os.write(handle, json.dumps(_ourselves()).encode())
    return handle


def _same_file(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except OSError:
        return False


def _ourselves() -> dict[str, Any]:
    pid = os.getpid()
    return {
        "pid": pid,
        "started": started(pid),
        "boot": _boot(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "turn": time.time_ns(),  # who takes it twice in a second holds it anew
    }


def _record(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _lives(record: dict[str, Any]) -> bool:
    """Whether the process of a record is still that process; one on another host is taken to live: nobody here can tell."""
    if record.get("host") not in (None, socket.gethostname()):
        return True
    if record.get("boot") != _boot():
        return False
    return record.get("started") is not None and record["started"] == started(int(record.get("pid", 0)))


def started(pid: int) -> float | None:
    """When a process started: clock ticks since boot on Linux (no clock that is set changes them), else Unix seconds.

    None: there is no such process, or only its zombie. With its pid it is one process and no other, until the next boot.
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return None if state == "Z" else float(fields[18])
    except (OSError, ValueError):
        pass
    with suppress(ImportError):
        import psutil

        with suppress(psutil.Error):
            return float(psutil.Process(pid).create_time())
    return None


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        pass
    with suppress(ImportError):
        import psutil

        return str(int(psutil.boot_time()))
    return ""


def _told(record: dict[str, Any]) -> str:
    if not record:
        return "another process, which has not written its name yet"
    return f"process {record.get('pid')} on {record.get('host')}, since {record.get('since')}"
