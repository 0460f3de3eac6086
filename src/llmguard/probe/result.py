"""What a probe says: a verdict, and what was seen that led to it."""

from __future__ import annotations

import enum
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Failure", "Left", "Observed", "ProbeResult", "Survivor", "Thread", "Verdict", "Window"]


class Verdict(str, enum.Enum):
    """How a probe ended."""

    OK = "ok"
    """Came to its end and proved it."""
    HUNG = "hung"
    """Nothing moved: asleep, or waiting for something that is none of the classes below."""
    HUNG_FS = "hung_fs"
    """Nothing moved: waits for a file system or a device."""
    DEADLOCK = "deadlock"
    """Nothing moved: every thread waits for a lock of its own process."""
    LOCK_POLL = "lock_poll"
    """Nothing moved: waits for a lock file that someone else holds or left behind."""
    SPIN = "spin"
    """Computes and nothing else moved."""
    STOPPED = "stopped"
    """Stopped by a signal or a debugger."""
    PROGRESSING_SLOW = "progressing_slow"
    """Still moving when its time was over: slow, not hung."""
    CRASHED = "crashed"
    """Killed by a signal, or ended by an exception."""
    EXITED_EARLY = "exited_early"
    """Ended without coming to its end, or with an exit status of its own."""
    IMPORT_ERROR = "import_error"
    """Ended by an import that failed."""
    RESOURCE = "resource"
    """Out of memory, descriptors, processes, disk: a limit was hit."""
    TIMEOUT = "timeout"
    """Time was over while it was computing."""
    INTERPRETER_UNREACHABLE = "interpreter_unreachable"
    """The program itself could not be started: its file does not answer or does not exist."""
    UNKILLABLE = "unkillable"
    """Had to be ended and could not be."""
    CANCELLED = "cancelled"
    """Called off by whoever started it."""
    UNKNOWN = "unknown"
    """What was seen fits none of these."""


@dataclass(frozen=True)
class Thread:
    """A thread at the last look: `state` as in ps(1), `wchan` the kernel function it waits in, `call` and
    `file` what for."""

    pid: int
    tid: int
    name: str
    state: str
    wchan: str
    switches: int = 0
    call: str = ""
    file: str = ""


@dataclass(frozen=True)
class Left:
    """A process that a probe left alive although it had ended by itself; it has been ended since."""

    pid: int
    name: str


@dataclass(frozen=True)
class Survivor:
    """A process that could not be ended and was abandoned; `refused` is what the kernel said, if it said
    anything."""

    pid: int
    name: str = ""
    state: str = ""
    wchan: str = ""
    call: str = ""
    file: str = ""
    refused: str = ""


@dataclass(frozen=True)
class Window:
    """The time since the last progress. `places` counts the looks by the main thread's state and wait
    channel."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    switches: int = 0
    bytes: int = 0
    places: Mapping[str, int] = field(default_factory=dict)
    last_progress: str = ""


@dataclass(frozen=True)
class Observed:
    """What the supervisor saw. `ended` is why it stopped looking; `imports` counts modules imported for the
    first time."""

    ended: str = ""
    executed: bool = True
    exec_errno: int | None = None
    status: int | None = None
    window: Window = Window()
    threads: tuple[Thread, ...] = ()
    imports: int = 0
    last_import: str = ""
    last_step: str = ""
    locks: tuple[str, ...] = ()
    peak_rss: int = 0
    peak_processes: int = 0
    oom_kills: int = 0
    output_dropped: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failure:
    """The exception that ended a Python probe; `kinds` are the names of its class and of all its bases."""

    kinds: tuple[str, ...]
    message: str
    file: str = ""
    line: int = 0
    errno: int = 0
    name: str = ""
    path: str = ""
    filename: str = ""

    @property
    def kind(self) -> str:
        """The name of the exception's class."""
        return self.kinds[0] if self.kinds else "Exception"

    def __str__(self) -> str:
        place = f" at {self.file}:{self.line}" if self.file else ""
        return f"{self.kind}: {self.message}{place}" if self.message else f"{self.kind}{place}"


@dataclass(frozen=True)
class ProbeResult:
    """How a probe ended.

    `seconds` is wall time, `output` the newest part of what it printed, `stack` its Python stack where it
    hung or crashed, `leftovers` what it left alive when it ended by itself, `survivors` what could not be
    ended, `mount` the mount of the file that it hung for, `memory` the bytes that it might have at most.
    """

    verdict: Verdict
    what: str
    seconds: float
    limit: float
    returncode: int | None = None
    signal: int | None = None
    output: str = ""
    payload: Any = None
    failure: Failure | None = None
    finished: bool = False
    stack: str = ""
    observed: Observed = Observed()
    leftovers: tuple[Left, ...] = ()
    survivors: tuple[Survivor, ...] = ()
    mount: str = ""
    memory: int | None = None

    @property
    def ok(self) -> bool:
        """Whether it came to its end."""
        return self.verdict is Verdict.OK

    @property
    def signal_name(self) -> str:
        """SIGSEGV and so on; "" where no signal ended it."""
        if self.signal is None:
            return ""
        try:
            return signal.Signals(self.signal).name
        except ValueError:
            return f"signal {self.signal}"

    def explain(self) -> str:
        """What happened, where and after how long, in one sentence."""
        from llmguard.probe.explain import explain

        return explain(self)

    def to_json(self) -> dict[str, Any]:
        """A small JSON-safe summary for the evidence of a finding."""
        return {
            "verdict": self.verdict.value, "seconds": round(self.seconds, 3), "returncode": self.returncode,
            "signal": self.signal_name,
            "last_import": self.observed.last_import, "imports": self.observed.imports,
            "still_for": self.observed.window.seconds, "places": dict(self.observed.window.places),
            "stack": self.stack[-2000:], "output": self.output[-2000:],
            "leftovers": [left.name for left in self.leftovers],
            "survivors": [survivor.__dict__ for survivor in self.survivors],
        }  # fmt: skip
