"""Which processes are still there, read from /proc: neither psutil nor a parent's bookkeeping is asked."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

__all__ = ["alive", "state_of"]

GONE = "XZ"


def alive(pids: Iterable[int]) -> list[int]:
    """Those of them that run; one that has ended and was not waited for does not."""
    return [pid for pid in pids if state_of(pid) not in GONE]


def state_of(pid: int) -> str:
    """R, S, D, T …, as the kernel has it; X where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return "X"
