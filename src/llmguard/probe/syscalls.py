"""Which file a blocked thread waits for, read from its system call: the one way to name a path that hangs.

`/proc/PID/syscall` shows the number and the arguments of the call that a thread sleeps in. A path argument is read
from the thread's memory, a file descriptor is resolved by its link in `/proc`; neither touches the file system
that hangs. Needs the rights of a debugger, which an ancestor of the same user has.
"""

from __future__ import annotations

import os

__all__ = ["blocked_on"]

_FD, _PATH, _AT = "fd", "path", "at"
"""First argument is a descriptor; first is a path; second is a path (and the first a folder's descriptor)."""

_X86_64 = {
    _FD: {
        **{0: "read", 1: "write", 3: "close", 5: "fstat", 17: "pread64", 18: "pwrite64", 19: "readv", 20: "writev"},
        **{72: "fcntl", 73: "flock", 74: "fsync", 75: "fdatasync", 77: "ftruncate", 78: "getdents"},
        **{138: "fstatfs", 217: "getdents64", 277: "sync_file_range", 285: "fallocate", 306: "syncfs"},
    },
    _PATH: {
        **{2: "open", 4: "stat", 6: "lstat", 21: "access", 59: "execve", 76: "truncate", 80: "chdir"},
        **{82: "rename", 83: "mkdir", 84: "rmdir", 85: "creat", 87: "unlink", 89: "readlink", 137: "statfs"},
    },
    _AT: {
        **{257: "openat", 258: "mkdirat", 262: "newfstatat", 263: "unlinkat", 264: "renameat", 267: "readlinkat"},
        **{269: "faccessat", 316: "renameat2", 322: "execveat", 332: "statx", 437: "openat2", 439: "faccessat2"},
    },
}
_AARCH64 = {
    _FD: {
        **{25: "fcntl", 32: "flock", 44: "fstatfs", 46: "ftruncate", 47: "fallocate", 57: "close", 61: "getdents64"},
        **{63: "read", 64: "write", 65: "readv", 66: "writev", 67: "pread64", 68: "pwrite64", 80: "fstat"},
        **{82: "fsync", 83: "fdatasync", 267: "syncfs"},
    },
    _PATH: {43: "statfs", 45: "truncate", 49: "chdir", 221: "execve"},
    _AT: {
        **{34: "mkdirat", 35: "unlinkat", 38: "renameat", 48: "faccessat", 56: "openat", 78: "readlinkat"},
        **{79: "newfstatat", 276: "renameat2", 281: "execveat", 291: "statx", 437: "openat2", 439: "faccessat2"},
    },
}
_TABLES = {"x86_64": _X86_64, "aarch64": _AARCH64}


def blocked_on(pid: int, tid: int) -> tuple[str, str]:
    """The system call that a thread sleeps in and the file it is about: ("newfstatat", "/mnt/x"); "" where unknown."""
    try:
        with open(f"/proc/{pid}/task/{tid}/syscall", encoding="ascii") as file:  # noqa: PTH123 - no pathlib: start-up time
            words = file.read().split()
        number, arguments = int(words[0]), [int(word, 16) for word in words[1:4]]
    except (OSError, ValueError, IndexError):
        return "", ""
    for kind, names in _TABLES.get(os.uname().machine, {}).items():
        if number in names:
            return names[number], _file_of(pid, kind, arguments)
    return "", ""


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
