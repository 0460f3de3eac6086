"""Group H of the matrix: memory that is not given back, planted in two sessions, on fake GPUs and in host memory with real tensors.

Each session runs once. An observer of its own reads the devices before and after each test: that is how a test here knows that its
fault fires, whatever the guard says of it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from support.device_memory import GIB, KIB, MIB, FakeDevice
from support.matrix import Matrix, fault

HERE = Path(__file__).parent
OBSERVER = """
import json, pathlib
{devices}
LOG = pathlib.Path(__file__).with_name("observed.jsonl")

def note(nodeid, when):
    with LOG.open("a") as file:
        file.write(json.dumps({{"test": nodeid.partition("::")[2], "when": when, **seen()}}) + "\\n")

def pytest_runtest_logstart(nodeid):
    note(nodeid, "before")

def pytest_runtest_logfinish(nodeid):
    note(nodeid, "after")

def pytest_unconfigure():
    note("::the end", "after")
"""
FAKES = """
from llmguard import memory
from support.device_memory import FakeDevice
GPUS = [FakeDevice(), FakeDevice("cuda:1", clears_workspaces=False)]
memory.use(GPUS)

def seen():
    return {gpu.name: gpu._held for gpu in GPUS} | {"pinned": GPUS[0]._pinned, "driver": GPUS[0].driver()}
"""
HEAP = """
import ctypes
NAMES = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in NAMES]
mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Info

def seen():
    told = mallinfo2()
    return {"cpu": told.uordblks + told.hblkhd}
"""


@dataclass(frozen=True)
class Session:
    """What a session said, and what was observed in it."""

    out: str
    errors: dict[str, str]
    failed: frozenset[str]
    seen: dict[tuple[str, str], dict[str, int]]

    def held(self, test: str, device: str = "cuda:0") -> int:
        """Bytes that are held on a device after a test and were not before."""
        return self.seen[test, "after"][device] - self.seen[test, "before"][device]

    def told(self, test: str) -> str:
        """What the guard said of a test; "" for nothing."""
        assert (test, "after") in self.seen, f"{test} did not run"
        return self.errors.get(test, "")


def run(folder: Path, name: str, devices: str) -> Session:
    """Run a module of planted leaks as a guarded session."""
    (folder / "conftest.py").write_text(OBSERVER.format(devices=devices), "utf-8")
    (folder / "test_planted.py").write_text((HERE / f"{name}.py").read_text("utf-8"), "utf-8")
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "COV"))}
    env |= {"PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1", "PY_COLORS": "0"}
    options = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:anyio", "-q", "-W", "ignore")
    command = [sys.executable, "-m", "pytest", *options, "--llmguard-gpu-leaks", "--junit-xml", "junit.xml"]
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=240, check=False
    )
    assert (folder / "junit.xml").is_file(), done.stdout + done.stderr
    cases = ElementTree.parse(folder / "junit.xml").getroot().iter("testcase")
    errors, failed = {}, set()
    for case in cases:
        if (error := case.find("error")) is not None:
            errors[case.attrib["name"]] = error.text or ""
        if case.find("failure") is not None:
            failed.add(case.attrib["name"])
    lines = [json.loads(line) for line in (folder / "observed.jsonl").read_text("utf-8").splitlines()]
    seen: dict[tuple[str, str], dict[str, Any]] = {(line["test"], line["when"]): line for line in lines}
    return Session(done.stdout, errors, frozenset(failed), seen)


@pytest.fixture(scope="module")
def fakes(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """All leaks on two fake GPUs."""
    return run(tmp_path_factory.mktemp("fakes"), "leaks_on_fakes", FAKES)


@pytest.fixture(scope="module")
def heap(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Leaks of real tensors, in host memory."""
    if (
        importlib.util.find_spec("torch") is None
    ):  # looked for, not imported: torch does not come into this process
        pytest.skip("torch is not installed")
    return run(tmp_path_factory.mktemp("heap"), "leaks_on_torch", HEAP)


