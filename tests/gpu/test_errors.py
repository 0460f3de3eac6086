"""Errors as the hardware really raises them: memory that is not there, a share that is used up, a context that is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs_torch
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def child(code: str, timeout: float = 300.0) -> str:
    """What a process of its own prints: an error of the device costs it its context, and not ours."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout, check=False
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("device", DEVICES)
def test_memory_that_is_not_there(device: str) -> None:
    """The allocator's own error is known by its type, or by its words; afterwards the device works as before."""
    import torch

    from llmguard.memory.oom import classify

    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**47, dtype=torch.uint8, device=device)
    assert classify(caught.value) == "out of memory", caught.value
    assert float(torch.ones(3, device=device).sum()) == 3.0


SHARE = """
import torch
from llmguard.memory.oom import classify
from llmguard.placement import fraction_of
free, total = torch.cuda.mem_get_info()
share = fraction_of(total, free, 4)
torch.cuda.set_per_process_memory_fraction(share)
inside = torch.empty(int(share * total * 0.9), dtype=torch.uint8, device="cuda")
try:
    torch.empty(int(share * total * 0.2), dtype=torch.uint8, device="cuda")
except Exception as error:
    print("SAID", classify(error), type(error).__name__)
"""


@pytest.mark.gpu
def test_a_share_that_is_used_up() -> None:
    """What `--llmguard-budget` sets is kept by torch's allocator, and its error is one of memory."""
    assert "SAID out of memory OutOfMemoryError" in child(SHARE)


LOST = """
import torch
from llmguard.memory.oom import classify
table = torch.zeros(4, device="cuda")
try:
    table[torch.tensor([99], device="cuda")]
    torch.cuda.synchronize()
except Exception as error:
    print("FIRST", classify(error), type(error).__name__)
try:
    torch.ones(1, device="cuda").sum().item()
except Exception as error:
    print("LATER", classify(error))
"""


@pytest.mark.gpu
def test_an_assertion_on_the_device_is_the_end_of_a_context() -> None:
    """An index out of range: from then on every call of that process fails."""
    told = child(LOST)
    assert "FIRST poisoned" in told, told
    assert "LATER poisoned" in told, told


SESSION = """
import pytest, torch

@pytest.mark.gpu
def test_loses_it():
    torch.zeros(4, device="cuda")[torch.tensor([99], device="cuda")]

@pytest.mark.gpu
def test_after():
    torch.ones(1, device="cuda")

@pytest.mark.gpu_memory(leak="1 MiB")
def test_measured_after():
    torch.ones(1, device="cuda")

def test_plain():
    pass
"""


@pytest.mark.gpu
def test_a_session_goes_on_without_its_gpu(tmp_path: Path) -> None:
    """The kernel fails after its test has returned: it is that test's error all the same, and the GPU tests after it say so."""
    (tmp_path / "test_it.py").write_text(SESSION)
    quiet = ("-p", "no:hypothesispytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-q", "-rA")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *quiet, "--gpu"],
        cwd=tmp_path, env={**os.environ, "COLUMNS": "300"}, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    told = done.stdout
    assert "2 passed" in told or "1 passed" in told, told + done.stderr
    assert "the GPU context of this process was lost in" in told, told
    assert (
        told.count("not run: the GPU context of this process was lost in test_it.py::test_loses_it") == 2
    ), told
    assert "PASSED test_it.py::test_plain" in told, told
