"""One planted leak of each class, and what must not be taken for one: for a pytest of its own, on the device that PLANTS_DEVICE names."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
import types
from typing import Any

import pytest
import torch

DEVICE = os.environ.get("PLANTS_DEVICE", "cpu")
SIZE = 2 * 2**20
"""Values of a plant: 8 MiB."""
KEPT: list[Any] = []
OTHERS = pytest.mark.skipif(DEVICE == "cpu", reason="host memory is each process' own")
pytestmark = [
    pytest.mark.gpu_memory(leak="1 MiB"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]


def planted() -> torch.Tensor:
    """Memory on the device."""
    return torch.ones(SIZE, device=DEVICE)


def model() -> torch.nn.Module:
    """One weight of that size."""
    return torch.nn.Linear(SIZE, 1, bias=False, device=DEVICE)


@pytest.fixture(scope="session")
def long_lived() -> torch.Tensor:
    """Memory of a fixture that outlives the test."""
    return planted()


@functools.lru_cache
def cached(number: int) -> torch.Tensor:
    """Remembered for ever."""
    return planted() * number


def test_h1_leaks_into_a_module_global() -> None:
    KEPT.append(planted())


def test_h2_leaks_by_a_kept_exception() -> None:
    try:
        large = planted()
        raise ValueError(large.shape)
    except ValueError as error:
        KEPT.append(error)


def test_h3_fails_with_a_large_local() -> None:
    large = planted()
    assert large.sum() == 0


def test_h4_is_not_blamed_for_a_session_fixture(long_lived: torch.Tensor) -> None:
    assert long_lived.numel() == SIZE


@pytest.mark.parametrize("argument", [planted()])
def test_h5_is_not_blamed_for_what_it_is_given(argument: torch.Tensor) -> None:
    assert argument.numel() == SIZE


def test_h6_leaks_into_an_lru_cache() -> None:
    cached(1)


def test_h7_leaks_by_a_hook_of_accelerate() -> None:
    from accelerate.hooks import ModelHook, add_hook_to_module

    hooked = add_hook_to_module(model(), ModelHook())
    KEPT.append(hooked._old_forward)


def test_h8_leaks_a_second_adapter() -> None:
    from peft import LoraConfig, get_peft_model

    base = types.SimpleNamespace(model=None)
    net = torch.nn.Sequential(torch.nn.Linear(1024, 1024, device=DEVICE))
    base.model = get_peft_model(net, LoraConfig(target_modules=["0"], r=512))
    base.model.add_adapter("second", LoraConfig(target_modules=["0"], r=1024))
    KEPT.append(base.model.base_model)


def test_h9_leaks_by_an_optimizer() -> None:
    net = model()
    KEPT.append(torch.optim.SGD(net.parameters()))


def test_h10_leaks_the_graphs_of_losses() -> None:
    net = model()
    for _ in range(2):
        KEPT.append((net.weight * planted()).sum())


def test_h13_warms_up() -> None:
    one = torch.ones(64, 64, device=DEVICE)
    assert float((one @ one)[0, 0]) == 64.0


def another(size: int) -> subprocess.Popen[str]:
    """A process that holds a tensor until it is told to end, or killed."""
    code = f"import torch; x = torch.ones({size}, device={DEVICE!r}); print('here', flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "here\n"
    return other


@OTHERS
def test_h15_stands_beside_another_process() -> None:
    other = another(8 * SIZE)
    small = torch.ones(16, device=DEVICE)
    other.communicate("\n", timeout=60)
    assert small.numel() == 16


@OTHERS
def test_h18_is_given_back_late_by_a_killed_child() -> None:
    other = another(64 * SIZE)
    threading.Timer(1.0, other.kill).start()
    other.wait(60)
    other.stdin and other.stdin.close()
    other.stdout.close()


def test_clean() -> None:
    assert planted().sum() == SIZE
