"""A control group of our own with little memory: what lives in it is killed by the kernel when it takes more."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

__all__ = ["ENTER", "small_group"]

ENTER = "import os; open({procs!r}, 'w').write(str(os.getpid()))"
"""What a child runs first; `procs` is the group's list of processes."""


@contextlib.contextmanager
def small_group(limit: int) -> Iterator[Path]:
    """A memory group that allows so many bytes; skipped where there may be none."""
    group = Path("/sys/fs/cgroup/memory/llmguard-test-" + str(os.getpid()))
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(limit))
    except OSError as why:
        pytest.skip(f"no control groups of our own here: {why}")
    try:
        yield group
    finally:
        _until_gone(group)


def _until_gone(group: Path) -> None:
    for _ in range(100):
        with contextlib.suppress(OSError):
            group.rmdir()
        if not group.exists():
            return
        time.sleep(0.05)
