# ruff: noqa: PTH116, PTH123 - a supervisor starts in half the time without pathlib
"""The files between a child, its supervisor and the parent: heartbeat, steps, output."""

from __future__ import annotations

import json
import os

__all__ = ["cap", "heartbeat", "last_line", "signature"]


def heartbeat(path: str) -> tuple[int, str]:
    """The child's heartbeat: how many modules it has begun to import so far, and the last one."""
    try:
        with open(path, "rb") as file:
            data = file.read(4096)
    except OSError:
        data = b""
    size = int.from_bytes(data[8:10], "little")
    return int.from_bytes(data[:8], "little"), data[10 : 10 + size].decode("utf-8", "replace")


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
    """Cut a file beyond twice the limit back to its newest `limit` bytes; returns how many were dropped.

    Its writer appends, so it goes on behind what is kept. What it writes in between is lost: this is a flood.
    """
    try:
        if os.stat(path).st_size <= 2 * limit:
            return 0
        with open(path, "r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(size - limit)
            tail = file.read(limit)
            file.truncate(0)
        with open(path, "ab") as file:
            file.write(tail)
    except OSError:
        return 0
    return size - len(tail)
