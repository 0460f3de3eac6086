"""The last resort: find the processes of a probe by its mark when its supervisor is gone."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

__all__ = ["sweep"]


def sweep(nonce: str, seconds: float = 1.0) -> list[int]:
    """Kill every process of ours whose environment carries the nonce; returns their ids.

    Reading an environment may wait for a process that hangs, so it is done in a thread of its own that is
    left behind when it takes longer than `seconds`.
    """
    killed: list[int] = []
    worker = threading.Thread(
        target=_sweep, args=(nonce.encode(), killed), name="llmguard-sweep", daemon=True
    )
    worker.start()
    worker.join(seconds)
    return list(killed)


def _sweep(mark: bytes, killed: list[int]) -> None:
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if entry.stat().st_uid == os.geteuid() and mark in (entry / "environ").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)
                killed.append(int(entry.name))
        except OSError:
            continue
