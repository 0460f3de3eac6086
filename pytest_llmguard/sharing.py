"""The folder that the xdist workers of a session share: who uses it, and when the last one may close what the others wait for."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

__all__ = ["enter", "wait_for_others"]

POLL = 0.05
LONGEST = 900.0
"""Seconds; as long as a child process of the evidence may take at all."""


def enter(share: Path, config: pytest.Config) -> None:
    """Say that this worker uses the folder; makes it, for this user alone."""
    share.mkdir(mode=0o700, parents=True, exist_ok=True)
    half = share / f"{os.getpid()}.half"
    half.write_text(str(os.getpid()), "utf-8")
    half.replace(_sign(share, config))


def wait_for_others(share: Path, config: pytest.Config) -> None:
    """A worker that is done holds its children (the user's code, the tokenizer) until no other worker may wait for them."""
    _sign(share, config).unlink(missing_ok=True)
    end = time.monotonic() + LONGEST
    while time.monotonic() < end and any(_alive(sign) for sign in share.glob("worker-*.pid")):
        time.sleep(POLL)


def _sign(share: Path, config: pytest.Config) -> Path:
    worker: str = config.workerinput["workerid"]  # type: ignore[attr-defined]  # xdist puts it there
    return share / f"worker-{worker}.pid"


def _alive(sign: Path) -> bool:
    """Whether the worker that signed still runs: one that crashed left its sign."""
    try:
        os.kill(int(sign.read_text("utf-8")), 0)
    except (OSError, ValueError):  # the sign or the process has just gone
        return False
    return True
