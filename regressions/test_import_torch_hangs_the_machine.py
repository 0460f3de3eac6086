"""`import torch` never comes back, and neither does the shell that it was typed in.

Symptom: `import torch` hangs, Ctrl-C does nothing, each further try takes more handles and memory; in the end ssh is dead.
Severity: critical
Cause: a broken pod: CUDA initialisation waits inside a library for what never comes, so that no signal reaches Python, and what it
    started beside it stays.
First seen: written down by a fine-tuning project as critical; https://github.com/pytorch/pytorch/issues/137260
Cost: the machine, with what was running on it, and the rent until somebody noticed.
Check: torch_imports_in_time
Lesson: try `import torch` in a process of its own that is limited, watched and ended, before the script imports it.
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
from support.processes import alive, state_of

from llmguard import require, torch_imports_in_time
from llmguard.errors import CheckFailed
from llmguard.probe import Limits, ProbeResult, Verdict, python
from llmguard.probe.environment import Environment

TORCH = """
import ctypes, os, sys, time
helper = os.fork()
if helper == 0:
    os.setsid()
    time.sleep(1e6)
open(os.environ["PIDS"], "a").write(f"{os.getpid()} {helper}\\n")
lock, pthread = ctypes.create_string_buffer(64), ctypes.PyDLL(None)
pthread.pthread_mutex_lock(lock)
print("initialising CUDA", flush=True)
pthread.pthread_mutex_lock(lock)
"""
"""A library that starts a helper and then waits for a lock in C, with the interpreter's own lock held."""
PATIENCE = 1.0


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A broken machine: every process started here finds such a torch; what is left over at the end is ended."""
    (tmp_path / "site" / "torch").mkdir(parents=True)
    (tmp_path / "site" / "torch" / "__init__.py").write_text(TORCH, "utf-8")
    (tmp_path / "pids").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setenv("PIDS", str(tmp_path / "pids"))
    yield tmp_path
    for pid in _alive(tmp_path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def broken() -> subprocess.Popen[str]:
    """The script, whose first line is the import."""
    return subprocess.Popen([sys.executable, "-c", "import torch"], stdout=subprocess.PIPE, text=True)


def fixed() -> ProbeResult:
    """The same import in a probe: limited, watched, and ended with all that came of it."""
    limits = Limits(data=2**30, open_files=256, processes=64)
    return python(
        "import torch", timeout=60, no_progress=PATIENCE, computing_is_progress=False, limits=limits,
        what="import of torch",
    )  # fmt: skip


def _wait_in_the_library(script: subprocess.Popen[str]) -> None:
    """Until the script sleeps in the call that never comes back."""
    assert script.stdout is not None
    assert script.stdout.readline() == "initialising CUDA\n"
    until = time.monotonic() + 30
    while state_of(script.pid) != "S" and time.monotonic() < until:
        time.sleep(0.01)


def _alive(pod: Path) -> list[int]:
    """The processes of the import that are still there."""
    return alive(map(int, (pod / "pids").read_text("utf-8").split()))


def test_witness(pod: Path) -> None:
    """Ctrl-C ends nothing; SIGKILL ends the script, and its helper lives on. The probe leaves nobody."""
    with broken() as script:
        _wait_in_the_library(script)
        script.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            script.wait(0.5)
        assert len(_alive(pod)) == 2
        script.kill()
        assert script.wait(10) == -signal.SIGKILL
        (helper,) = _alive(pod)
        os.kill(helper, signal.SIGKILL)
    assert fixed().verdict is Verdict.DEADLOCK
    assert len((pod / "pids").read_text("utf-8").splitlines()) == 2, (
        "the probe did not get as far as the import"
    )
    assert _alive(pod) == []


def test_check_rejects(pod: Path) -> None:
    """With the line of the library that it waits in, within its patience, and nobody is alive behind it."""
    environment = Environment(str(pod), torch_needed_by="[model] path", import_timeout=PATIENCE)
    with pytest.raises(CheckFailed, match="deadlocked") as caught:
        require(torch_imports_in_time(environment))
    assert "torch/__init__.py:11" in str(caught.value)
    assert _alive(pod) == []


@pytest.mark.needs_torch
def test_check_accepts(tmp_path: Path) -> None:
    """The torch of this machine."""
    found = torch_imports_in_time(Environment(str(tmp_path), torch_needed_by="[model] path"))
    require(found)
    assert found.looked_at == 1
