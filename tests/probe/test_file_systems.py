"""File systems that are slow, silent or gone: told apart, named with their mount, and never waited for."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.matrix import Matrix, fault

from llmguard import probe
from llmguard.probe import ProbeResult, Verdict

TORCH = "import torch; report(torch.__version__)"
PARTS = 40
QUICK = {"kill_grace": 0.1, "no_progress": 1.0, "timeout": 20.0}


@dataclass(frozen=True)
class Case:
    """What is wrong with the mount, and what is run on it: an import from it, a program of it, a folder of it."""

    faults: dict[str, float]
    settings: dict[str, Any]
    runs: str = "import"


CASES = {
    "dead": Case({"dead": 1}, {}),
    "falls silent": Case({"die_after": 120}, {"no_progress": 1.2}),
    "slow": Case({"delay": 0.005}, {"no_progress": 0.8, "timeout": 60.0}),
    "very slow": Case({"delay": 0.05}, {"timeout": 3.0}),
    "pauses": Case({"die_after": 60, "revive": 1}, {"no_progress": 4.0, "timeout": 60.0}),
    "dead program": Case({"dead": 1}, {"kill_grace": 0}, runs="program"),
    "dead folder": Case({"dead": 1}, {"kill_grace": 0}, runs="folder"),
}


@dataclass(frozen=True)
class Outcome:
    """What came of a case, how long the caller waited for it, and where the mount was."""

    result: ProbeResult
    seconds: float
    point: Path


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A healthy package `torch` of many modules."""
    home = tmp_path_factory.mktemp("package")
    (home / "torch").mkdir()
    names = ", ".join(f"part_{number}" for number in range(PARTS))
    (home / "torch" / "__init__.py").write_text(f"from torch import {names}\n__version__ = '9.9.9'\n")
    for number in range(PARTS):
        (home / "torch" / f"part_{number}.py").write_text("x = 1\n")
    return home