FOUND = [
    pytest.param(
        "test_h1_module_global", 2 * MIB, "module global: module variable `KEPT`", marks=fault("H1")
    ),
    pytest.param("test_h1_just_one_mebibyte", MIB, "left behind 1.0 MiB", marks=fault("H1")),
    pytest.param("test_h2_kept_exception", 2 * MIB, "traceback: ", marks=fault("H2")),
    pytest.param("test_h4_test_that_fills_a_session_fixture", 2 * MIB, "fixture: ", marks=fault("H4")),
    pytest.param("test_h6_lru_cache", 2 * MIB, "lru_cache: ", marks=fault("H6")),
]
"""Test, bytes that it must hold, what must be said: on the fake and with real tensors alike."""
FOUND_ON_FAKES = [
    *FOUND,
    pytest.param("test_h3_failing_and_leaking", 4 * MIB, "left behind 4.0 MiB", marks=fault("H3")),
    pytest.param("test_h5_argument_that_gathers[gathered0]", 2 * MIB, "parametrize: ", marks=fault("H5")),
    pytest.param("test_h12_is_still_frozen_and_leaks", 2 * MIB, "left behind 2.0 MiB", marks=fault("H12")),
    pytest.param(
        "test_h14_compiles_each_time",
        12 * MIB,
        "Run 3 times it left 4.0 MiB, 4.0 MiB, 4.0 MiB",
        marks=fault("H14"),
    ),
    pytest.param("test_h15_others_give_while_we_leak", 2 * MIB, "left behind 2.0 MiB", marks=fault("H15")),
    pytest.param("test_h23_notebook_output", 2 * MIB, "notebook: ", marks=fault("H23")),
]
FOUND_ON_THE_HEAP = [
    *FOUND,
    pytest.param("test_h9_optimizer", 3 * MIB, "optimizer: ", marks=fault("H9")),
    pytest.param("test_h9_callback", 2 * MIB, "`CALLBACK`", marks=fault("H9")),
    pytest.param("test_h10_losses", MIB, "autograd graph: ", marks=fault("H10")),
]
CLEAN = [
    pytest.param("test_h3_failing_locals", marks=fault("H3")),
    pytest.param("test_h11_cycle_that_needs_two_passes", marks=fault("H11")),
    pytest.param("test_h12_collector_off", marks=fault("H12")),
    pytest.param("test_h12_collector_is_still_off", marks=fault("H12")),
]
"""Tests that give everything back once the guard has collected: before and after them the same is held."""


@pytest.mark.parametrize(("test", "least", "told"), FOUND_ON_FAKES)
def test_a_leak_on_a_fake_gpu_is_found(
    fakes: Session, matrix: Matrix, test: str, least: int, told: str
) -> None:
    """The bytes are held after everything is over; the test is told, with who holds them."""
    assert fakes.held(test) >= least
    assert "of GPU memory on cuda:0" in fakes.told(test)
    assert told in fakes.told(test)
    matrix.saw("leak found and its holder named")


@pytest.mark.parametrize(("test", "least", "told"), FOUND_ON_THE_HEAP)
def test_a_leak_of_real_tensors_is_found(
    heap: Session, matrix: Matrix, test: str, least: int, told: str
) -> None:
    """The same in host memory, by what malloc has handed out."""
    assert heap.held(test, "cpu") >= 0.98 * least
    assert "of host memory on cpu" in heap.told(test)
    assert told in heap.told(test)
    matrix.saw("leak found and its holder named")


@pytest.mark.parametrize("test", CLEAN)
def test_what_the_collector_takes_is_no_leak_on_a_fake_gpu(fakes: Session, matrix: Matrix, test: str) -> None:
    """Frames of failed tests, cycles that need two passes, a collector that the user switched off."""
    assert fakes.held(test) == 0
    assert not fakes.told(test)
    matrix.saw("not flagged")


@pytest.mark.parametrize("test", CLEAN)
def test_what_the_collector_takes_is_no_leak_of_real_tensors(
    heap: Session, matrix: Matrix, test: str
) -> None:
    """The same with tensors of torch."""
    assert abs(heap.held(test, "cpu")) < 256 * KIB
    assert not heap.told(test)
    matrix.saw("not flagged")


def test_clean_tests_are_clean(fakes: Session, heap: Session) -> None:
    """A training step, 100 MiB for a moment, an exception that `raises` caught, a bag of a fixture: nothing is said."""
    for test in (
        "test_nothing", "test_last", "test_h2_exception_of_raises_is_clean", "test_h4_function_fixture_is_gone",
        "test_h20_pinned_and_dropped",
    ):  # fmt: skip
        assert not fakes.told(test), fakes.told(test)
    assert not heap.told("test_clean_step"), heap.told("test_clean_step")
    assert fakes.failed == {"test_h3_failing_locals", "test_h3_failing_and_leaking"}, fakes.out
    assert heap.failed == {"test_h3_failing_locals"}, heap.out


