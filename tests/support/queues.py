"""Queues of training files for tests: putting files there, working on them in this process or as a daemon, and what was seen."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmguard_core.queue import Failed, Job, Summary, in_child, run_queue
from llmguard_core.queue.jobs import Queue

__all__ = ["Recorder", "daemon", "names", "once", "printed", "put", "run", "until"]

SOURCES = Path(__file__).resolve().parents[2] / "src"
DAEMON = """
import sys
from pathlib import Path
from llmguard_core.queue import in_child, run_queue
folder, child = sys.argv[1:]
work = in_child(lambda job: [sys.executable, "-c", child, str(job.file), str(job.folder)], grace=10)
run_queue(folder, work, settle=0, poll=0.05, backoff=0)
"""
SLOW = """
import signal, sys, time, pathlib, os
folder = pathlib.Path(sys.argv[2])
def saved(*_):
    (folder / "saved").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, saved)
(folder / "begun").write_text(str(os.getpid()))
if not (folder / "saved").exists():
    time.sleep(60)
"""


class Recorder:
    """Work that remembers what it was given; fails, while `failing` says so, for the names in it."""

    def __init__(self, *failing: str) -> None:
        self.seen: list[tuple[str, bytes]] = []
        self.failing = set(failing)

    def __call__(self, job: Job) -> None:
        self.seen.append((job.name, job.file.read_bytes()))
        if job.name in self.failing:
            raise Failed("the loss was NaN")

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.seen]


def put(queue: Path, name: str | bytes, content: bytes | None = None, priority: int | None = None) -> Path:
    """A file in `pending`, or in the folder of its priority there; its content is its name where none is given."""
    place = queue / "pending" / ("" if priority is None else str(priority))
    place.mkdir(exist_ok=True)
    path = place / os.fsdecode(name)
    path.write_bytes(os.fsencode(name) if content is None else content)
    return path


def run(queue: Path, work: Any, **more: Any) -> Summary:
    """Work until nothing is left, without waiting for anything."""
    return run_queue(queue, work, **{"once": True, "settle": 0.0, "backoff": 0.0, "poll": 0.01, **more})


def names(queue: Path, state: str) -> list[str]:
    """The original names of the files in a state."""
    return [job.name for job in Queue(queue).jobs(state)]


def printed(told: Any) -> str:
    """The table of a status, as text."""
    from rich.console import Console

    console = Console(width=200, record=True, file=io.StringIO())
    console.print(told.table())
    return console.export_text()


def until(true: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait for something to be true; gives what it was."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = true()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it never came to that")


def daemon(queue: Path, child: str = SLOW) -> subprocess.Popen[bytes]:
    """A daemon in a process of its own, whose work is a Python script (given the file and the job's folder)."""
    path = os.pathsep.join(filter(None, [str(SOURCES), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(queue), child], env={**os.environ, "PYTHONPATH": path}
    )


def once(queue: Path, command: list[str], **more: Any) -> None:
    """Run a command for each file, with one attempt."""
    run_queue(queue, in_child(lambda job: command), once=True, settle=0.0, backoff=0.0, attempts=1, **more)