@pytest.fixture(scope="module")
def outcomes(fuse: ModuleType, package: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """All cases at once: they wait, they do not compute."""
    home = tmp_path_factory.mktemp("mounts")
    with ExitStack() as mounts:
        running: dict[str, tuple[probe.Probe, float, Path]] = {}
        for name, case in CASES.items():
            point = mounts.enter_context(fuse.mounted(home / name.replace(" ", "-"), package, **case.faults))
            running[name] = (_start(case, point), time.monotonic(), point)
        found: dict[str, Outcome] = {}
        while len(found) < len(running):
            for name, (one, started, point) in running.items():
                if name not in found and one.done:
                    found[name] = Outcome(one.wait(), time.monotonic() - started, point)
            time.sleep(0.01)
    return found


def _start(case: Case, point: Path) -> probe.Probe:
    settings = {**QUICK, **case.settings}
    if case.runs == "program":
        return probe.start([str(point / "python"), "-c", "pass"], **settings)
    if case.runs == "folder":
        return probe.start("pass", cwd=point / "work", **settings)
    environ = {"PYTHONPATH": str(point), "PYTHONDONTWRITEBYTECODE": "1"}
    return probe.start(TORCH, computing_is_progress=False, env=environ, what="import of torch", **settings)


@fault("A23")
def test_a_silent_file_system_is_named_and_abandoned(outcomes: dict[str, Outcome], matrix: Matrix) -> None:
    """The process cannot be killed; the verdict comes in time, with call, path and mount."""
    found = outcomes["dead"]
    matrix.saw(found.result, seconds=found.seconds, deadline=3.0, survivors=1)
    assert found.result.verdict is Verdict.HUNG_FS
    assert found.seconds < 1.0 + 2.0 + 2.0
    text = found.result.explain()
    assert f"for {found.point}" in text
    assert f"on {found.point} (fuse.faulty from faulty)" in text
    assert "could not be killed and was abandoned" in text
    assert [(one.state, one.wchan) for one in found.result.survivors] == [("D", "request_wait_answer")]


@fault("A24")
def test_a_file_system_that_falls_silent_is_named(outcomes: dict[str, Outcome], matrix: Matrix) -> None:
    """Half-way through the import: the module under way is known, and the Python stack, though no signal arrives."""
    result = outcomes["falls silent"].result
    matrix.saw(result, survivors=1)
    assert result.verdict is Verdict.HUNG_FS
    assert result.observed.last_import.startswith("torch")
    assert "importlib" in result.stack


@fault("A22")
def test_a_slow_file_system_is_no_hang(outcomes: dict[str, Outcome], matrix: Matrix) -> None:
    """5 ms a call, far longer than the no-progress window in all: it comes to its end."""
    result = outcomes["slow"].result
    matrix.saw(result)
    assert result.verdict is Verdict.OK, result.explain()
    assert result.seconds > 1.6
    assert result.payload == "9.9.9"


@fault("A22")
def test_a_very_slow_file_system_is_called_slow(outcomes: dict[str, Outcome], matrix: Matrix) -> None:
    """50 ms a call: at the deadline it is still moving, and that is said."""
    result = outcomes["very slow"].result
    matrix.saw(result)
    assert result.verdict is Verdict.PROGRESSING_SLOW, result.explain()
    assert "not hung" in result.explain()


@fault("A24")
def test_a_pause_shorter_than_the_window_is_forgiven(outcomes: dict[str, Outcome], matrix: Matrix) -> None:
    """A file system that falls silent for 1.5 s and comes back costs time and nothing else."""
    result = outcomes["pauses"].result
    matrix.saw(result)
    assert result.verdict is Verdict.OK, result.explain()
    assert result.seconds > 1.5


def test_a_program_on_a_silent_file_system_is_unreachable(outcomes: dict[str, Outcome]) -> None:
    """The supervisor forks before it starts the program, so that it is not the supervisor that hangs."""
    found = outcomes["dead program"]
    assert found.result.verdict is Verdict.INTERPRETER_UNREACHABLE
    assert f"the program {found.point / 'python'} on {found.point} (fuse.faulty" in found.result.explain()


def test_a_working_folder_on_a_silent_file_system_hangs_only_the_child(outcomes: dict[str, Outcome]) -> None:
    """The parent hands the folder on unseen."""
    found = outcomes["dead folder"]
    assert found.result.verdict is Verdict.INTERPRETER_UNREACHABLE
    assert str(found.point) in found.result.explain()


@fault("A25")
def test_our_own_interpreter_on_a_silent_file_system_is_unreachable(
    fuse: ModuleType,
    package: Path,
    tmp_path: Path,
    clean: Path,
    monkeypatch: pytest.MonkeyPatch,
    matrix: Matrix,
) -> None:
    """`Popen` blocks in the parent then; only its own thread does."""
    with fuse.mounted(tmp_path / "dead", package, dead=1) as point:
        monkeypatch.setattr(sys, "executable", str(point / "python"))
        started = time.monotonic()
        running = probe.start("pass", timeout=0.5, kill_grace=0)
        result = running.wait()
        matrix.saw(result, seconds=time.monotonic() - started)
        assert result.verdict is Verdict.INTERPRETER_UNREACHABLE
        assert not running._handles.launched.is_set(), "the fault did not fire"
    assert running._handles.launched.wait(10), "the mount is gone: the thread comes back"


def test_a_probe_without_proc_says_what_it_cannot_see(
    clean: Path, monkeypatch: pytest.MonkeyPatch, alive: Callable[[str], list[int]]
) -> None:
    """On systems without /proc and subreapers the process group is ended, and the explanation says so."""
    elsewhere = (
        "from llmguard.probe import kernel, tree\n"
        "tree.PROC = '/nowhere'\nkernel.become_subreaper = lambda: False\nmain()"
    )
    boot = probe.launch.BOOT.replace("main()", elsewhere)
    monkeypatch.setattr("llmguard.probe.launch.BOOT", boot)
    code = "import os, time\nos.fork()\nimport colorsys\ntime.sleep(1e6)"
    running = probe.start(code, timeout=20, no_progress=0.8)
    result = running.wait()
    assert result.verdict is Verdict.HUNG
    assert "processes that left the probe's process group are not found" in result.explain()
    assert result.observed.last_import == "colorsys"
    assert alive(running.spec.nonce) == []
    assert probe.run("report(1)", timeout=20).payload == 1
