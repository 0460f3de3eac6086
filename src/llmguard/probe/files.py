# ruff: noqa: PTH116, PTH123 - a supervisor starts in half the time without pathlib
"""The files between a child, its supervisor and the parent: heartbeat, steps, output."""

from __future__ import annotations

import json
import os

__all__ = ["LISTENER", "ask", "cap", "heartbeat", "last_line", "signature"]

_CATCH_UP = 8 * 2**20
"""A bound for reading what grows while it is read: a flood may be faster than its reader."""
LISTENER = 1024
"""Where in the heartbeat the id of the listening thread lies."""


def ask(path: str) -> bool:
    """Ask the child's listening thread for its stacks; False where it has none."""
    try:
        pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    os.write(pipe, b"?")
    os.close(pipe)
    return True


def heartbeat(path: str) -> tuple[int, str, int]:
    """The child's heartbeat: modules it has begun to import, the last one, its listening thread (0 where it has none)."""
    try:
        with open(path, "rb") as file:
            data = file.read(4096)
    except OSError:
        data = b""
    size = int.from_bytes(data[8:10], "little")
    last = data[10 : 10 + size].decode("utf-8", "replace")
    return int.from_bytes(data[:8], "little"), last, int.from_bytes(data[LISTENER : LISTENER + 8], "little")


def signature(path: str) -> tuple[int, int]:
    """When a file was last written (ns) and its size; zeros when there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def last_line(path: str) -> str:
    """The last whole line of a file of steps; of a JSON object its `step`."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    line = lines[-2].strip() if len(lines) > 1 else ""
    try:
        found = json.loads(line)
    except ValueError:
        return line[:500]
    return str(found.get("step", line) if isinstance(found, dict) else line)[:500]


def cap(path: str, limit: int) -> int:
    """Move the newest `limit` bytes of a file beyond twice the limit to `PATH.kept` and empty it.

    Its writer appends, so it starts again at the beginning: of a flood the order stays, and no limit on the size of
    files is hit. Returns how many bytes were taken out.
    """
    try:
        if os.stat(path).st_size <= 2 * limit:
            return 0
        with open(path, "r+b") as file:
            file.seek(-limit, os.SEEK_END)
            # what came while the first read went on is taken along; what comes from here to the cut is lost
            tail = file.read(limit) + file.read(_CATCH_UP)
            size = os.fstat(file.fileno()).st_size
            file.truncate(0)
        with open(f"{path}.kept", "wb") as kept:
            kept.write(tail[-limit:])
    except OSError:
        return 0
    return size
