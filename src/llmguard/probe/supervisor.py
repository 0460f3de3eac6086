# ruff: noqa: PTH104, PTH106, PTH108, PTH110, PTH123, PTH208 - a supervisor starts in half the time without pathlib
"""The process between a probe and what it runs: it starts it, watches it, ends all of it, and writes down
what it saw.

It is its own process so that orphans of the probe have someone to belong to (a subreaper; pytest itself must
not be one, it would inherit orphans that are none of its business), so that a pytest that is killed leaves
nothing behind, and so that nothing that hangs can hang pytest. It never waits without a bound, and it
abandons what cannot be killed.

It runs as `python -I -S` with this package alone, without `llmguard/__init__.py`: see `launch.BOOT`.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time

from llmguard.probe import files, kernel, tree
from llmguard.probe.sampler import Sample, Sampler, Window

__all__ = ["main"]

REAP_SECONDS = 0.8
"""How long a process may take to die of SIGKILL before it is abandoned."""
LATE_SECONDS = 1.0
"""A look that is later than this says that the machine stood still, not the probe."""
STRAGGLER_SECONDS = 0.2
"""How long the children of a probe that has ended may take to follow it before they are called leftovers."""


class Supervisor:
    """One probe from start to end. `spec` is what the parent wrote: see `launch.Spec`."""

    def __init__(self, folder: str, lifeline: int, done: int, parent: int) -> None:
        with open(f"{folder}/spec.json", encoding="utf-8") as file:
            self.spec = json.load(file)
        self.folder, self.lifeline, self.parent, self.own = folder, lifeline, parent, os.getpid()
        self.pipes = (lifeline, done)  # `done` is only held: it closes when this process ends
        self.status: int | None = None
        self.started = time.monotonic()
        self.exec_errno: int | None = None
        self.executed = self.terminated = False
        self.peak_rss = self.peak_processes = 0
        self.notes: list[str] = []

    def run(self) -> None:
        """Start, watch, end, report."""
        if not kernel.become_subreaper():
            self.notes.append(
                "no subreaper here: processes that left the probe's process group are not found"
            )
        ooms = kernel.oom_kills()
        self.wake = kernel.wake_on_children()
        signal.signal(signal.SIGTERM, self._told_to_end)
        self.child, self.exec_pipe = self._start()
        paths = (f"{self.folder}/beats", self.spec["progress_file"], f"{self.folder}/output")
        self.sampler = Sampler(self.child, *paths)
        self.window = Window(self.sampler.take(), self.spec["computing_counts"])
        self.ended = self._watch()
        seconds, window = time.monotonic() - self.started, self.window.summary()
        last = self._ask_where() if self.status is None else self.sampler.take()
        leftovers = self._stragglers() if self.status is not None else []
        found = self._describe(last, leftovers) | {"seconds": round(seconds, 3), "window": window}
        survivors = self._end()
        self._report(
            found | {"oom_kills": kernel.oom_kills() - ooms, "survivors": survivors, "status": self.status}
        )

    # -- start

    def _start(self) -> tuple[int, int]:
        """Fork, and exec in the fork: not even a program on a dead mount can block this process."""
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(read_end)
                self._become_child()
            except OSError as why:
                os.write(write_end, str(why.errno or 0).encode())
            except BaseException as why:
                os.write(2, repr(why).encode())
            finally:
                os._exit(127)
        os.close(write_end)
        return child, read_end

    def _become_child(self) -> None:
        for end in self.pipes:  # not left to exec, which may never come about
            os.close(end)
        os.setsid()
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        kernel.die_with_parent(self.own)
        nowhere = os.open(os.devnull, os.O_RDONLY)
        output = os.open(f"{self.folder}/output", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        for source, target in ((nowhere, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        kernel.apply_limits(self.spec["limits"])
        if self.spec["cwd"]:
            os.chdir(self.spec["cwd"])
        os.execvpe(self.spec["argv"][0], self.spec["argv"], self.spec["env"])

    # -- watch

    def _watch(self) -> str:
        """Until it ends by itself, or has to be ended; returns which."""
        deadline = self.started + self.spec["timeout"]
        self.pause, longest = 0.02, self._longest_pause()
        look = self.started + self.pause
        while True:
            self._sleep(max(0.0, min(look, deadline) - time.monotonic()))
            self._reap(tree.reap())
            if self.status is not None:
                return "exit" if self.exec_errno is None else "exec"
            if self._called_off():
                return "orphaned" if self.terminated or os.getppid() != self.parent else "cancel"
            if time.monotonic() >= deadline:
                return "deadline"
            if (now := time.monotonic()) >= look:
                if now - look > LATE_SECONDS:
                    self.window.forgive(now - look)
                if verdict := self._look():
                    return verdict
                self.pause = min(self.pause * 1.5, longest)
                look = now + self.pause

    def _longest_pause(self) -> float:
        """One look a second where there is time; ten where memory or processes could run away."""
        limits = self.spec["limits"]
        guarded = limits.get("memory") or limits.get("processes")
        window = min(self.spec["no_progress"] or self.spec["timeout"], self.spec["timeout"])
        return float(max(0.05, min(0.1 if guarded else 1.0, window / 20)))

    def _sleep(self, seconds: float) -> None:
        waiting = [self.lifeline, self.wake, *([self.exec_pipe] if not self.executed else [])]
        ready, _, _ = select.select(waiting, [], [], seconds)
        if self.wake in ready:
            os.read(self.wake, 4096)
        if not self.executed and self.exec_pipe in ready:
            text = os.read(self.exec_pipe, 64)
            self.executed, self.exec_errno = True, int(text) if text else None

    def _told_to_end(self, *_: object) -> None:
        """A probe around this one ends: there is no time for grace, and nobody will read the report."""
        self.terminated, self.spec["kill_grace"] = True, 0

    def _called_off(self) -> bool:
        if self.terminated or os.getppid() != self.parent:
            return True
        ready, _, _ = select.select([self.lifeline], [], [], 0)
        return bool(ready)

    def _look(self) -> str:
        sample = self.sampler.take()
        self.peak_rss = max(self.peak_rss, sample.rss)
        self.peak_processes = max(self.peak_processes, sample.processes)
        flood = files.cap(f"{self.folder}/output", self.spec["max_output"])
        self.sampler.dropped += flood
        self.pause = 0.02 if flood else self.pause
        self.window.add(sample)
        limits = self.spec["limits"]
        if limits.get("processes") and sample.processes > limits["processes"]:
            return "processes"
        if limits.get("memory") and sample.rss > limits["memory"]:
            return "memory"
        patience = self.spec["no_progress"]
        return "no_progress" if patience and self.window.seconds() >= patience else ""

    def _reap(self, reaped: dict[int, int]) -> None:
        if self.child in reaped:
            self.status = reaped[self.child]

    # -- end

    def _ask_where(self) -> Sample:
        """A last look at what hangs, and the Python stack of it, before it is killed."""
        sample = self.sampler.take()
        if self.ended in ("no_progress", "deadline"):
            self.sampler.name_the_files(sample)
            if not (files.ask(f"{self.folder}/ask") and self._wait_for("asked", 0.25)):
                self._ask_by_signal()
        return sample

    def _ask_by_signal(self) -> None:
        """The handler in C answers also where the interpreter's lock is held; the other one names lock files."""
        for number in (kernel.DUMP_SIGNAL, kernel.ASK_SIGNAL):
            if self._catches(number):
                try:
                    os.kill(self.child, number)
                except OSError:  # it has become another user, or has just ended
                    return
        self._wait_for("asked", 0.25 if self._catches(kernel.ASK_SIGNAL) else 0.05)

    def _catches(self, number: int) -> bool:
        """Whether the child has a handler for a signal; one without would die of it."""
        for line in tree.read(f"/proc/{self.child}/status").splitlines():
            if line.startswith("SigCgt:"):
                return number > 0 and bool(int(line.split()[1], 16) >> (number - 1) & 1)
        return False

    def _wait_for(self, name: str, seconds: float) -> bool:
        stop = time.monotonic() + seconds
        while not os.path.exists(f"{self.folder}/{name}"):
            if time.monotonic() >= stop:
                return False
            time.sleep(0.01)
        return True

    def _stragglers(self) -> list[dict[str, object]]:
        """What the probe left alive although it has ended by itself."""
        stop = time.monotonic() + STRAGGLER_SECONDS
        while (left := self._below()) and time.monotonic() < stop:
            time.sleep(0.01)
            tree.reap()
        return [{"pid": process.pid, "name": process.name} for process in left]

    def _below(self) -> list[tree.Process]:
        return tree.below(os.getpid()) if self.sampler.proc else []

    def _end(self) -> list[dict[str, object]]:
        if not self.sampler.proc:
            return self._end_group()
        reaped, left = tree.end(os.getpid(), self.spec["kill_grace"], REAP_SECONDS)
        self._reap(reaped)
        if not left:
            return []
        last = self.sampler.take()
        self.sampler.name_the_files(last)
        return [_survivor(thread, left) for thread in last.threads if thread["pid"] == thread["tid"]]

    def _end_group(self) -> list[dict[str, object]]:
        """Without `/proc`: the process group is all that is known."""
        for number, seconds in ((signal.SIGTERM, self.spec["kill_grace"]), (signal.SIGKILL, REAP_SECONDS)):
            stop = time.monotonic() + seconds
            try:
                os.killpg(self.child, number)
            except OSError:
                break
            while self.status is None and time.monotonic() < stop:
                self._reap(tree.reap())
                time.sleep(0.01)
        alive = {
            "pid": self.child,
            "name": "",
            "state": "",
            "wchan": "",
            "call": "",
            "file": "",
            "refused": "",
        }
        return [alive] if self.status is None else []

    # -- report

    def _describe(self, last: Sample, leftovers: list[dict[str, object]]) -> dict[str, object]:
        imports, last_import, _ = files.heartbeat(f"{self.folder}/beats")
        return {
            "ended": self.ended, "executed": self.executed, "exec_errno": self.exec_errno,
            "imports": imports, "last_import": last_import, "threads": last.threads,
            "last_step": files.last_line(self.spec["progress_file"]),
            "peak_rss": max(self.peak_rss, last.rss),
            "peak_processes": max(self.peak_processes, last.processes),
            "output_dropped": self.sampler.dropped, "leftovers": leftovers, "notes": self.notes,
        }  # fmt: skip

    def _report(self, found: dict[str, object]) -> None:
        if self.terminated or os.getppid() != self.parent or self._told_to_forget():
            return self._forget()
        path = f"{self.folder}/observed.json"
        with open(f"{path}.new", "w", encoding="utf-8") as file:
            json.dump(found, file)
        os.rename(f"{path}.new", path)
        return self._forget() if self._told_to_forget() else None

    def _told_to_forget(self) -> bool:
        """A byte on the lifeline says that nobody will read the report."""
        ready, _, _ = select.select([self.lifeline], [], [], 0)
        return bool(ready and os.read(self.lifeline, 1))

    def _forget(self) -> None:
        try:
            for name in os.listdir(self.folder):
                os.unlink(f"{self.folder}/{name}")
            os.rmdir(self.folder)
        except OSError:  # the parent was quicker
            return


def _survivor(thread: dict[str, object], refused: dict[int, str]) -> dict[str, object]:
    keys = ("pid", "name", "state", "wchan", "call", "file")
    return {key: thread.get(key, "") for key in keys} | {"refused": refused.get(int(str(thread["pid"])), "")}


def main() -> None:
    """Command line: scratch folder, lifeline, done pipe, parent's process id."""
    Supervisor(sys.argv[1], *map(int, sys.argv[2:5])).run()
