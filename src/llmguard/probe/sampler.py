# ruff: noqa: PTH208 - a supervisor starts in half the time without pathlib
"""What a probe's processes are doing, sampled from `/proc`, and whether anything moved since the last look.

Time alone cannot tell a slow import from one that hangs: a virtual environment on a slow network file system
takes minutes and is fine. So the clock that ends a probe is reset by progress, which is any of: a module
imported for the first time, a step written down by the child, data read or written, file system calls that
keep returning, and, where asked, computing. Printing is no progress (a loop that prints "still waiting" hangs
all the same), and neither is a process that wants to run and gets no processor any evidence of a hang.
"""

from __future__ import annotations

import os
import time

from llmguard.probe import files, syscalls, tree, waits

__all__ = ["Sample", "Sampler", "Window"]

_MOVED_BYTES = 64 * 1024
"""Bytes read or written since the last progress that count as progress: above what a polling loop reads,
below a module."""
_BUSY_SHARE, _BUSY_SECONDS = 0.1, 0.05
_MOST_THREADS = 64
HERTZ = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Sample:
    """One look at all processes of a probe; counters grow while no process ends, `ticks` are 1/`HERTZ` s."""

    def __init__(self) -> None:
        self.time = time.monotonic()
        self.beats = self.fs_moves = self.output = self.processes = 0
        self.read = self.written = self.rss = self.runnable = self.switches = self.ticks = 0
        self.place = ""
        self.steps: tuple[int, int] = (0, 0)
        self.threads: list[dict[str, object]] = []


class Sampler:
    """Takes samples of everything below the supervisor; `main` is the probe's own process.

    `dropped` counts the bytes of output that were cut off its file, so that printing stays told from writing.
    """

    def __init__(self, main: int, beats: str, progress: str, output: str) -> None:
        self.main, self.beats, self.progress, self.output = main, beats, progress, output
        self.proc = tree.has_proc()
        self.dropped = self.listener = 0
        self._switches: dict[int, int] = {}

    def take(self) -> Sample:
        """Look now. Without `/proc` only the heartbeat, the steps and the output are seen."""
        sample = Sample()
        sample.beats, _, self.listener = files.heartbeat(self.beats)
        sample.steps = files.signature(self.progress)
        sample.output = files.signature(self.output)[1] + self.dropped
        if self.proc:
            for process in tree.below(os.getpid()):
                self._add(sample, process)
        return sample

    def _add(self, sample: Sample, process: tree.Process) -> None:
        sample.processes += 1
        sample.ticks += process.ticks
        sample.rss += process.rss * PAGE
        counts = _bytes(process.pid)
        sample.read += counts.get("rchar", 0) + counts.get("read_bytes", 0)
        sample.written += counts.get("wchar", 0)
        for tid in _tasks(process.pid, process.pid == self.main):
            if tid == self.listener:
                continue  # ours: it would look like a thread that might free the others
            thread = self._thread(process, tid)
            sample.threads.append(thread)
            if tid == self.main:
                sample.place = f"{thread['state']} {thread['wchan']}"
            sample.switches += int(str(thread["switches"]))
            sample.runnable += thread["state"] == "R"
            sample.fs_moves += bool(thread.pop("fs_moved"))

    def _thread(self, process: tree.Process, tid: int) -> dict[str, object]:
        base = f"/proc/{process.pid}/task/{tid}"
        state = tree.read(f"{base}/stat").rpartition(")")[2].split()[:1] or [process.state]
        switches = _voluntary(tree.read(f"{base}/status"))
        wchan = tree.read(f"{base}/wchan")
        moved = switches != self._switches.get(tid, switches)
        self._switches[tid] = switches
        in_files = waits.family(wchan) == waits.FILES or state[0] == "D"
        found: dict[str, object] = {"pid": process.pid, "tid": tid, "name": process.name, "state": state[0]}
        return {**found, "wchan": wchan, "switches": switches, "fs_moved": moved and in_files}

    def name_the_files(self, sample: Sample) -> None:
        """Add to threads that wait for files or locks which call and which file; asked once, at the end."""
        for thread in sample.threads:
            kind = waits.family(str(thread["wchan"]))
            if thread["state"] == "D" or kind in (waits.FILES, waits.LOCK):
                pid, tid = int(str(thread["pid"])), int(str(thread["tid"]))
                thread["call"], thread["file"] = syscalls.blocked_on(pid, tid)


