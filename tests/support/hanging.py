"""Processes that beat as a training run does, and then stand still in one way or another; and what the watchdog wrote of them."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["processes", "report_in"]

RUN = """
import ctypes, os, sys, threading, time
from pathlib import Path
from llmguard_core.training.watchdog import Pulse

def hold_the_gil_for_ever():
    library = ctypes.PyDLL(None)  # PyDLL does not let go of the GIL
    lock = ctypes.create_string_buffer(64)
    library.pthread_mutex_lock(lock)
    library.pthread_mutex_lock(lock)

def wait_without_the_gil():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()

def spin():
    while True:
        pass

def another_thread():
    time.sleep(600)

threading.Thread(target=another_thread, daemon=True).start()
pulse = Pulse(Path(sys.argv[1]) / "hang-report.json", poll=0.05, grace=1.0)
for _ in range(8):
    time.sleep(0.02)
    pulse.beat("a training step", 7, 0.5, {end_after})
print("standing still", flush=True)
{hang}
"""


def started(folder: Path, hang: str, *, end_after: float = 2.0) -> subprocess.Popen[str]:
    """A process that beats eight times and then does `hang`."""
    script = folder / "script.py"
    script.write_text(textwrap.dedent(RUN).format(hang=hang, end_after=end_after))
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "standing still\n"
    return process


def report_in(folder: Path, seconds: float = 25.0) -> dict[str, Any]:
    """The report, once it is there."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if (folder / "hang-report.json").exists():
            return dict(json.loads((folder / "hang-report.json").read_text()))
        time.sleep(0.05)
    raise AssertionError("no report")


@contextmanager
def processes(folder: Path) -> Iterator[Any]:
    """Starts such processes, and ends them."""
    made: list[subprocess.Popen[str]] = []

    def start(hang: str, **told: float) -> subprocess.Popen[str]:
        made.append(started(folder, hang, **told))
        return made[-1]

    yield start
    for process in made:
        process.kill()
        process.communicate()
