"""What a probe's processes are doing, sampled from `/proc`, and whether anything moved since the last look.

Time alone cannot tell a slow import from one that hangs: a virtual environment on a slow network file system takes
minutes and is fine. So the clock that ends a probe is reset by progress, which is any of: a module imported for the first
time, a step written down by the child, data read or written, file system calls that keep returning, and, where asked,
computing. Printing is no progress (a loop that prints "still waiting" hangs all the same), and neither is
a process that wants to run and gets no processor any evidence of a hang.
"""

from __future__ import annotations

import os
import time

from llmguard.probe import syscalls, tree, waits

__all__ = ["Sample", "Sampler", "Window", "heartbeat"]

_MOVED_BYTES = 64 * 1024
"""Bytes read or written since the last progress that count as progress: above what a polling loop reads, below a module."""
_BUSY_SHARE, _BUSY_SECONDS = 0.1, 0.3
_MOST_THREADS = 64
HERTZ = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Sample:
    """One look at all processes of a probe. Counters only grow while no process ends; bytes are bytes, `ticks` 1/`HERTZ` s."""

    __slots__ = ("beats", "bytes", "fs_moves", "output", "place", "processes", "rss", "runnable", "steps", "switches")
    __slots__ += ("threads", "ticks", "time")

    def __init__(self) -> None:
        self.time = time.monotonic()
        self.beats = self.bytes = self.fs_moves = self.output = self.processes = 0
        self.rss = self.runnable = self.switches = self.ticks = 0
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
        self.dropped = 0
        self._switches: dict[int, int] = {}

    def take(self) -> Sample:
        """Look now. Without `/proc` only the heartbeat, the steps and the output are seen."""
        sample = Sample()
        sample.beats = heartbeat(self.beats)[0]
        sample.steps = _signature(self.progress)
        sample.output = _signature(self.output)[1] + self.dropped
        if self.proc:
            for process in tree.below(os.getpid()):
                self._add(sample, process)
        return sample

    def _add(self, sample: Sample, process: tree.Process) -> None:
        sample.processes += 1
        sample.ticks += process.ticks
        sample.rss += process.rss * PAGE
        sample.bytes += _bytes(process.pid)
        for tid in _tasks(process.pid, process.pid == self.main):
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
        return found | {"wchan": wchan, "switches": switches, "fs_moved": moved and in_files}

    def name_the_files(self, sample: Sample) -> None:
        """Add to the threads that wait for files or locks which call and which file; asked once, at the end."""
        for thread in sample.threads:
            kind = waits.family(str(thread["wchan"]))
            if thread["state"] == "D" or kind in (waits.FILES, waits.LOCK):
                pid, tid = int(str(thread["pid"])), int(str(thread["tid"]))
                thread["call"], thread["file"] = syscalls.blocked_on(pid, tid)


class Window:
    """The time since the last progress: what it was, and what has been seen since."""

    def __init__(self, first: Sample, computing_counts: bool) -> None:
        self.computing_counts = computing_counts
        self.start = self.last = first
        self.reason = ""
        self.places: dict[str, int] = {}

    def add(self, sample: Sample) -> str:
        """Take the next sample into account; returns what moved, "" for nothing."""
        reason = self._moved(sample)
        self.last = sample
        if reason:
            self.start, self.reason, self.places = sample, reason, {}
            return reason
        place = sample.place
        self.places[place] = self.places.get(place, 0) + 1
        return ""

    def seconds(self) -> float:
        """How long nothing has moved, up to now."""
        return time.monotonic() - self.start.time

    def _moved(self, sample: Sample) -> str:
        start, before = self.start, self.last
        if sample.beats > start.beats:
            return "imports"
        if sample.steps != start.steps:
            return "steps"
        # printing counts as writing for the kernel: it is taken off again
        if sample.bytes - start.bytes - max(0, sample.output - start.output) >= _MOVED_BYTES:
            return "reading"
        if sample.fs_moves:
            return "files"
        ticks = sample.ticks - start.ticks
        if self.computing_counts and ticks >= HERTZ * max(_BUSY_SECONDS, _BUSY_SHARE * (sample.time - start.time)):
            return "computing"
        # wants to run at two looks in a row and got no processor in between: the machine's fault, not a hang
        waiting = sample.runnable and before.runnable and sample.ticks <= before.ticks
        if waiting and sample.time - before.time >= 2 / HERTZ:
            return "starved"
        return ""

    def summary(self) -> dict[str, object]:
        """The window as plain data for the parent: differences from its first to its last sample."""
        first, last = self.start, self.last
        return {
            "seconds": round(time.monotonic() - first.time, 3),
            "cpu_seconds": round(max(0, last.ticks - first.ticks) / HERTZ, 2),
            "switches": max(0, last.switches - first.switches),
            "bytes": max(0, last.bytes - first.bytes),
            "places": self.places,
            "last_progress": self.reason,
        }


def heartbeat(path: str) -> tuple[int, str, str, str]:
    """The child's heartbeat: modules imported so far, the last one, the last file opened, the last lock file opened."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - no pathlib: start-up time
            data = file.read(4096)
    except OSError:
        data = b""
    texts = [_text(data, start) for start in (8, 1024, 2048)]
    return int.from_bytes(data[:8], "little"), texts[0], texts[1], texts[2]


def _text(data: bytes, start: int) -> str:
    size = int.from_bytes(data[start : start + 2], "little")
    return data[start + 2 : start + 2 + size].decode("utf-8", "replace")


def _signature(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116 - no pathlib: start-up time
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def _tasks(pid: int, all_of_them: bool) -> list[int]:
    if not all_of_them:
        return [pid]
    try:
        names = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - no pathlib: start-up time
    except OSError:
        return []
    return sorted((int(name) for name in names), key=lambda tid: (tid != pid, tid))[:_MOST_THREADS]


def _voluntary(status: str) -> int:
    _, _, rest = status.partition("\nvoluntary_ctxt_switches:")
    return int(rest.split(None, 1)[0]) if rest else 0


def _bytes(pid: int) -> int:
    """Bytes that a process read or wrote: through calls (rchar, wchar) and from the device (mapped files)."""
    counts = 0
    for line in tree.read(f"/proc/{pid}/io").splitlines():
        name, _, value = line.partition(": ")
        if name in ("rchar", "wchar", "read_bytes"):
            counts += int(value)
    return counts