class Window:
    """The time since the last progress: what it was, and what has been seen since.

    Time in which the probe could not have moved does not count: when it wanted to run and got no processor, and when
    this process itself was late (a container that was paused).
    """

    def __init__(self, first: Sample, computing_counts: bool) -> None:
        self.computing_counts = computing_counts
        self.start = self.last = first
        self.silent_since = first.time
        self.reason = ""
        self.places: dict[str, int] = {}

    def add(self, sample: Sample) -> str:
        """Take the next sample into account; returns what moved, "" for nothing."""
        reason = self._moved(sample)
        if not reason and self._starved(sample):
            self.forgive(sample.time - self.last.time)
        self.last = sample
        if reason:
            self.start, self.silent_since, self.reason, self.places = sample, sample.time, reason, {}
            return reason
        place = sample.place
        self.places[place] = self.places.get(place, 0) + 1
        return ""

    def forgive(self, seconds: float) -> None:
        """Take a time out of the silence."""
        self.silent_since = min(self.silent_since + seconds, time.monotonic())

    def seconds(self) -> float:
        """How long nothing had moved when it was looked at last."""
        return max(0.0, self.last.time - self.silent_since)

    def _moved(self, sample: Sample) -> str:
        start = self.start
        moved = {
            "imports": sample.beats > start.beats,
            "steps": sample.steps != start.steps,
            "reading": self._read(sample) >= _MOVED_BYTES,
            # waiting for the disk while printing is printing
            "files": sample.fs_moves > 0 and sample.output == self.last.output,
            "computing": self.computing_counts and self._computed(sample),
        }
        return next((reason for reason, true in moved.items() if true), "")

    def _read(self, sample: Sample) -> int:
        """Bytes moved. Printing is writing for the kernel: where there was some, writing says nothing."""
        start = self.start
        written = sample.written - start.written if sample.output == start.output else 0
        return sample.read - start.read + written

    def _computed(self, sample: Sample) -> bool:
        seconds = sample.time - self.start.time
        return sample.ticks - self.start.ticks >= HERTZ * max(_BUSY_SECONDS, _BUSY_SHARE * seconds)

    def _starved(self, sample: Sample) -> bool:
        """Wanted to run at two looks in a row and got no processor in between: the machine's fault."""
        waiting = sample.runnable and self.last.runnable and sample.ticks <= self.last.ticks
        return bool(waiting) and sample.time - self.last.time >= 2 / HERTZ

    def summary(self) -> dict[str, object]:
        """The window as plain data for the parent: differences from its first to its last sample."""
        first, last = self.start, self.last
        return {
            "seconds": round(self.seconds(), 3),
            "cpu_seconds": round(max(0, last.ticks - first.ticks) / HERTZ, 2),
            "switches": max(0, last.switches - first.switches),
            "bytes": max(0, last.read - first.read + last.written - first.written),
            "places": self.places,
            "last_progress": self.reason,
        }


def _tasks(pid: int, all_of_them: bool) -> list[int]:
    if not all_of_them:
        return [pid]
    try:
        names = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    return sorted((int(name) for name in names), key=lambda tid: (tid != pid, tid))[:_MOST_THREADS]


def _voluntary(status: str) -> int:
    _, _, rest = status.partition("\nvoluntary_ctxt_switches:")
    return int(rest.split(None, 1)[0]) if rest else 0


def _bytes(pid: int) -> dict[str, int]:
    """Bytes that a process read or wrote: through calls (rchar, wchar) and from the device (read_bytes:
    mapped files)."""
    lines = (line.partition(": ") for line in tree.read(f"/proc/{pid}/io").splitlines())
    return {name: int(value) for name, _, value in lines}
