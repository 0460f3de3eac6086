"""The marker and the fixture on GPU memory, on an allocator that stands in for torch's."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING

import pytest

from pytest_llmguard import gpu

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 2**20


class Cuda:
    """Two devices; what is held on each and its peak."""

    def __init__(self) -> None:
        self.held, self.peaks, self.available = [3 * MIB, 0], [9 * MIB, 0], True

    def is_available(self) -> bool:
        return self.available

    def device_count(self) -> int:
        return 2

    def memory_allocated(self, device: int) -> int:
        return self.held[device]

    def max_memory_allocated(self, device: int) -> int:
        return self.peaks[device]

    def reset_peak_memory_stats(self, device: int) -> None:
        self.peaks[device] = self.held[device]

    def take(self, size: int, device: int = 0) -> None:
        self.held[device] += size
        self.peaks[device] = max(self.peaks[device], self.held[device])


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    """A torch that is loaded, with a GPU, in a session that asked for one."""
    fake = Cuda()
    monkeypatch.setitem(__import__("sys").modules, "torch", types.SimpleNamespace(cuda=fake, take=fake.take))
    monkeypatch.setattr(gpu, "ask", lambda: {"devices": 1, "reason": ""})
    return fake


def source(body: str, marker: str = "") -> str:
    """A test module with one test."""
    fixture = ", gpu_memory" if "gpu_memory." in body else ""
    return f"import pytest, torch\nMIB = 2**20\n{marker}\ndef test_it(request{fixture}):\n    {body}\n"


@pytest.mark.parametrize(
    ("marker", "body", "told"),
    [
        ('leak="1 MiB"', "torch.take(MIB)", ""),
        (
            'leak="1 MiB"',
            "torch.take(MIB + 1)",
            "the test left behind 1.00 MiB of GPU memory; gpu_memory(leak=…) allows 1.00 MiB",
        ),
        ('leak="1 MiB"', "torch.take(3 * MIB, 1)", "the test left behind 3.00 MiB"),
        ("leak=0", "torch.take(512)", "the test left behind 0.00 MiB"),
        ('leak="1 MiB"', "torch.take(5 * MIB); torch.take(-5 * MIB)", ""),
        ('peak="2 MiB"', "torch.take(2 * MIB); torch.take(-2 * MIB)", ""),
        (
            'peak="2 MiB"',
            "torch.take(3 * MIB); torch.take(-3 * MIB)",
            "the test used 3.00 MiB of GPU memory; gpu_memory(peak=…) allows 2.00 MiB",
        ),
    ],
)
@pytest.mark.usefixtures("cuda")
def test_the_marker_holds_a_test_to_its_limits(
    inner: Callable[..., pytest.RunResult], pytester: pytest.Pytester, marker: str, body: str, told: str
) -> None:
    """What was held before the test is nobody's fault; devices are summed; the peak is the test's own."""
    pytester.makepyfile(source(body, f"@pytest.mark.gpu_memory({marker})"))
    result = inner("--gpu")
    result.assert_outcomes(passed=1, errors=1 if told else 0)
    assert told in result.stdout.str()


@pytest.mark.usefixtures("cuda")
def test_memory_of_a_fixture_is_not_the_tests(
    inner: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    """It is read after all fixtures are gone: what a fixture takes and gives back is no leak."""
    pytester.makepyfile(
        "import pytest, torch\n@pytest.fixture\ndef model():\n    torch.take(9 * 2**20)\n    yield\n    torch.take(-9 * 2**20)\n"
        "@pytest.mark.gpu_memory(leak='1 MiB')\ndef test_it(model): pass\n"
    )
    inner("--gpu").assert_outcomes(passed=1)


@pytest.mark.usefixtures("cuda")
def test_a_failed_test_is_not_judged(
    inner: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    """Its frames hold its tensors; one failure is enough."""
    pytester.makepyfile(source("torch.take(9 * MIB); assert False", "@pytest.mark.gpu_memory(leak='1 MiB')"))
    inner("--gpu").assert_outcomes(failed=1)


def test_what_cannot_be_measured_is_said(
    inner: Callable[..., pytest.RunResult], pytester: pytest.Pytester, cuda: Cuda
) -> None:
    """A test that never met a GPU is no test within its limits: the skip says why."""
    cuda.available = False
    pytester.makepyfile(source("pass", "@pytest.mark.gpu_memory(leak='1 MiB')"))
    result = inner("--gpu", "-rs")
    result.assert_outcomes(passed=1, skipped=1)
    assert "gpu_memory could not be measured" in result.stdout.str()


@pytest.mark.parametrize(
    ("marker", "told"),
    [
        ("", "it takes leak= and peak= by keyword, each a size such as '2 GiB'; got neither"),
        ("'1 MiB'", "got '1 MiB'"),
        ("leek='1 MiB'", "got leek"),
        ("leak='much'", "leak='much' is not allowed: expected bytes, or a size such as '512 MiB'"),
        ("leak=-1", "leak=-1 is not allowed"),
        ("leak=1.5", "leak=1.5 is not allowed"),
    ],
)
@pytest.mark.usefixtures("cuda")
def test_a_wrong_marker_is_one_clean_line(
    inner: Callable[..., pytest.RunResult], pytester: pytest.Pytester, marker: str, told: str
) -> None:
    """In set-up, without a traceback."""
    pytester.makepyfile(source("pass", f"@pytest.mark.gpu_memory({marker})"))
    result = inner("--gpu")
    result.assert_outcomes(errors=1)
    assert f"@pytest.mark.gpu_memory: {told}" in result.stdout.str() or told in result.stdout.str()
    assert "Traceback" not in result.stdout.str()


@pytest.mark.usefixtures("cuda")
def test_the_fixture_reads_the_allocator(
    inner: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    """What is held, the peak since the beginning, and how much was added."""
    readings = "(gpu_memory.allocated, gpu_memory.peak, gpu_memory.grown)"
    body = f"torch.take(4 * MIB); torch.take(-MIB)\n    assert {readings} == (6 * MIB, 7 * MIB, 3 * MIB)"
    pytester.makepyfile(source(body))
    inner().assert_outcomes(passed=1)


def test_the_fixture_skips_where_there_is_nothing_to_read(
    inner: Callable[..., pytest.RunResult], pytester: pytest.Pytester, cuda: Cuda
) -> None:
    """No GPU: a skip with the reason."""
    cuda.available = False
    pytester.makepyfile(source("assert gpu_memory.allocated"))
    result = inner("-rs")
    result.assert_outcomes(skipped=1)
    assert "no GPU memory to measure: torch is not imported, or sees no GPU" in result.stdout.str()
