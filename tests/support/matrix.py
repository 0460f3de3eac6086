"""The fault matrix: which test plants which fault, what it was told, how quickly, and that nothing was left behind.

How to add a fault:

    from support.matrix import Matrix, fault

    @fault("B8")                                       # its id in fault_matrix.txt; several may be given
    def test_a_driver_that_hangs_is_named(matrix: Matrix) -> None:
        result = probe.run(...)
        matrix.saw(result)                             # verdict and time for the table; asserts deadline + 2 s, no survivor
        assert "cuInit" in result.explain()

In a parametrised test, one by one: `pytest.param("sleeps", marks=fault("A1"))`. What is no `ProbeResult` is told in words:
`matrix.saw("quota: EDQUOT", seconds=took, deadline=5.0)`. Where processes are abandoned on purpose (a file system that hangs),
`matrix.saw(result, survivors=1)`. A test is one row of the table; the last `saw` counts. A test without the fixture `matrix` is told by
its name.

Every test under `@fault` is watched: the processes, descriptors and mounts that are there after its teardown were there
before its set-up, and torch is in this process only if it was. Show first that the fault fires, then the diagnosis.

Each outcome is a line of `build/fault-matrix.jsonl` (or of the file that LLMGUARD_FAULT_MATRIX names), skips with their reason
too; `python ci/gen_fault_matrix.py` makes docs/fault-matrix.md of it.
"""

from __future__ import annotations

import functools
import json
import os
import re
import secrets
import sys
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from llmguard.probe import ProbeResult

__all__ = ["MARGIN", "Known", "Matrix", "Recorder", "fault", "known"]

MARGIN = 2.0
"""Seconds that a verdict may come after its deadline."""
LIST = Path(__file__).with_name("fault_matrix.txt")
_LINE = re.compile(r"(?P<id>[A-L]\d+)\s+(?P<needs>[CRG])\s+(?P<title>.+)")
_MARK = "LLMGUARD_FAULT_SESSION"
_SETTLE = 2.0


@dataclass(frozen=True)
class Known:
    """A fault of the list; `needs` is C (any machine), R (root, namespaces, FUSE) or G (a GPU)."""

    id: str
    needs: str
    title: str


@functools.cache
def known() -> dict[str, Known]:
    """Every fault of the list by its id."""
    lines = (_LINE.fullmatch(line.strip()) for line in LIST.read_text("utf-8").splitlines())
    return {found["id"]: Known(**found.groupdict()) for found in lines if found}


def fault(*ids: str) -> pytest.MarkDecorator:
    """Mark a test, or a case of one, as planting these faults of the list."""
    if unknown := [one for one in ids if one not in known()]:
        raise ValueError(f"no such fault in {LIST.name}: {', '.join(unknown)}")
    return pytest.mark.fault(*ids)


@dataclass
class Matrix:
    """What one test was told; the fixture `matrix`."""

    seen: dict[str, Any] = field(default_factory=dict)

    def saw(
        self,
        told: ProbeResult | str,
        *,
        seconds: float | None = None,
        deadline: float | None = None,
        survivors: int = 0,
    ) -> None:
        """Note a verdict; it must have come within its deadline + 2 s, and have left as many survivors as is said.

        `seconds` is the wall time that the caller measured, else the probe's own; `deadline` the no-progress window where
        that decides, else the probe's limit.
        """
        verdict, left = (
            (told, survivors) if isinstance(told, str) else (told.verdict.value, len(told.survivors))
        )
        if not isinstance(told, str):
            seconds = told.seconds if seconds is None else seconds
            deadline = told.limit if deadline is None else deadline
        self.seen = {"verdict": verdict, "seconds": seconds, "deadline": deadline, "survivors": left}
        assert left == survivors, f"{left} survivors, {survivors} expected: {told}"
        if seconds is not None and deadline is not None:
            assert seconds <= deadline + MARGIN, (
                f"{seconds:.1f} s, with a deadline of {deadline:.1f} s: {told}"
            )


