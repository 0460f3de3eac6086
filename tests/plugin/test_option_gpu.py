"""`--gpu`: without it GPU tests are skipped with the reason; with it and no GPU the session does not start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_llmguard import gpu

if TYPE_CHECKING:
    from tests.plugin.conftest import Toy

TESTS = """
import pytest

@pytest.fixture
def dear():
    raise AssertionError("no fixture of a skipped test is set up")

@pytest.mark.gpu
def test_toy_gpu(dear): pass

@pytest.mark.gpu_memory(leak="1 MiB")
def test_toy_memory(dear): pass

def test_toy_cpu(): pass
"""


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that says it has one."""
    monkeypatch.setattr(gpu, "ask", lambda: {"devices": 1, "reason": ""})


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that says it has none."""
    monkeypatch.setattr(gpu, "ask", lambda: {"devices": 0, "reason": "no GPU driver is installed"})


def test_without_it_gpu_tests_are_skipped(toy: Toy) -> None:
    """Before any fixture, with the option to give; nothing else is touched."""
    toy.write("test_gpu.py", TESTS)
    result = toy.run("-rs", only="test_toy")
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(["SKIPPED * needs a GPU: run pytest with --gpu"])


@pytest.mark.usefixtures("a_gpu")
def test_with_it_gpu_tests_run(toy: Toy) -> None:
    """Where there is a GPU, GPU checks run like any."""
    assert toy.outcomes(toy.report("--gpu"))["toy_runs_on_a_gpu"] == "passed"


@pytest.mark.usefixtures("no_gpu")
def test_with_it_and_none_nothing_runs(toy: Toy, axis: tuple[str, ...]) -> None:
    """A usage error with the reason, told once, never a skip; the JSON report holds it."""
    result = toy.run(*axis, "--gpu", "--llmguard-json", "r.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    told = "--gpu was given and there is no GPU to use: no GPU driver is installed"
    assert [line for line in result.errlines if line] == [f"ERROR: {told}"]
    assert told in toy.read("r.json")["error"]


@pytest.mark.usefixtures("no_gpu")
def test_from_the_ini_file_and_back(toy: Toy) -> None:
    """`llmguard_gpu = true` asks for it; `--no-gpu` takes it back."""
    toy.write("pytest.ini", "[pytest]\nllmguard_gpu = true\n")
    assert toy.run().ret == pytest.ExitCode.USAGE_ERROR
    assert toy.outcomes(toy.report("--no-gpu"))["toy_runs_on_a_gpu"] == "skipped"


def test_the_answer_comes_from_a_child() -> None:
    """The real question, on this machine: an answer, and torch is not loaded by it."""
    answer = gpu.ask()
    assert set(answer) == {"devices", "reason"}
    assert bool(answer["devices"]) != bool(answer["reason"])


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import time; time.sleep(60)", "asking for a GPU: "),
        ("import os; os._exit(1)", "asking for a GPU: "),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "asking for a GPU: "),
    ],
)
def test_a_driver_that_hangs_or_crashes_is_a_reason(code: str, told: str) -> None:
    """Whatever becomes of the child, there is an answer in time: no GPU, and why."""
    answer = gpu.ask(code, deadline=1.0)
    assert answer["devices"] == 0
    assert answer["reason"].startswith(told)


def test_drivers_are_asked_before_torch() -> None:
    """Without a driver torch is not even imported in the child: the answer comes in well under its import time."""
    assert gpu.ASK.index("devices, reason = driver()") < gpu.ASK.index("devices, reason = torch_sees()")
    found = gpu.ask(gpu.ASK.replace("libcuda.so.1", "libno1.so").replace("libamdhip64.so", "libno2.so"))
    assert found == {"devices": 0, "reason": "no GPU driver is installed (neither libno1.so nor libno2.so)"}