@fault("H4")
def test_the_first_test_of_a_session_fixture_is_not_to_blame(
    fakes: Session, heap: Session, matrix: Matrix
) -> None:
    """Its 64 MiB are held after the first test that uses it: they are the fixture's."""
    for session, device in ((fakes, "cuda:0"), (heap, "cpu")):
        assert session.held("test_h4_first_user_of_a_session_fixture", device) >= 64 * MIB
        assert not session.told("test_h4_first_user_of_a_session_fixture")
    matrix.saw("charged to the fixture, the test not flagged")


@fault("H4")
def test_gradients_of_a_session_fixture_are_not_the_tests(heap: Session, matrix: Matrix) -> None:
    """One for each parameter, made by the first test that trains it; a copy that a test keeps beside it is the test's."""
    first, again = (f"test_h4_gradients_of_a_session_fixture[{time}]" for time in range(2))
    assert heap.held(first, "cpu") >= 4 * MIB
    assert heap.held(again, "cpu") < 256 * KIB
    assert not heap.told(first)
    assert not heap.told(again)
    assert "module variable `KEPT`" in heap.told("test_h4_gradients_that_are_kept_elsewhere")
    matrix.saw("the gradients not flagged, a copy of them found")


@fault("H5")
def test_arguments_of_parametrize_are_attributed(fakes: Session, heap: Session, matrix: Matrix) -> None:
    """They live as long as the session: said once, in the summary, and no test is blamed."""
    for session, name, device in ((fakes, "tensor0", "cuda:0"), (heap, "argument0", "cpu")):
        first = next(iter(session.seen.values()))
        assert first[device] >= 16 * MIB
        assert not session.told(f"test_h5_argument[{name}]")
        line = next(
            line for line in session.out.splitlines() if line.startswith("held before the first test")
        )
        assert "parametrize: " in line
    matrix.saw("attributed to parametrize, no test flagged")


@fault("H12")
def test_what_the_user_froze_stays_frozen(fakes: Session, matrix: Matrix) -> None:
    """Tests that look at the collector passed; garbage under the user's freeze is collected as any."""
    for test in ("test_h12_clean_under_the_users_freeze", "test_h12_thaws"):
        assert test not in fakes.failed
        assert not fakes.told(test)
        assert fakes.held(test) == 0
    matrix.saw("the user's freeze is respected")


@fault("H13")
def test_a_workspace_is_no_leak(fakes: Session, matrix: Matrix) -> None:
    """Where torch can clear it, it is cleared; where it stays, it was taken once and nobody in Python holds it."""
    assert fakes.seen["test_h13_workspace_that_stays", "after"]["cuda:1"] > 8 * MIB
    assert fakes.held("test_h13_workspace_that_can_be_cleared") == 0
    for test in ("test_h13_workspace_that_can_be_cleared", "test_h13_workspace_that_stays"):
        assert not fakes.told(test)
    matrix.saw("not flagged")


@fault("H14")
def test_a_graph_pool_is_no_leak(fakes: Session, matrix: Matrix) -> None:
    """It grows once; the summary counts it."""
    assert fakes.held("test_h14_graph_pool") == 32 * MIB
    assert fakes.held("test_h14_compiles_once_when_repeated") == 32 * MIB
    for test in ("test_h14_graph_pool", "test_h14_graph_pool_again", "test_h14_compiles_once_when_repeated"):
        assert not fakes.told(test)
    assert "times something grew once, as a cache does" in fakes.out
    matrix.saw("not flagged, counted as grown once")


@fault("H15")
def test_memory_of_others_is_not_ours(fakes: Session, matrix: Matrix) -> None:
    """50 GiB that another process takes are no leak (what it gives back hides none either: see above)."""
    assert FakeDevice(others=50 * GIB).device_wide() == (50 * GIB, 80 * GIB)
    assert not fakes.told("test_h15_others_take")
    matrix.saw("not flagged, not masked")


