"""A process beside a training run that sees it stand still: standard library only, run by its path; and the run's side of it.

    python watchdog.py '{"pid": …, "beat": fd, "stacks": fd, "signal": …, "report": "…/hang-report.json", "poll": 0.5, "grace": 30}'

It reads a counter from memory that it shares with the run. When the counter stands still for too long it asks for the stacks of all
threads by a signal whose handler is written in C and needs no GIL, looks at /proc, and writes a report; later, where it may, it ends
the run by SIGTERM and then SIGKILL. It ends by itself when the run does.
"""

from __future__ import annotations

import faulthandler
import json
import mmap
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["PHASES", "SIZE", "Beat", "Pulse"]

PHASES = ("starting", "a training step", "evaluating", "saving", "done")
LAYOUT = struct.Struct("<Qqddq")
SIZE = LAYOUT.size
SIGNAL = signal.SIGRTMAX - 3 if hasattr(signal, "SIGRTMAX") else signal.SIGUSR2
"""One that schedulers, torch and `SaveOnSignal` leave alone."""
LOOKS = 10  # at the threads, in the second between two stacks


class Beat(NamedTuple):
    """What the run says: a counter that moves with all work, the optimizer step, seconds until a report and the end, the phase."""

    counter: int
    step: int
    report_after: float
    end_after: float
    phase: int

    def write(self, memory: mmap.mmap) -> None:
        """Put it where the watchdog reads."""
        LAYOUT.pack_into(memory, 0, *self)

    @classmethod
    def read(cls, memory: mmap.mmap) -> Beat:
        """What was written last."""
        return cls(*LAYOUT.unpack_from(memory, 0))


class Pulse:
    """The run's side: the shared counter, the signal that has C code write all stacks, and the process that watches."""

    def __init__(self, report: Path, *, poll: float, grace: float) -> None:
        report.parent.mkdir(parents=True, exist_ok=True)
        self._beat, self._stacks = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115  # closed by stop()
        self._beat.truncate(SIZE)
        self.memory, self.counter = mmap.mmap(self._beat.fileno(), SIZE), 0
        self.beat("starting", 0, 3600.0, 0.0)
        faulthandler.register(SIGNAL, file=self._stacks, all_threads=True, chain=False)
        handles = (self._beat.fileno(), self._stacks.fileno())
        settings = {
            "pid": os.getpid(), "beat": handles[0], "stacks": handles[1], "signal": int(SIGNAL), "report": str(report), "poll": poll,
            "grace": grace,
        }  # fmt: skip
        command = [sys.executable, "-I", "-S", __file__, json.dumps(settings)]
        self.process = subprocess.Popen(
            command, pass_fds=handles, stdin=subprocess.DEVNULL, start_new_session=True
        )

    def beat(self, phase: str, step: int, report_after: float, end_after: float) -> None:
        """Say that something was done: cheap, no system call. Seconds from now until a report, and until the end (0: never)."""
        self.counter += 1
        Beat(self.counter, step, report_after, end_after, PHASES.index(phase)).write(self.memory)

    def stop(self) -> None:
        """End the process, and free what was shared with it."""
        self.beat("done", 0, 0.0, 0.0)
        self.process.terminate()
        self.process.wait()
        faulthandler.unregister(SIGNAL)
        self.memory.close()
        self._beat.close()
        self._stacks.close()


def watch(settings: dict[str, Any]) -> None:
    """Until the run is done or dead, report each time it stands still; end it where that was asked for."""
    memory = mmap.mmap(settings["beat"], SIZE, prot=mmap.PROT_READ)
    pid, killed_before = settings["pid"], _oom_kills()
    last, since, told = Beat.read(memory), time.monotonic(), False
    while True:
        time.sleep(settings["poll"])
        now = Beat.read(memory)
        if PHASES[now.phase] == "done":
            return
        if os.getppid() != pid:
            if _oom_kills() > killed_before or now.counter:
                _write(settings, _death(now, _oom_kills() - killed_before))
            return
        if now.counter != last.counter:
            last, since, told = now, time.monotonic(), False
            continue
        still = time.monotonic() - since
        if still > now.report_after and not told:
            told = True
            _write(settings, {**_stall(settings, now, still), "ended": False})
        if still > now.end_after > 0:
            _write(settings, {**_stall(settings, now, still), "ended": True})
            _end(pid, settings["grace"])
            return


