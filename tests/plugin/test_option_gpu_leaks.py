"""`--llmguard-gpu-leaks`: every test of the session is held to leave no memory behind; 500 clean ones raise no alarm."""

from __future__ import annotations

import importlib.util
import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.plugin.conftest import Toy

HEAD = """
import pytest
from llmguard.memory import devices
MIB = 2**20
KEPT = []
"""
LEAKS = f"""{HEAD}
def test_toy_clean(): assert devices()[0].tensor(MIB)
def test_toy_leaks(): KEPT.append(devices()[0].tensor(MIB))
"""
CONFTEST = """
from llmguard import memory
from support.device_memory import FakeDevice
FAKE = FakeDevice(hides={hides!r})
memory.use([FAKE])

def pytest_unconfigure():
    print("asked", FAKE.calls.get("allocated", 0), "settled", FAKE.calls.get("settle", 0))
"""


@pytest.fixture
def gpu(pytester: pytest.Pytester) -> None:
    """A device."""
    pytester.makeconftest(CONFTEST.format(hides={}))


@pytest.fixture
def inner(apart: Callable[..., pytest.RunResult]) -> Callable[..., pytest.RunResult]:
    """Sessions are processes of their own."""
    return apart


@pytest.fixture
def guarded(
    pytester: pytest.Pytester, inner: Callable[..., pytest.RunResult]
) -> Callable[..., pytest.RunResult]:
    """Run a module as a guarded session."""

    def run(source: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(source)
        return inner("--llmguard-gpu-leaks", *arguments)

    return run


@pytest.mark.usefixtures("gpu")
def test_without_it_nothing_is_measured(
    pytester: pytest.Pytester, inner: Callable[..., pytest.RunResult]
) -> None:
    """Not asked, not loaded, not said."""
    pytester.makepyfile(LEAKS)
    result = inner()
    result.assert_outcomes(passed=2)
    assert "llmguard: memory" not in result.stdout.str()


@pytest.mark.usefixtures("gpu")
def test_with_it_a_leak_is_an_error_of_its_test(guarded: Callable[..., pytest.RunResult]) -> None:
    """1 MiB is found in one run; the summary names the test and who holds the memory."""
    result = guarded(LEAKS)
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_toy_leaks*",
            "*test_toy_leaks: the test left behind 1.0 MiB of GPU memory on cuda:0*; 512 KiB are allowed.*",
            "*llmguard: memory*",
            "2 tests measured, 1 leak",
            "leak: *::test_toy_leaks: 1.0 MiB of GPU memory on cuda:0: module global: module variable `KEPT`*",
            "ERROR *::test_toy_leaks*",
        ]
    )


@pytest.mark.usefixtures("gpu")
def test_from_the_ini_file_and_back(
    pytester: pytest.Pytester, inner: Callable[..., pytest.RunResult]
) -> None:
    """`llmguard_gpu_leaks = true` asks for it; `--no-llmguard-gpu-leaks` takes it back; a value that cannot be is told."""
    pytester.makepyfile(LEAKS)
    pytester.makeini("[pytest]\nllmguard_gpu_leaks = true\n")
    inner().assert_outcomes(passed=2, errors=1)
    inner("--no-llmguard-gpu-leaks").assert_outcomes(passed=2)
    pytester.makeini("[pytest]\nllmguard_gpu_leaks = perhaps\n")
    result = inner()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "llmguard_gpu_leaks" in "\n".join(result.errlines)


@pytest.mark.usefixtures("gpu")
def test_a_marker_of_its_own_wins(guarded: Callable[..., pytest.RunResult]) -> None:
    """A test that may leave more says so; one that may leave less, too; one with a peak alone is held to the peak alone."""
    result = guarded(
        f"{HEAD}\n"
        "@pytest.mark.gpu_memory(leak='2 MiB')\ndef test_more(): KEPT.append(devices()[0].tensor(MIB))\n"
        "@pytest.mark.gpu_memory(leak=0)\ndef test_less(): KEPT.append(devices()[0].tensor(512))\n"
        "@pytest.mark.gpu_memory(peak='4 MiB')\ndef test_peak(): KEPT.append(devices()[0].tensor(3 * MIB))\n"
    )
    result.assert_outcomes(passed=3, errors=1)
    assert "test_less: the test left behind 512 B" in result.stdout.str()