@fault("H16")
def test_a_leak_on_device_1_is_not_set_off_by_device_0(fakes: Session, matrix: Matrix) -> None:
    """Summed over devices the test gave 6 MiB back."""
    test = "test_h16_device_1_while_device_0_gives_back"
    assert (fakes.held(test), fakes.held(test, "cuda:1")) == (-8 * MIB, 2 * MIB)
    assert "left behind 2.0 MiB of GPU memory on cuda:1" in fakes.told(test)
    matrix.saw("found on cuda:1")


@pytest.mark.parametrize(
    ("test", "size", "command"),
    [
        pytest.param("test_h17_engine_lives_on", 56 * GIB, "-c input()", marks=fault("H17")),
        pytest.param("test_h24_persistent_worker", 300 * MIB, "pytest", marks=fault("H24")),
    ],
)
def test_a_child_that_lives_on_is_named(
    fakes: Session, matrix: Matrix, test: str, size: int, command: str
) -> None:
    """torch's allocator knows nothing of it; the driver does: process id, command and bytes."""
    assert fakes.held(test) == 0
    assert fakes.held(test, "driver") == size
    assert "a process that the test started still holds" in fakes.told(test)
    assert command in fakes.told(test)
    for ended in ("test_h17_engine_is_ended", "test_h24_worker_is_ended"):
        assert not fakes.told(ended)
    matrix.saw("found: the child is named")


@fault("H18")
def test_a_killed_child_may_be_late(fakes: Session, matrix: Matrix) -> None:
    """The driver still counts its 8 GiB when the test is over; by the end of the session they are gone, and nothing is said."""
    assert fakes.held("test_h18_killed_child_is_late", "driver") >= 0
    assert fakes.seen["test_h18_killed_child_is_late", "after"]["driver"] > 8 * GIB
    assert fakes.seen["the end", "after"]["driver"] < 2 * GIB
    assert not fakes.told("test_h18_killed_child_is_late")
    assert not fakes.told("test_h18_helper_is_ended")
    assert "still stand with the driver" not in fakes.out
    matrix.saw("not flagged: on its way back")


def drifted(session: Session) -> list[str]:
    return [test for test in session.errors if test.startswith("test_h19_drift")]


@fault("H19")
def test_a_drift_of_40_kib_is_found(fakes: Session, matrix: Matrix) -> None:
    """No test is beyond its limit; after some thirty the session says so, once, by the test that was there."""
    assert fakes.held("test_h19_drift[0]") == 40 * KIB
    (test,) = drifted(fakes)
    assert 20 <= int(test.partition("[")[2].rstrip("]")) <= 35
    assert "tests left " in fakes.told(test)
    assert "each 40.0 KiB in the middle" in fakes.told(test)
    assert "drift of the session: cuda:0: " in fakes.out
    matrix.saw(f"found as a drift by test {test}")


@fault("H19")
def test_a_drift_of_64_kib_is_found_within_20_tests(heap: Session, matrix: Matrix) -> None:
    """Real tensors on the heap."""
    assert 64 * KIB <= heap.held("test_h19_drift[3]", "cpu") < 96 * KIB
    (test,) = drifted(heap)
    assert int(test.partition("[")[2].rstrip("]")) < 20
    matrix.saw("found within 20 tests")


@fault("H20")
def test_pinned_host_memory_is_a_level_of_its_own(fakes: Session, matrix: Matrix) -> None:
    """The device's memory does not move; what is pinned does."""
    assert (fakes.held("test_h20_pinned"), fakes.held("test_h20_pinned", "pinned")) == (0, 2 * MIB)
    assert "left behind 2.0 MiB of pinned host memory on cuda:0" in fakes.told("test_h20_pinned")
    assert "module variable `KEPT`" in fakes.told("test_h20_pinned")
    matrix.saw("found as pinned host memory")


@fault("H22")
def test_a_fraction_of_nothing_is_refused_by_the_device(matrix: Matrix) -> None:
    """What is left for each of 32 processes of a 16 GiB device, less their contexts, is below zero: no process can be held to it."""
    device = FakeDevice(total=16 * GIB)
    with pytest.raises(ValueError, match=r"Invalid fraction value: -0\.02"):
        device.set_fraction(round((16 - 32 * 0.85) / 16 / 32, 2))
    device.set_fraction(0.0)
    with pytest.raises(RuntimeError, match=r"out of memory.*0\.00 GiB allowed"):
        device.allocate(1)
    matrix.saw("refused with the value")
