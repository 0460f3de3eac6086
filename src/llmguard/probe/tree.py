# ruff: noqa: PTH110, PTH123, PTH208 - a supervisor starts in half the time without pathlib
"""The processes below a process, read from `/proc`, and how to end all of them.

A subreaper inherits the orphans of its tree, so the chain of parents leads back to it however often a process
forked and changed its session. Only `stat` is read here: it never waits for a process that hangs, `cmdline`
may.
"""

from __future__ import annotations

import os
import signal
import time

__all__ = ["Process", "below", "end", "has_proc", "reap"]

PROC = "/proc"
_STATE, _PARENT, _MAJOR, _TICKS, _RSS = 0, 1, 9, slice(11, 15), 21
"""Positions in `stat` after the name: see proc(5), fields 3, 4, 12, 14 to 17 and 24."""


class Process:
    """One process as `stat` shows it: `ticks` are clock ticks of it and of its reaped children, `rss` is in
    pages."""

    __slots__ = ("name", "parent", "pid", "rss", "state", "ticks")

    def __init__(self, pid: int, text: str) -> None:
        head, _, tail = text.rpartition(")")
        fields = tail.split()
        self.pid, self.name = pid, head.partition("(")[2]
        self.state, self.parent = fields[_STATE], int(fields[_PARENT])
        self.ticks = sum(int(field) for field in fields[_TICKS])
        self.rss = int(fields[_RSS])


def has_proc() -> bool:
    """Whether the system shows its processes as files."""
    return os.path.exists(f"{PROC}/self/stat")


def read(path: str) -> str:
    """A small file of `/proc`; empty when the process is gone or its file is not for us."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def everything() -> dict[int, Process]:
    """All processes of the system by id."""
    found: dict[int, Process] = {}
    for name in os.listdir(PROC):
        text = read(f"{PROC}/{name}/stat") if name.isdigit() else ""
        if text:
            found[int(name)] = Process(int(name), text)
    return found


def below(root: int) -> list[Process]:
    """All living descendants of a process, parents before children; zombies hold nothing and are left out."""
    children: dict[int, list[Process]] = {}
    for process in everything().values():
        children.setdefault(process.parent, []).append(process)
    found, waiting = [], list(children.get(root, ()))
    while waiting:
        process = waiting.pop(0)
        found.append(process)
        waiting += children.get(process.pid, ())
    return [process for process in found if process.state not in "ZX"]


def reap() -> dict[int, int]:
    """Collect every child that has ended, without waiting: process id -> wait status."""
    found: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        found[pid] = status


def end(root: int, grace: float, bound: float) -> tuple[dict[int, int], dict[int, str]]:
    """End everything below `root`: SIGTERM, `grace` seconds, SIGKILL until nothing is left or `bound` seconds
    are over.

    Returns:
        What was reaped on the way (id -> status), and who lives on (id -> why: what the kernel said, or "").
    """
    reaped: dict[int, int] = {}
    if grace > 0:
        _send(below(root), signal.SIGTERM)
        _until_empty(root, time.monotonic() + grace, reaped)
    stop, left = time.monotonic() + bound, below(root)
    refused: dict[int, str] = {}
    while left:
        refused = _send(left, signal.SIGKILL)
        _until_empty(root, min(stop, time.monotonic() + 0.05), reaped)
        left = below(root)
        if time.monotonic() >= stop:
            break
    return reaped, {process.pid: refused.get(process.pid, "") for process in left}


def _send(processes: list[Process], number: int) -> dict[int, str]:
    refused: dict[int, str] = {}
    for process in processes:
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            continue
        except OSError as why:
            refused[process.pid] = why.strerror or "refused"
    return refused


def _until_empty(root: int, stop: float, reaped: dict[int, int]) -> None:
    pause = 0.002
    while True:
        reaped.update(reap())
        if not below(root) or time.monotonic() >= stop:
            return
        time.sleep(pause)
        pause = min(pause * 2, 0.02)
