"""The children of this process: who may hold memory that the allocator of this process knows nothing of."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["count_of_children", "descendants", "names_of"]


def count_of_children() -> int:
    """How many children the main thread has started that still run; some microseconds. 0 where the system does not say."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:  # noqa: PTH123  # asked twice a test: a Path doubles its cost
            return len(file.read().split())
    except OSError:
        return 0


def descendants() -> list[int]:
    """Process ids of all living descendants of this process."""
    from llmguard.probe.tree import below, has_proc

    return [process.pid for process in below(os.getpid())] if has_proc() else []


def names_of(pids: list[int]) -> list[str]:
    """How a person would recognise them: process id and command line."""
    found = []
    for pid in pids:
        try:
            command = (
                Path(f"/proc/{pid}/cmdline")
                .read_bytes()
                .replace(b"\0", b" ")
                .decode(errors="replace")
                .strip()
            )
        except OSError:
            continue
        found.append(f"{pid} ({command[:80]})")
    return found
