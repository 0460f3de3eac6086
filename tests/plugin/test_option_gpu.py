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
    result.assert_outcomes(passed=1, skipped=1)
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
    assert set(answer) == {"devices", "kind", "reason", "uuids"}
    assert bool(answer["devices"]) == bool(answer["kind"]) != bool(answer["reason"])


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


NO_DRIVER = gpu.ASK.replace("libcuda.so.1", "libno1.so").replace("libamdhip64.so", "libno2.so")
NO_DRIVER = (
    NO_DRIVER.replace("libze_loader.so.1", "libno3.so")
    .replace("/dev/kfd", "/no/kfd")
    .replace("/dev/dri", "/no/dri")
)


def test_drivers_are_asked_before_torch() -> None:
    """Without a driver torch is not even imported in the child: the answer comes in well under its import time."""
    assert gpu.ASK.index("devices, reason = driver()") < gpu.ASK.index("devices, reason, kind = torch_sees()")
    told = "no GPU driver is installed (none of libno1.so, libno2.so, libno3.so)"
    assert gpu.ask(NO_DRIVER) == {"devices": 0, "kind": "", "reason": told, "uuids": []}


TORCH = """
import sys, types
class On:
    def __init__(self, count, why=""): self.count, self.why = count, why
    def is_available(self): return self.count > 0
    def device_count(self): return self.count
    def current_accelerator(self): return types.SimpleNamespace(type="npu")
    def init(self):
        if self.why: raise RuntimeError(self.why)
none, have = On(0), On({count})
version = types.SimpleNamespace(cuda="13.0", hip={hip}, xpu=None)
fake = types.SimpleNamespace(
    __version__="9", __spec__=object(), version=version, cuda={cuda}, xpu={xpu}, accelerator={accelerator},
    backends=types.SimpleNamespace(mps={mps}),
)
sys.modules["torch"] = fake
import importlib.util
importlib.util.find_spec = lambda name: object()
"""
NOWHERE = {"count": 1, "hip": None, "cuda": "none", "xpu": "none", "mps": "none", "accelerator": "none"}


@pytest.mark.parametrize(
    ("there", "devices", "kind"),
    [
        ({"cuda": "have", "count": 4}, 4, "cuda"),
        ({"cuda": "have", "hip": "'6.4'", "count": 2}, 2, "rocm"),
        ({"xpu": "have", "count": 2}, 2, "xpu"),
        ({"mps": "have"}, 1, "mps"),
        ({"accelerator": "have", "count": 8}, 8, "npu"),
    ],
)
def test_every_kind_that_torch_can_use_counts(there: dict[str, object], devices: int, kind: str) -> None:
    """CUDA, ROCm, XPU, Metal, and whatever else torch.accelerator knows."""
    code = TORCH.format(**{**NOWHERE, **there}) + NO_DRIVER.replace('"/no/kfd"', '"/"')
    assert gpu.ask(code) == {"devices": devices, "kind": kind, "reason": "", "uuids": []}


@pytest.mark.parametrize(
    ("cuda", "reason"),
    [
        (
            "On(0, 'The NVIDIA driver on your system is too old')",
            "torch 9 cannot use the driver: The NVIDIA driver on your system is too old",
        ),
        ("none", "torch 9 cannot use the driver: it finds no device that it can use"),
    ],
)
def test_torchs_own_words_are_the_reason(cuda: str, reason: str) -> None:
    """Why it cannot use what is there."""
    code = TORCH.format(**{**NOWHERE, "cuda": cuda}) + NO_DRIVER.replace('"/no/kfd"', '"/"')
    assert gpu.ask(code) == {"devices": 0, "kind": "", "reason": reason, "uuids": []}


def test_a_torch_without_gpu_support_says_so() -> None:
    """The wheel of the CPU index on a machine with a driver."""
    code = TORCH.format(**NOWHERE).replace('"13.0"', "None") + NO_DRIVER.replace('"/no/kfd"', '"/"')
    assert gpu.ask(code)["reason"] == "torch 9 was built without GPU support"
