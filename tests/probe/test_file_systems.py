"""File systems that are slow, silent or gone: told apart, named with their mount, and never waited for."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from llmguard import probe
from llmguard.probe import ProbeResult, Verdict

TORCH = "import torch; report(torch.__version__)"
PARTS = 40


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


def _import_from(point: Path, timeout: float, no_progress: float) -> ProbeResult:
    return probe.run(
        TORCH,
        timeout=timeout,
        no_progress=no_progress,
        kill_grace=0.1,
        computing_is_progress=False,
        env={"PYTHONPATH": str(point), "PYTHONDONTWRITEBYTECODE": "1"},
        what="import of torch",
    )


def test_a_silent_file_system_is_named_and_abandoned(
    fuse: ModuleType, package: Path, tmp_path: Path, clean: Path
) -> None:
    """The process cannot be killed; the verdict comes in time, with call, path and mount."""
    with fuse.mounted(tmp_path / "dead", package, dead=1) as point:
        started = time.monotonic()
        result = _import_from(point, 20, 1.0)
        assert time.monotonic() - started < 1.0 + 2.0 + 1.0
    assert result.verdict is Verdict.HUNG_FS
    text = result.explain()
    assert f"for {point}" in text
    assert f"on {point} (fuse.faulty from faulty)" in text
    assert "could not be killed and was abandoned" in text
    assert [(one.state, one.wchan) for one in result.survivors] == [("D", "request_wait_answer")]


def test_a_file_system_that_falls_silent_is_named(
    fuse: ModuleType, package: Path, tmp_path: Path, clean: Path
) -> None:
    """Half-way through the import: the module under way is known, and the Python stack."""
    with fuse.mounted(tmp_path / "half", package, die_after=120) as point:
        result = _import_from(point, 20, 1.2)
    assert result.verdict is Verdict.HUNG_FS
    assert result.observed.last_import.startswith("torch")
    assert "find_spec" in result.stack or "get_data" in result.stack or "_path_stat" in result.stack


def test_a_slow_file_system_is_no_hang(fuse: ModuleType, package: Path, tmp_path: Path, clean: Path) -> None:
    """5 ms a call, far longer than the no-progress window in all: it comes to its end."""
    with fuse.mounted(tmp_path / "slow", package, delay=0.005) as point:
        result = _import_from(point, 60, 0.8)
    assert result.verdict is Verdict.OK, result.explain()
    assert result.seconds > 1.6
    assert result.payload == "9.9.9"


def test_a_very_slow_file_system_is_called_slow(
    fuse: ModuleType, package: Path, tmp_path: Path, clean: Path
) -> None:
    """50 ms a call: at the deadline it is still moving, and that is said."""
    with fuse.mounted(tmp_path / "slower", package, delay=0.05) as point:
        result = _import_from(point, 3.0, 1.0)
    assert result.verdict is Verdict.PROGRESSING_SLOW, result.explain()
    assert "not hung" in result.explain()


def test_a_pause_shorter_than_the_window_is_forgiven(
    fuse: ModuleType, package: Path, tmp_path: Path, clean: Path
) -> None:
    """A file system that falls silent for 1.5 s and comes back costs time and nothing else."""
    with fuse.mounted(tmp_path / "back", package, die_after=60, revive=1) as point:
        result = _import_from(point, 60, 4.0)
    assert result.verdict is Verdict.OK, result.explain()
    assert result.seconds > 1.5


def test_a_program_on_a_silent_file_system_is_unreachable(
    fuse: ModuleType, package: Path, tmp_path: Path, clean: Path
) -> None:
    """The supervisor forks before it starts the program, so that it is not the supervisor that hangs."""
    with fuse.mounted(tmp_path / "dead", package, dead=1) as point:
        result = probe.run([str(point / "python"), "-c", "pass"], timeout=1.0, kill_grace=0)
    assert result.verdict is Verdict.INTERPRETER_UNREACHABLE
    assert f"the program {point / 'python'} on {point} (fuse.faulty" in result.explain()


def test_our_own_interpreter_on_a_silent_file_system_is_unreachable(
    fuse: ModuleType, package: Path, tmp_path: Path, clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Popen` blocks in the parent then; only its own thread does."""
    with fuse.mounted(tmp_path / "dead", package, dead=1) as point:
        monkeypatch.setattr(sys, "executable", str(point / "python"))
        started = time.monotonic()
        running = probe.start("pass", timeout=0.5, kill_grace=0)
        result = running.wait()
        assert time.monotonic() - started < 0.5 + 2.0
        assert result.verdict is Verdict.INTERPRETER_UNREACHABLE
        assert not running._handles.launched.is_set(), "the fault did not fire"
    assert running._handles.launched.wait(10), "the mount is gone: the thread comes back"


def test_a_working_folder_on_a_silent_file_system_hangs_only_the_child(
    fuse: ModuleType, package: Path, tmp_path: Path, clean: Path
) -> None:
    """The parent hands the folder on unseen."""
    with fuse.mounted(tmp_path / "dead", package, dead=1) as point:
        result = probe.run("pass", timeout=1.0, kill_grace=0, cwd=point / "work")
    assert result.verdict is Verdict.INTERPRETER_UNREACHABLE
    assert str(point) in result.explain()


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
