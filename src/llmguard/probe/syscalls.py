# ruff: noqa: PTH115, PTH123 - a supervisor starts in half the time without pathlib
"""Which file a blocked thread waits for, read from its system call: the one way to name a path that hangs.

`/proc/PID/syscall` shows the number and the arguments of the call that a thread sleeps in. A path argument is
read from the thread's memory, a file descriptor is resolved by its link in `/proc`; neither touches the file
system that hangs. Needs the rights of a debugger, which an ancestor of the same user has.
"""

from __future__ import annotations

import os

__all__ = ["blocked_on"]

_FD, _PATH, _AT = "fd", "path", "at"
"""First argument is a descriptor; first is a path; second is a path (and the first a folder's descriptor)."""


def _table(**calls: str) -> dict[int, tuple[str, str]]:
    """`fd="0 read 1 write"` to {0: ("read", "fd"), 1: ("write", "fd")}."""
    found: dict[int, tuple[str, str]] = {}
    for kind, text in calls.items():
        words = text.split()
        found |= {int(number): (name, kind) for number, name in zip(words[::2], words[1::2], strict=True)}
    return found


_TABLES = {
    "x86_64": _table(
        fd="0 read 1 write 3 close 5 fstat 17 pread64 18 pwrite64 19 readv 20 writev 72 fcntl 73 flock"
        " 74 fsync 75 fdatasync 77 ftruncate 78 getdents 138 fstatfs 217 getdents64 285 fallocate 306 syncfs",
        path="2 open 4 stat 6 lstat 21 access 59 execve 76 truncate 80 chdir 82 rename 83 mkdir 84 rmdir"
        " 85 creat 87 unlink 89 readlink 137 statfs",
        at="257 openat 258 mkdirat 262 newfstatat 263 unlinkat 264 renameat 267 readlinkat 269 faccessat"
        " 316 renameat2 322 execveat 332 statx 437 openat2 439 faccessat2",
    ),
    "aarch64": _table(
        fd="25 fcntl 32 flock 44 fstatfs 46 ftruncate 47 fallocate 57 close 61 getdents64 63 read 64 write"
        " 65 readv 66 writev 67 pread64 68 pwrite64 80 fstat 82 fsync 83 fdatasync 267 syncfs",
        path="43 statfs 45 truncate 49 chdir 221 execve",
        at="34 mkdirat 35 unlinkat 38 renameat 48 faccessat 56 openat 78 readlinkat 79 newfstatat"
        " 276 renameat2 281 execveat 291 statx 437 openat2 439 faccessat2",
    ),
}


def blocked_on(pid: int, tid: int) -> tuple[str, str]:
    """The system call that a thread sleeps in and the file it is about: ("newfstatat", "/mnt/x"); "" where
    unknown."""
    try:
        with open(f"/proc/{pid}/task/{tid}/syscall", encoding="ascii") as file:
            words = file.read().split()
        number, arguments = int(words[0]), [int(word, 16) for word in words[1:4]]
    except (OSError, ValueError, IndexError):
        return "", ""
    name, kind = _TABLES.get(os.uname().machine, {}).get(number, ("", ""))
    return name, _file_of(pid, kind, arguments) if name else ""


def _file_of(pid: int, kind: str, arguments: list[int]) -> str:
    if kind == _FD:
        return _descriptor(pid, arguments[0])
    path = _text_at(pid, arguments[0 if kind == _PATH else 1])
    return path or (_descriptor(pid, arguments[0]) if kind == _AT else "")


def _descriptor(pid: int, number: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/fd/{number}")
    except OSError:
        return ""


def _text_at(pid: int, address: int, limit: int = 4096) -> str:
    """The C string at an address of another process; reads to the end of one page at a time."""
    found = b""
    try:
        memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        while len(found) < limit and b"\0" not in found:
            start = address + len(found)
            found += os.pread(memory, 4096 - start % 4096, start)
    except (OSError, OverflowError, ValueError):
        pass
    finally:
        os.close(memory)
    return found.partition(b"\0")[0].decode("utf-8", "replace") if b"\0" in found else ""
