"""The marker and the fixture on memory, on devices that stand in for torch's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmguard.memory import accelerators

if TYPE_CHECKING:
    from collections.abc import Callable

HEAD = """
import pytest
from llmguard.memory import devices
MIB = 2**20
KEPT = []
def take(size, device=0):
    KEPT.append(devices()[device].tensor(size))
"""


FAKES = """
from llmguard import memory
from support.device_memory import MIB, FakeDevice
FAKES = [FakeDevice(), FakeDevice("cuda:1")]
HELD = FAKES[0].tensor(3 * MIB)
memory.use(FAKES)
"""


@pytest.fixture
def gpus(pytester: pytest.Pytester) -> None:
    """Two devices; something is held on the first."""
    pytester.makeconftest(FAKES)


@pytest.fixture
def inner(
    request: pytest.FixtureRequest,
    inner: Callable[..., pytest.RunResult],
    apart: Callable[..., pytest.RunResult],
) -> Callable[..., pytest.RunResult]:
    """Sessions on fake devices are processes of their own."""
    return apart if "gpus" in request.fixturenames else inner


def source(body: str, marker: str = "") -> str:
    """A test module with one test."""
    fixture = "gpu_memory" if "gpu_memory." in body else ""
    return f"{HEAD}\n{marker}\ndef test_it({fixture}):\n    {body}\n"


@pytest.mark.parametrize(
    ("marker", "body", "told"),
    [
        ('leak="1 MiB"', "take(MIB)", ""),
        ('leak="1 MiB"', "take(MIB + 1)", "the test left behind 1,049,088 bytes of GPU memory on cuda:0"),
        ('leak="1 MiB"', "take(3 * MIB, 1)", "the test left behind 3.0 MiB of GPU memory on cuda:1"),
        ("leak=0", "take(512)", "the test left behind 512 B of GPU memory"),
        ('leak="1 MiB"', "take(5 * MIB); KEPT.clear()", ""),
        ('peak="2 MiB"', "take(2 * MIB); KEPT.clear()", ""),
        (
            'peak="2 MiB"',
            "take(3 * MIB); KEPT.clear()",
            "the test used 3.0 MiB of GPU memory on cuda:0 beyond what was held before; gpu_memory(peak=…) allows 2.0 MiB",
        ),
    ],
)
@pytest.mark.usefixtures("gpus")
def test_the_marker_holds_a_test_to_its_limits(
    inner: Callable[..., pytest.RunResult], pytester: pytest.Pytester, marker: str, body: str, told: str
) -> None:
    """What was held before the test is nobody's fault; each device is judged by itself; the peak is the test's own."""
    pytester.makepyfile(source(body, f"@pytest.mark.gpu_memory({marker})"))
    result = inner()
    result.assert_outcomes(passed=1, errors=1 if told else 0)
    assert told in result.stdout.str()


@pytest.mark.usefixtures("gpus")
def test_a_failure_has_five_parts_and_every_level(
    inner: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    """Where, what with the numbers of each level, why, what holds it, what to do."""
    pytester.makepyfile(test_five=source("take(3 * MIB)", "@pytest.mark.gpu_memory(leak='1 MiB')"))
    text = inner().stdout.str()
    assert "test_five.py:8, test_it: the test left behind 3.0 MiB of GPU memory on cuda:0 (GPU-0000" in text
    assert "allocator 3.0 MiB to 6.0 MiB; reserved 20.0 MiB to 20.0 MiB; driver, this process" in text
    assert "500 MiB to 500 MiB, 480 MiB of them outside of torch's allocator" in text
    assert "pinned host memory 0 B to 0 B" in text
    assert "Why it matters: what one test leaves is missing to all that follow" in text
    assert (
        "Likely cause: 3.0 MiB of it are held by: module global: module variable `KEPT` of test_five.py"
        in text
    )
    assert "Remedy: drop it in a teardown" in text


@pytest.mark.usefixtures("gpus")
def test_memory_of_a_fixture_is_not_the_tests(
    inner: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    """It is read after all fixtures are gone, their values too."""
    pytester.makepyfile(
        f"{HEAD}\n@pytest.fixture\ndef model():\n    yield devices()[0].tensor(9 * MIB)\n"
        "@pytest.mark.gpu_memory(leak=0)\ndef test_it(model): pass\n"
    )
    inner().assert_outcomes(passed=1)


@pytest.mark.parametrize("scope", ["class", "module", "package", "session"])
@pytest.mark.usefixtures("gpus")
def test_a_fixture_that_outlives_the_test_is_charged_by_itself(
    inner: Callable[..., pytest.RunResult], pytester: pytest.Pytester, scope: str
) -> None:
    """Its model is not counted to the first test; what it gives back hides no leak of the last."""
    pytester.makepyfile(
        f"{HEAD}\n@pytest.fixture(scope={scope!r})\ndef model():\n    yield devices()[0].tensor(9 * MIB)\n"
        "@pytest.mark.gpu_memory(leak=0)\nclass TestIt:\n"
        "    def test_first(self, model): take(3 * MIB)\n"
        "    def test_next(self, model): pass\n"
        "    def test_last(self, model): take(2 * MIB)\n"
    )
    result = inner()
    result.assert_outcomes(passed=3, errors=2)
    assert "TestIt.test_first: the test left behind 3.0 MiB" in result.stdout.str()
    assert "TestIt.test_last: the test left behind 2.0 MiB" in result.stdout.str()
    assert "fixtures that were torn down with it gave back 9.0 MiB" in result.stdout.str()


@pytest.mark.usefixtures("gpus")
def test_a_cache_beside_a_fixture_is_a_cache(
    inner: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    """What the fixture made in the same test is not taken for what holds the growth."""
    pytester.makepyfile(
        f"{HEAD}\n@pytest.fixture(scope='module')\ndef model(): return devices()[0].tensor(9 * MIB)\n"
        "@pytest.mark.gpu_memory(leak='1 MiB')\ndef test_it(model): devices()[0].compile('graph', 5 * MIB)\n"
        "def test_other(model): pass\n"
    )
    result = inner()
    result.assert_outcomes(passed=2)
    assert "1 times something grew once" in result.stdout.str()


@pytest.mark.usefixtures("gpus")
def test_a_fixture_that_keeps_what_it_made_is_named(
    inner: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    """Its teardown leaves the model behind: the fixture is told, not the test that happened to be the last."""
    pytester.makepyfile(
        f"{HEAD}\n@pytest.fixture(scope='module')\ndef model():\n    take(9 * MIB)\n    yield\n"
        "@pytest.mark.gpu_memory(leak='1 MiB')\ndef test_one(model): pass\n"
        "@pytest.mark.gpu_memory(leak='1 MiB')\ndef test_two(model): pass\n"
    )
    result = inner()
    result.assert_outcomes(passed=2, errors=1)
    assert (
        "fixture 'model (scope module)', torn down after this test, left behind 9.0 MiB"
        in result.stdout.str()
    )


@pytest.mark.usefixtures("gpus")
def test_a_failed_test_is_judged_without_its_frames(
    inner: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    """Its locals are no leak, whatever looked at them; what it keeps besides is."""
    pytester.makepyfile(
        f"{HEAD}\nlimit = pytest.mark.gpu_memory(leak='1 MiB')\n"
        "@limit\ndef test_locals():\n    x = devices()[0].tensor(9 * MIB)\n    assert not x\n"
        "@limit\ndef test_chained():\n    y = devices()[0].tensor(9 * MIB)\n    try:\n        raise KeyError('y')\n"
        "    except KeyError as error:\n        raise ValueError('x') from error\n"
        "@limit\ndef test_keeps():\n    take(2 * MIB)\n    assert False\n"
    )
    result = inner("-l")
    result.assert_outcomes(failed=3, errors=1)
    assert "test_keeps: the test left behind 2.0 MiB" in result.stdout.str()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("take(2 * MIB)", "Run 4 times it left 2.0 MiB, 2.0 MiB, 2.0 MiB, 2.0 MiB: a slope, not a cache"),
        ("KEPT or take(9 * MIB)", ""),
        ("take(9 * MIB if not KEPT else 0 if len(KEPT) > 1 else MIB)", ""),
    ],
)
@pytest.mark.usefixtures("gpus")
def test_repeating_tells_a_leak_from_a_cache(
    inner: Callable[..., pytest.RunResult], pytester: pytest.Pytester, body: str, told: str
) -> None:
    """A leak grows each time, a cache once or until it is full."""
    pytester.makepyfile(source(body, "@pytest.mark.gpu_memory(leak='1 MiB', repeat=3)"))
    result = inner()
    result.assert_outcomes(passed=1, errors=1 if told else 0)
    assert told in result.stdout.str()


@pytest.mark.usefixtures("gpus")
def test_what_fixtures_gather_while_a_test_is_repeated_is_no_leak(
    inner: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    """It is gone when they are."""
    pytester.makepyfile(
        f"{HEAD}\n@pytest.fixture\ndef log(): return []\n@pytest.mark.gpu_memory(leak='1 MiB', repeat=2)\n"
        "def test_it(log): log.append(devices()[0].tensor(3 * MIB))\n"
        "@pytest.mark.gpu_memory(leak='1 MiB', repeat=2)\n"
        "def test_with_a_cache(log): log.append(devices()[0].tensor(3 * MIB)); KEPT or take(2 * MIB)\n"
    )
    inner().assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("marker", "told"),
    [
        (
            "",
            "it takes leak= and peak= by keyword, each a size such as '2 GiB', and repeat=, a number of times; got neither",
        ),
        ("'1 MiB'", "got '1 MiB'"),
        ("leek='1 MiB'", "got leek"),
        ("leak='much'", "leak='much' is not allowed: expected bytes, or a size such as '512 MiB'"),
        ("leak=-1", "leak=-1 is not allowed"),
        ("leak=1.5", "leak=1.5 is not allowed"),
        ("leak=1, repeat=-1", "repeat=-1 is not allowed: expected how often the test is run again, 0 to 100"),
        ("repeat=2", "repeat= tells a leak from a cache: it needs leak="),
    ],
)
@pytest.mark.usefixtures("gpus")
def test_a_wrong_marker_is_one_clean_line(
    inner: Callable[..., pytest.RunResult], pytester: pytest.Pytester, marker: str, told: str
) -> None:
    """In set-up, without a traceback."""
    pytester.makepyfile(source("pass", f"@pytest.mark.gpu_memory({marker})"))
    result = inner()
    result.assert_outcomes(errors=1)
    assert "@pytest.mark.gpu_memory: " in result.stdout.str()
    assert told in result.stdout.str()
    assert "Traceback" not in result.stdout.str()


@pytest.mark.usefixtures("gpus")
def test_the_fixture_reads_the_devices(
    inner: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    """What is held, the peak since the beginning, how much was added; each level by device."""
    readings = "(gpu_memory.allocated, gpu_memory.peak, gpu_memory.grown)"
    body = (
        "take(3 * MIB); take(MIB); KEPT.pop()\n"
        f"    assert {readings} == (6 * MIB, 7 * MIB, 3 * MIB)\n"
        "    assert gpu_memory.figures()['cuda:0'].reserved > 20 * MIB\n"
        "    KEPT.clear(); gpu_memory.settle()\n"
        "    assert gpu_memory.figures()['cuda:1'].reserved == 0"
    )
    pytester.makepyfile(source(body))
    inner().assert_outcomes(passed=1)


def test_without_a_gpu_the_heap_is_measured(
    inner: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    """A marked test is held to its limit of host memory, and the message says so; what keeps no peak says that."""
    pytester.makepyfile(
        "import ctypes, pytest\nKEPT = []\nlibc = ctypes.CDLL(None)\nlibc.malloc.restype = ctypes.c_void_p\n"
        "@pytest.mark.gpu_memory(leak='1 MiB', repeat=2)\ndef test_leaks(): KEPT.append(libc.malloc(ctypes.c_size_t(2**22)))\n"
        "@pytest.mark.gpu_memory(leak='1 MiB')\ndef test_clean(): pass\n"
        "@pytest.mark.gpu_memory(peak='1 MiB')\ndef test_peak(gpu_memory): assert gpu_memory.allocated > 0; gpu_memory.peak\n"
    )
    result = inner("-rs")
    result.assert_outcomes(passed=2, skipped=1, errors=1)
    text = result.stdout.str()
    assert "test_leaks: the test left behind 1" in text
    assert "of host memory on cpu; 1.0 MiB are allowed" in text
    assert "Run 3 times it left 4.0 MiB, 4.0 MiB, 4.0 MiB: a slope, not a cache" in text
    assert (
        "not measured: GPU memory: no GPU was used here, or torch sees none: host memory was measured, by "
        in text
    )
    assert "not measured: peak=: no peak is kept for this memory" in text
    assert "no peak is kept on cpu" in text


def test_where_there_is_a_gpu_it_has_to_be_asked_for(
    inner: Callable[..., pytest.RunResult], pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver is here and `--gpu` was not given: host memory is no substitute."""
    monkeypatch.setattr(accelerators, "driver_is_here", lambda: True)
    pytester.makepyfile(source("pass", "@pytest.mark.gpu_memory(leak='1 MiB')"))
    result = inner("-rs")
    result.assert_outcomes(skipped=1)
    assert "needs a GPU: run pytest with --gpu" in result.stdout.str()
