"""A timeout ends the child, and what the child has started lives on.

Symptom: after a run that timed out the GPU is still full, ports are taken and the next run is slow; or reading the output never ends.
Severity: medium
Cause: the timeout of subprocess.run kills the process that it started and nobody else: launchers, shells and data loaders leave their own.
    And they keep the pipe: whoever reads it to its end waits for them, whatever the timeout of the child was.
First seen: CPython 3.11, `subprocess.run`; measured here
Cost: machines that were restarted to get their memory back.
Check: llmguard.probe.run
Lesson: bound the whole tree: a session of its own, output to a file, and at the end nobody left.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes import alive

from llmguard import probe
from llmguard.probe import ProbeResult

LAUNCHER = """
import subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
with open(sys.argv[1], "w") as file:
    file.write(f"{worker.pid}\\n")
print("started", flush=True)
if sys.argv[2] == "waits":
    worker.wait()
"""
"""Starts a worker that inherits its output, and waits for it, or not."""
SECONDS = 1.0


@pytest.fixture
def pids(tmp_path: Path) -> Iterator[Path]:
    """Where the launcher writes its worker's number; a worker that is left at the end is ended."""
    file = tmp_path / "pids"
    file.touch()
    yield file
    for pid in _alive(file):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _command(pids: Path, how: str) -> list[str]:
    return [sys.executable, "-c", LAUNCHER, str(pids), how]


def broken(pids: Path, how: str = "waits") -> subprocess.CompletedProcess[str]:
    """A run with a timeout, as everybody writes it."""
    return subprocess.run(_command(pids, how), capture_output=True, text=True, timeout=SECONDS, check=False)


def fixed(pids: Path, how: str = "waits") -> ProbeResult:
    """The same in a probe."""
    return probe.run(_command(pids, how), timeout=SECONDS)


def _alive(pids: Path) -> list[int]:
    """The workers that still run."""
    return alive(map(int, pids.read_text("utf-8").split()))


def test_witness(pids: Path) -> None:
    """The launcher is gone in time, and its worker is not."""
    with pytest.raises(subprocess.TimeoutExpired):
        broken(pids)
    assert len(_alive(pids)) == 1


def test_witness_of_the_pipe(pids: Path) -> None:
    """The launcher has ended well at once; who reads its output waits for the worker until the time is up, and gets no result."""
    began = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        broken(pids, "goes")
    assert time.monotonic() - began >= SECONDS
    assert len(_alive(pids)) == 1


def test_check_rejects(pids: Path) -> None:
    """In time, with its verdict, and nobody is left."""
    result = fixed(pids)
    assert not result.ok
    assert "started" in result.output
    assert _alive(pids) == []


def test_check_accepts(pids: Path) -> None:
    """A launcher that ends well is well, its output is there, and the worker that it left is told and ended."""
    result = fixed(pids, "goes")
    assert result.ok
    assert result.output.strip() == "started"
    assert [left.name for left in result.leftovers] != []
    assert _alive(pids) == []