def _stall(settings: dict[str, Any], now: Beat, still: float) -> dict[str, Any]:
    pid = settings["pid"]
    busy, first, running = _cpu_seconds(pid), _stacks(settings), 0
    for _ in range(LOOKS):
        time.sleep(1.0 / LOOKS)
        running += any(t["state"] == "R" for t in _threads(pid))
    busy, second = _cpu_seconds(pid) - busy, _stacks(settings)
    threads, computes = (
        _threads(pid),
        busy > 0.5 or running > LOOKS / 2,
    )  # on a busy machine it waits for its turn
    return {
        "verdict": "stalled", "pid": pid, "step": now.step, "phase": PHASES[now.phase], "seconds": round(still, 1),
        "diagnosis": _diagnosis(threads, computes, bool(second)), "cpu_seconds_in_one_second": round(busy, 2),
        "stack_changes": bool(first and second) and first != second, "stacks": second or first, "threads": threads,
    }  # fmt: skip


def _diagnosis(threads: list[dict[str, str]], computes: bool, has_stacks: bool) -> str:
    states = {t["state"] for t in threads}
    if states <= {"T", "t"}:
        return "stopped by a signal (SIGSTOP, or a debugger): SIGCONT lets it go on"
    if "D" in states:
        return "waits for a disk or a driver and cannot be interrupted"
    if computes:
        return "computes without getting on"
    return (
        "waits without computing: a lock, another process or the network"
        if has_stacks
        else "waits, and answers no signal"
    )


def _stacks(settings: dict[str, Any]) -> str:
    """Python stacks of all threads, as the run's faulthandler writes them when it gets the signal; empty where it cannot."""
    handle = settings["stacks"]
    start = os.fstat(handle).st_size
    os.kill(settings["pid"], settings["signal"])
    size, until = start, time.monotonic() + 2.0
    while time.monotonic() < until:
        time.sleep(0.05)
        before, size = size, os.fstat(handle).st_size
        if size > start and size == before:
            break
    return os.pread(handle, min(size - start, 1 << 20), start).decode("utf-8", "replace")


def _threads(pid: int) -> list[dict[str, str]]:
    found = []
    for task in sorted(Path(f"/proc/{pid}/task").glob("*"))[:200]:
        try:
            stat = (task / "stat").read_text()
            waits = (task / "wchan").read_text()
        except OSError:
            continue
        name, _, rest = stat.partition("(")[2].rpartition(")")
        found.append({"thread": task.name, "name": name, "state": rest.split()[0], "waits_in": waits})
    return found


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))


def _death(last: Beat, kills: int) -> dict[str, Any]:
    cause = (
        "the kernel's OOM killer ended a process of this group: host memory, not the GPU's"
        if kills
        else "a signal that cannot be caught, or os._exit"
    )
    return {
        "verdict": "died",
        "step": last.step,
        "phase": PHASES[last.phase],
        "diagnosis": cause,
        "oom_kills": kills,
    }


def _oom_kills() -> int:
    """How many processes of this cgroup the kernel has killed for memory (cgroup v2, v1)."""
    try:
        group = Path("/proc/self/cgroup").read_text().splitlines()[-1].rpartition(":")[2].lstrip("/")
    except OSError:
        return 0
    for file in (
        f"/sys/fs/cgroup/{group}/memory.events",
        f"/sys/fs/cgroup/memory/{group}/memory.oom_control",
    ):
        try:
            counts = dict(line.split() for line in Path(file).read_text().splitlines())
        except (OSError, ValueError):
            continue
        return int(counts.get("oom_kill", 0))
    return 0


def _end(pid: int, grace: float) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        until = time.monotonic() + grace
        while time.monotonic() < until:
            if os.getppid() != pid:
                return
            time.sleep(0.1)


def _write(settings: dict[str, Any], report: dict[str, Any]) -> None:
    line = ", ".join(f"{k}: {v}" for k, v in report.items() if k not in ("stacks", "threads"))
    sys.stderr.write(f"watchdog: {line}; {settings['report']}\n")
    sys.stderr.flush()
    try:
        path = Path(settings["report"])
        beside = path.with_name(f".{path.name}.new")
        beside.write_text(json.dumps(report, indent=1), "utf-8")
        beside.replace(path)
    except OSError as error:
        sys.stderr.write(f"watchdog: the report could not be written: {error}\n{report.get('stacks', '')}\n")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    watch(json.loads(sys.argv[1]))