def test_skipped_failed_and_broken_tests_are_measured_too(toy: Toy, root: Path) -> None:
    """A skip in the middle, a set-up and a teardown that raise: outcomes stay, nothing is invented, a leak beside is told.

    In a process of its own: in this one, the recorder of pytester keeps every exception.
    """
    toy.write("conftest.py", CONFTEST.format(hides={}))
    toy.write(
        "test_many.py",
        f"{HEAD}\n"
        "def test_skips():\n    x = devices()[0].tensor(9 * MIB)\n    pytest.skip('no')\n"
        "@pytest.fixture\ndef broken():\n    x = devices()[0].tensor(9 * MIB)\n    raise OSError(str(x))\n"
        "def test_setup(broken): pass\n"
        "@pytest.fixture\ndef breaks():\n    yield devices()[0].tensor(9 * MIB)\n    raise OSError\n"
        "def test_teardown(breaks): pass\n"
        "def test_both(breaks): KEPT.append(devices()[0].tensor(MIB))\n"
        "@pytest.mark.xfail\ndef test_expected():\n    x = devices()[0].tensor(9 * MIB)\n    assert not x\n",
    )
    done = toy.process("--llmguard-gpu-leaks", only="test_many", PYTHONPATH=str(root / "tests"))
    for count in ("2 passed", "1 skipped", "1 xfailed", "3 errors"):
        assert count in done.stdout, done.stdout
    assert re.findall(r"test_(\w+): the test left behind", done.stdout) == ["both"]


def test_under_xdist_each_worker_measures_and_the_summary_is_one(toy: Toy, root: Path) -> None:
    """Leaks of all workers, how many tests, what could not be measured and why: once."""
    hides = {"driver": "the driver gives no memory per process here (MIG, WSL or a container)"}
    toy.write("conftest.py", CONFTEST.format(hides=hides))
    toy.write("test_leaks.py", LEAKS)
    done = toy.process("-n", "2", "--llmguard-gpu-leaks", only="test_toy", PYTHONPATH=str(root / "tests"))
    assert "2 passed, 1 error" in done.stdout, done.stdout
    assert "2 tests measured, 1 leak" in done.stdout
    assert done.stdout.count("leak: test_leaks.py::test_toy_leaks") == 1
    told = "not measured: driver, this process and its children on cuda:0: the driver gives no memory per process here"
    assert done.stdout.count(told) == 1


CLEAN = f"""{HEAD}
GPU = devices()[0]

@pytest.fixture(scope="module", params=range(5))
def model(request):
    return GPU.tensor(8 * MIB)

class Node: pass

def fails():
    local = GPU.tensor(3 * MIB)
    raise ValueError(str(local))

@pytest.mark.parametrize("number", range(100))
def test_clean(model, number):
    GPU.multiply(number % 3)
    GPU.compile(number % 2, MIB)
    GPU.others = number * 100 * MIB
    one, other = Node(), Node()
    one.other, other.other, one.tensor = other, one, GPU.tensor(number * 70_000)
    with pytest.raises(ValueError):
        fails()
    if number % 10 == 0:
        assert GPU.pinned_tensor(MIB)
"""
CLEAN_ON_THE_HEAP = """
import functools
import pytest
import torch

@pytest.fixture(scope="module", params=range(5))
def model(request):
    return torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 8))

@functools.lru_cache
def mask(size):
    return torch.ones(size, size).tril()

@pytest.mark.parametrize("number", range(100))
def test_clean(model, number, tmp_path):
    optimizer = torch.optim.AdamW(model.parameters())
    batch = torch.randn(8 + number % 5, 64)
    loss = model(batch).log_softmax(-1)[:, 0].mean() + mask(16 + number % 4).sum() * 0
    loss.backward()
    optimizer.step()
    model.zero_grad()
    losses = [loss]
    losses.append(losses)
    if number % 10 == 0:
        torch.save(model.state_dict(), tmp_path / "model.pt")
        with pytest.raises(RuntimeError):
            model(torch.ones(3, 3))
"""


@pytest.mark.usefixtures("gpu")
def test_500_clean_tests_on_a_gpu_raise_no_alarm(guarded: Callable[..., pytest.RunResult]) -> None:
    """Workspaces, graph pools, cycles, exceptions, model fixtures, noisy neighbours, pinned memory for a moment."""
    result = guarded(CLEAN, "-q", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=500)
    assert "500 tests measured, 0 leaks" in result.stdout.str()
    asked, settled = map(
        int, re.findall(r"^asked (\d+) settled (\d+)$", result.stdout.str(), re.MULTILINE)[0]
    )
    assert asked > 1000, "nothing was measured"
    assert settled > 400, "no workspace was in the way"


@pytest.mark.needs_torch
def test_500_clean_tests_on_the_heap_raise_no_alarm(toy: Toy) -> None:
    """Training steps, caches of masks, cycles, files: with real tensors, by what malloc has handed out."""
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    toy.write("conftest.py", "")
    toy.write("test_many.py", CLEAN_ON_THE_HEAP)
    done = toy.process(
        "--llmguard-gpu-leaks", "-q", "-p", "no:cacheprovider", only="test_clean", OMP_NUM_THREADS="1"
    )
    assert "500 passed" in done.stdout, done.stdout
    assert "500 tests measured, 0 leaks" in done.stdout
    assert "by glibc mallinfo2" in done.stdout or "by storages of live tensors" in done.stdout
    assert "drift" not in done.stdout