@dataclass(frozen=True)
class Traces:
    """What a test may leave behind."""

    processes: frozenset[int]
    descriptors: frozenset[tuple[str, str]]
    mounts: frozenset[str]
    torch: bool

    @classmethod
    def now(cls, session: str, below: str) -> Traces:
        """Processes that carry the session's mark, open descriptors, mounts below a folder, and whether torch is loaded."""
        return cls(_marked(session), _descriptors(), _mounts(below), "torch" in sys.modules)

    def beyond(self, before: Traces) -> str:
        """What there is now that was not there before, in words; "" for nothing."""
        found = [
            f"processes {sorted(more)}" if (more := self.processes - before.processes) else "",
            f"descriptors {sorted(files)}" if (files := self.descriptors - before.descriptors) else "",
            f"mounts {sorted(points)}" if (points := self.mounts - before.mounts) else "",
            "torch in this process" if self.torch and not before.torch else "",
        ]
        return ", ".join(text for text in found if text)


def _marked(session: str) -> frozenset[int]:
    """In a thread of its own: reading the environment of a process that hangs may hang."""
    found: list[int] = []
    done = threading.Event()
    threading.Thread(target=_look, args=(session.encode(), found, done), daemon=True).start()
    if not done.wait(_SETTLE):
        raise AssertionError("the environment of some process cannot be read: one hangs")
    return frozenset(found)


def _look(session: bytes, found: list[int], done: threading.Event) -> None:
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if int(entry.name) != os.getpid() and session in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    done.set()


def _descriptors() -> frozenset[tuple[str, str]]:
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add((entry.name, str(entry.readlink())))
        except OSError:  # the one that lists them
            continue
    return frozenset(found)


def _mounts(below: str) -> frozenset[str]:
    points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text("utf-8").splitlines())
    return frozenset(point for point in points if point.startswith(below))


class Recorder:
    """The plugin: watches the tests under `@fault` and writes down what became of them."""

    def __init__(self, config: pytest.Config) -> None:
        self.session = secrets.token_hex(12)
        os.environ[_MARK] = self.session
        self.file = Path(
            os.environ.get("LLMGUARD_FAULT_MATRIX") or config.rootpath / "build" / "fault-matrix.jsonl"
        )
        self.before: Traces | None = None
        self.said: dict[str, Any] = {}

    @pytest.fixture
    def matrix(self, request: pytest.FixtureRequest) -> Matrix:
        """Where a test under `@fault` says what it was told."""
        made = Matrix()
        request.node.stash[_STASH] = made
        return made

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Look before any fixture runs, those of the module too."""
        if _faults(item) and Path("/proc/self/fd").is_dir():
            self.before = self._now(item)
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Look again when all fixtures are done; what dies a moment later is given that moment."""
        result = yield
        before, self.before = self.before, None
        stop = time.monotonic() + _SETTLE
        while before and (left := self._now(item).beyond(before)):
            if time.monotonic() > stop:
                raise AssertionError(f"left behind: {left}")
            time.sleep(0.05)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Gather the three phases of a test into one line."""
        report = yield
        if _faults(item):
            if report.when == "setup":
                self.said = {"outcome": "passed", "reason": "", "seconds": None}
            if report.when == "call":
                self.said["seconds"] = round(report.duration, 2)
            if report.outcome != "passed":
                self.said |= {"outcome": report.outcome, "reason": _reason(report)}
            if report.when == "teardown":
                self._write(item)
        return report

    def _now(self, item: pytest.Item) -> Traces:
        folder = getattr(item.config, "_tmp_path_factory", None)
        return Traces.now(self.session, str(folder.getbasetemp()) if folder else "/nowhere")

    def _write(self, item: pytest.Item) -> None:
        made = item.stash.get(_STASH, Matrix())
        line = {"test": item.nodeid, "faults": _faults(item), "at": round(time.time())} | self.said
        line |= {"verdict": _sentence(item)} | {
            name: value for name, value in made.seen.items() if value is not None
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as file:  # one write: several workers append
            file.write(json.dumps(line) + "\n")


_STASH = pytest.StashKey[Matrix]()


def _faults(item: pytest.Item) -> list[str]:
    return list(dict.fromkeys(str(one) for mark in item.iter_markers("fault") for one in mark.args))


def _sentence(item: pytest.Item) -> str:
    """What a test that saw no probe says of itself: its name, in words."""
    name = item.name.partition("[")[0].removeprefix("test_")
    return re.sub(r"^(edges?(_\d+)+_)", "", name).replace("_", " ")


def _reason(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return str(report.longrepr).strip().splitlines()[-1][:200] if report.longrepr else ""
