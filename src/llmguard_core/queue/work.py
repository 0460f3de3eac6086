"""What is done with a file: a command in a child process, so that the system itself takes back all memory at its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from llmguard.locks import started
from llmguard.memory.oom import classify_exit
from llmguard.probe.host import Host
from llmguard.probe.kernel import oom_kills
from llmguard_core.queue.jobs import Failed, Interrupted, Job, Work

__all__ = ["end_session", "in_child", "reap", "training", "wait_for_lock"]

GRACE = 30.0  # seconds a child has to save after SIGTERM, as long as Kubernetes gives
LOCK_WAIT = 10.0  # seconds for whoever holds a lock on the file
SLICE = 0.1
END_WAIT = 5.0
TAIL = 400  # characters of the log that go into the reason


def in_child(command: Callable[[Job], Sequence[str]], *, grace: float = GRACE) -> Work:
    """Work that runs a command; exit code 0 is success, all else a failure told with the end of its log."""

    def work(job: Job) -> None:
        with job.log.open("ab") as log:
            child = subprocess.Popen(
                command(job), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        job.note("running", pid=child.pid, started=started(child.pid))
        before = _oom_kills()
        try:
            asked = _wait(child, job, grace)
        finally:
            _end_session(child)
        _judge(child.returncode, asked, job, _oom_kills() - before)

    return work


def training(config: Path) -> Work:
    """`sft` with a run's config, its training file replaced by the job's, its output in `done/<job>/output` once trained."""

    def command(job: Job) -> list[str]:
        from llmguard_core.config import load_config

        settings = load_config(config, objective="queue").model_dump(mode="json", exclude_unset=True)
        settings.setdefault("data", {})["train"] = [str(job.file.absolute())]
        settings.setdefault("train", {})["output_dir"] = str((job.folder / "output").absolute())
        settings.pop("queue", None)
        derived = job.folder / "config.json"
        derived.write_text(json.dumps(settings, indent=1), "utf-8")
        return [sys.executable, "-m", "llmguard_core", "sft", "--config", str(derived)]

    return in_child(command)


def end_session(pid: Any, since: Any) -> None:
    """End a child of an earlier daemon and all of its session; only if it is still that process, not another with its number."""
    if not isinstance(pid, int) or since is None or started(pid) != since:
        return
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    until = time.monotonic() + END_WAIT
    while started(pid) == since and time.monotonic() < until:
        time.sleep(SLICE)


def reap(before: set[int]) -> None:
    """Take leave of children that ended since and that nobody waited for (as process 1 of a container gets them)."""
    if threading.current_thread() is not threading.main_thread():
        return  # other threads may have children of their own to wait for
    for child in psutil.Process().children():
        with suppress(psutil.Error, ChildProcessError):
            if child.pid not in before and child.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(child.pid, os.WNOHANG)


def wait_for_lock(job: Job) -> None:
    """Wait a bounded time for a lock on the file.

    Raises:
        Failed: names the process that holds it.
        Interrupted: the daemon is to stop.
    """
    until = time.monotonic() + LOCK_WAIT
    while (holder := _lock_holder(job.file)) is not None:
        if job.stopping():
            raise Interrupted("the daemon was stopped while the file was locked")
        if time.monotonic() > until:
            raise Failed(f"{job.name}: locked by {holder} for more than {LOCK_WAIT:.0f} s")
        time.sleep(SLICE)


def _lock_holder(path: Path) -> str | None:
    """The process that holds a lock on a file, from the kernel's list; None where nobody does, or nothing tells."""
    try:
        inode, lines = path.stat().st_ino, Path("/proc/locks").read_text("ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if len(fields) > 5 and fields[1] != "->" and "WRITE" in fields and fields[5].endswith(f":{inode}"):
            pid = int(fields[4])
            with suppress(psutil.Error):
                return f"process {pid} ({psutil.Process(pid).name()})"
            return f"process {pid}"
    return None


def _wait(child: subprocess.Popen[bytes], job: Job, grace: float) -> bool:
    """Wait for its end, and tell it to end when the daemon is to; True where it was told."""
    while not job.stopping():
        with suppress(subprocess.TimeoutExpired):
            child.wait(SLICE)
            return False
    child.terminate()
    with suppress(subprocess.TimeoutExpired):
        child.wait(grace)
    return True


def _end_session(child: subprocess.Popen[bytes]) -> None:
    """Nothing of it may live on: its workers hold memory, and its GPU."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _oom_kills() -> int:
    """Processes that the kernel has ended for want of memory: of this control group, else of the machine."""
    return max(Host().cgroup().oom_kills, oom_kills())


def _judge(code: int, asked: bool, job: Job, kills: int = 0) -> None:
    if code == 0:
        return
    if asked:
        raise Interrupted(f"ended by SIGTERM with code {code}")
    with job.log.open("rb") as log:
        log.seek(max(log.seek(0, os.SEEK_END) - TAIL, 0))
        last = log.read().decode("utf-8", "replace").strip()
    kind = classify_exit(code, kills)
    if kind == "host memory":
        raise Failed(
            f"killed for want of host memory, not the GPU's: the kernel ended {kills} processes meanwhile; its log ends: {last}"
        )
    if kind == "killed":
        raise Failed(f"killed by SIGKILL, as the kernel does when memory is exhausted; its log ends: {last}")
    told = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    raise Failed(f"{told}; its log ends: {last}")
