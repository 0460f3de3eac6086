"""Every way an import of torch breaks gets its own verdict, in bounded time, and leaves nothing behind."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from support.matrix import Matrix, fault

from llmguard import probe
from llmguard.probe import ProbeResult, Verdict

DISK_BOUND = {
    "floods_stdout_for_ever": (Verdict.SPIN, Verdict.HUNG, Verdict.HUNG_FS, Verdict.PROGRESSING_SLOW),
}
"""Where the disk, not the fault, decides what a flood waits for."""
NO_PROGRESS, DEADLINE, AT_ONCE = 1.2, 12.0, 6
LIMITS = probe.Limits(data=2**30, open_files=256, processes=64)
TORCH = "import torch; report(getattr(torch, '__version__', None))"

EXPECTED: dict[str, tuple[Verdict, tuple[str, ...]]] = {
    # fault -> verdict, words that its explanation must hold
    "fine": (Verdict.OK, ("came to its end",)),
    "sleeps": (Verdict.HUNG, ("no progress for 1.", "torch/__init__.py:2", "last import: torch")),
    "ignores_all_signals": (Verdict.HUNG, ("torch/__init__.py:8",)),
    "deadlock_gil_held": (Verdict.DEADLOCK, ("deadlocked", "futex", "torch/__init__.py:6")),
    "deadlock_gil_released": (Verdict.DEADLOCK, ("deadlocked", "futex", "torch/__init__.py:6")),
    "spins": (Verdict.SPIN, ("computing", "torch/__init__.py")),
    "catastrophic_regex": (Verdict.SPIN, ("computing", " in match")),
    "daemon_then_hang": (Verdict.HUNG, ("torch/__init__.py:9",)),
    "leaves_a_daemon": (Verdict.OK, ("left 1 process alive", "now ended")),
    "grandchild_holds_stdout": (Verdict.OK, ("left 1 process alive: sleep",)),
    "fork_bomb": (Verdict.RESOURCE, ("processes, above its limit",)),
    "eats_descriptors": (Verdict.RESOURCE, ("Too many open files", "torch/__init__.py:3")),
    "floods_stdout": (Verdict.OK, ()),
    "floods_stdout_for_ever": (Verdict.SPIN, ("it printed ",)),
    "segfault": (Verdict.CRASHED, ("SIGSEGV", "string_at")),
    "abort": (Verdict.CRASHED, ("SIGABRT", "torch/__init__.py:2")),
    "bad_alloc": (Verdict.RESOURCE, ("SIGABRT",)),
    "exits_with_zero": (Verdict.EXITED_EARLY, ("status 0", "without coming to its end")),
    "exits_with_three": (Verdict.EXITED_EARLY, ("status 3", "no licence")),
    "stops_itself": (Verdict.STOPPED, ("state T",)),
    "reads_stdin": (Verdict.CRASHED, ("EOFError", "torch/__init__.py:1")),
    "missing_library": (Verdict.IMPORT_ERROR, ("libcudart.so.12",)),
    "undefined_symbol": (Verdict.IMPORT_ERROR, ("undefined symbol: ncclCommRegister",)),
    "old_glibc": (Verdict.CRASHED, ("GLIBC_2.34",)),
    "circular": (Verdict.IMPORT_ERROR, ("circular import", "torch/nn.py:1")),
    "missing_dependency": (Verdict.IMPORT_ERROR, ("a_module_that_nobody_has",)),
    "syntax_error": (Verdict.CRASHED, ("SyntaxError", "torch/__init__.py:1")),
    "lock_of_a_living_process": (Verdict.LOCK_POLL, ("held.lock", "torch/__init__.py:5")),
    "stale_lock_file": (Verdict.LOCK_POLL, ("stale.lock", " in wait")),
    "prints_while_waiting": (Verdict.HUNG, ("torch/__init__.py:5",)),
    "retries_an_import": (Verdict.HUNG, ("torch/__init__.py:7",)),
    "waits_for_a_child": (Verdict.HUNG, ("waiting for its child process sleep", "subprocess.py")),
    "waits_for_a_thread": (Verdict.HUNG, ("another thread", "threading.py")),
    "hangs_at_exit": (Verdict.HUNG, ("at its exit, after its work was done",)),
    "slow_but_moving": (Verdict.PROGRESSING_SLOW, ("not hung", "modules imported")),
    "grows_a_thread_pool": (Verdict.OK, ("came to its end",)),
    "too_many_threads": (Verdict.RESOURCE, ("can't start new thread",)),
    "raises": (Verdict.CRASHED, ("CUDA_HOME", "torch/__init__.py:1")),
}


MATRIX = {
    "sleeps": "A1", "ignores_all_signals": "A2", "deadlock_gil_held": "A3", "deadlock_gil_released": "A4", "spins": "A5",
    "catastrophic_regex": "A6", "daemon_then_hang": "A7", "leaves_a_daemon": "A8", "grandchild_holds_stdout": "A9",
    "fork_bomb": "A10", "eats_descriptors": "A12", "floods_stdout": "A13", "floods_stdout_for_ever": "A13", "segfault": "A14",
    "abort": "A14", "exits_with_zero": "A15", "stops_itself": "A16", "reads_stdin": "A17", "missing_library": "A18",
    "undefined_symbol": "A18", "old_glibc": "A18", "circular": "A20", "lock_of_a_living_process": "A21", "stale_lock_file": "A21",
}  # fmt: skip
"""fault here -> its id in the matrix"""
CASES = [pytest.param(name, marks=fault(MATRIX[name]) if name in MATRIX else ()) for name in EXPECTED]


@pytest.fixture(scope="module")
def results(
    faults: ModuleType, alive: Callable[[str], list[int]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[ProbeResult, float, list[int]]]:
    """All faults, several at once: result, wall seconds, and who is alive afterwards."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "stale.lock").touch()
    holder = os.open(folder / "held.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(holder, fcntl.LOCK_EX)
    found: dict[str, tuple[ProbeResult, float, list[int]]] = {}
    waiting, running = list(EXPECTED), {}
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            name = waiting.pop(0)
            running[name] = (_start(faults, folder, name), time.monotonic())
        for name in [name for name, (one, _) in running.items() if one.done]:
            one, started = running.pop(name)
            found[name] = (one.wait(), time.monotonic() - started, alive(one.spec.nonce))
        time.sleep(0.01)
    os.close(holder)
    return found


def _start(faults: ModuleType, folder: Path, name: str) -> probe.Probe:
    lock = "stale.lock" if name == "stale_lock_file" else "held.lock"
    moving = name == "slow_but_moving"
    return probe.start(
        TORCH,
        timeout=2.5 if moving else DEADLINE,
        no_progress=NO_PROGRESS,
        computing_is_progress=False,
        limits=LIMITS,
        max_output=100_000,
        env={"PYTHONPATH": str(faults.package(folder, name)), "LOCK_FILE": str(folder / lock)},
        what="import of torch",
    )


@pytest.mark.parametrize("name", CASES)
def test_a_broken_import_is_named(
    results: dict[str, tuple[ProbeResult, float, list[int]]], name: str, matrix: Matrix
) -> None:
    """Verdict and text are those of the fault, not merely some failure."""
    verdict, words = EXPECTED[name]
    result = results[name][0]
    assert result.verdict in DISK_BOUND.get(name, (verdict,)), result
    matrix.saw(result)
    text = result.explain()
    assert text.startswith("import of torch: ")
    if result.verdict is verdict:
        assert [word for word in words if word not in text] == [], text


@pytest.mark.parametrize("name", CASES)
def test_a_broken_import_ends_in_time(
    results: dict[str, tuple[ProbeResult, float, list[int]]], name: str, matrix: Matrix
) -> None:
    """At the latest two seconds after its patience is over, and nobody who came of it is alive."""
    result, seconds, living = results[name]
    patience = {"slow_but_moving": 2.5}.get(name, NO_PROGRESS)
    # what computes takes turns with all the others, and its silence is counted by the time that it really had
    bound = DEADLINE if result.verdict is Verdict.SPIN or name in DISK_BOUND else patience
    matrix.saw(result, seconds=seconds, deadline=bound)
    assert result.survivors == ()
    assert living == []


def test_success_is_proved_not_assumed(results: dict[str, tuple[ProbeResult, float, list[int]]]) -> None:
    """Only the import that came to its end has a payload; leaving with status 0 is not enough."""
    assert results["fine"][0].payload == "9.9.9"
    assert results["exits_with_zero"][0].returncode == 0
    assert not results["exits_with_zero"][0].finished
    assert results["exits_with_zero"][0].payload is None


def test_output_is_capped_and_its_end_is_kept(
    results: dict[str, tuple[ProbeResult, float, list[int]]],
) -> None:
    """A flood of megabytes leaves the newest 100 kB, and says what is missing."""
    for name in ("floods_stdout", "floods_stdout_for_ever"):
        output = results[name][0].output
        assert 50_000 < len(output) < 101_000
        assert "bytes before this are not kept" in output.splitlines()[0]
    assert results["floods_stdout"][0].output.rstrip().endswith("the last line")


def test_the_stack_says_where(results: dict[str, tuple[ProbeResult, float, list[int]]]) -> None:
    """A process that ignores every signal still tells its stack: a thread answers."""
    for name in ("sleeps", "ignores_all_signals", "deadlock_gil_held", "spins", "segfault"):
        assert "torch/__init__.py" in results[name][0].stack, name
    assert results["stops_itself"][0].stack == ""


def test_daemons_that_left_the_session_are_found(
    results: dict[str, tuple[ProbeResult, float, list[int]]],
) -> None:
    """Three grandchildren with sessions of their own hang with the import; all were seen and all are gone."""
    result, _, living = results["daemon_then_hang"]
    assert result.observed.peak_processes >= 4
    assert living == []


def test_leftovers_are_told_and_ended(results: dict[str, tuple[ProbeResult, float, list[int]]]) -> None:
    """An import that came to its end and left a process alive says so; a pool of threads is none."""
    assert [left.name for left in results["grandchild_holds_stdout"][0].leftovers] == ["sleep"]
    assert len(results["leaves_a_daemon"][0].leftovers) == 1
    assert results["grows_a_thread_pool"][0].leftovers == ()


def test_the_parent_never_imports_torch(results: dict[str, tuple[ProbeResult, float, list[int]]]) -> None:
    """After a whole matrix of imports of torch, it is not in this process unless it was before."""
    assert len(results) == len(EXPECTED)
    if "torch" in sys.modules:
        pytest.skip("another test of this session has imported torch here")


@fault("A11")
def test_memory_that_grows_without_bound_is_stopped(
    faults: ModuleType, tmp_path: Path, matrix: Matrix
) -> None:
    """By the resident size of the tree, looked at ten times a second, and by the kernel's limit on data."""
    home = {"PYTHONPATH": str(faults.package(tmp_path, "allocates_for_ever"))}
    seen = probe.start(TORCH, timeout=20, env=home, limits=probe.Limits(memory=2**28))
    told = probe.start(TORCH, timeout=20, env=home, limits=probe.Limits(data=2**28))
    by_size, by_kernel = seen.wait(), told.wait()
    matrix.saw(by_size)
    assert (by_size.verdict, by_kernel.verdict) == (Verdict.RESOURCE, Verdict.RESOURCE)
    assert "MiB of memory, above its limit" in by_size.explain()
    assert by_kernel.failure is not None
    assert by_kernel.failure.kind == "MemoryError"


def test_a_file_that_grows_without_bound_is_stopped(tmp_path: Path) -> None:
    """RLIMIT_FSIZE ends a child that writes more than it may, and the limit is named."""
    code = f"file = open({str(tmp_path / 'big')!r}, 'wb')\nwhile True:\n    file.write(bytes(65536))"
    result = probe.run([sys.executable, "-c", code], timeout=20, limits=probe.Limits(file_size=2**20))
    assert (tmp_path / "big").stat().st_size == 2**20
    assert result.returncode == 1
    assert "File too large" in result.output
