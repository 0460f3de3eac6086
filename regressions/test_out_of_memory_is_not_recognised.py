"""A full memory is not recognised, and the smaller batch is never tried.

Symptom: `auto_find_batch_size` is on, and the run ends all the same: "CUDA error: out of memory", CUBLAS_STATUS_ALLOC_FAILED.
Severity: medium
Cause: accelerate knows five sentences; what drivers, cuBLAS, Triton, and Python itself say of a full memory is none of them. And one of
    the five (CUDNN_STATUS_NOT_SUPPORTED) is no full memory: halving goes down to nought over an input that is not contiguous.
First seen: accelerate as installed, `should_reduce_batch_size`; measured here
Cost: a run that an hour later would have fitted with half the batch.
Check: llmguard.memory.oom.is_oom, llmguard_core.training.oom.halving
Lesson: tell an out of memory by its type first, then by what each layer really writes, and test the list against those texts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.importing import imported

from llmguard.memory.oom import is_oom
from llmguard_core.errors import OutOfMemory
from llmguard_core.training.oom import halving

pytestmark = pytest.mark.usefixtures("frozen")  # garbage is collected before each attempt
FULL: dict[str, Callable[[], BaseException]] = {
    "driver": lambda: RuntimeError(
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"
    ),
    "cuBLAS": lambda: RuntimeError(
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    ),
    "Triton": lambda: RuntimeError("Triton Error [CUDA]: out of memory"),
    "Python": MemoryError,
    "torch": lambda: imported("torch").OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"
    ),
}
OTHER: dict[str, Callable[[], BaseException]] = {
    "cuDNN": lambda: RuntimeError(
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input."
    ),
    "assert": lambda: RuntimeError("CUDA error: device-side assert triggered"),
}
KNOWN = "torch"
"""The one of them that accelerate recognises."""
FITS = 4


def _step(error: Callable[[], BaseException]) -> tuple[Callable[[int], int], list[int]]:
    """A training step that fits with four rows; and the sizes that were tried."""
    tried: list[int] = []

    def step(size: int) -> int:
        tried.append(size)
        if size > FITS:
            raise error()
        return size

    return step, tried


def broken(error: Callable[[], BaseException]) -> list[int]:
    """What `auto_find_batch_size=True` does, from 16 rows on; the sizes that were tried."""
    from accelerate.utils import find_executable_batch_size

    step, tried = _step(error)

    def halved() -> int:
        return tried[-1] // 2

    def named(batch_size: int) -> int:
        return step(batch_size)

    find_executable_batch_size(named, starting_batch_size=16, reduce_batch_size_fn=halved)()
    return tried


def fixed(error: Callable[[], BaseException]) -> list[int]:
    """The core's."""
    step, tried = _step(error)
    halving(step, 16)
    return tried


@pytest.mark.parametrize("who", [who for who in FULL if who != KNOWN])
def test_witness(who: str) -> None:
    """The error goes through at the first size, although four rows would have fitted; the core finds them."""
    with pytest.raises(type(FULL[who]())):
        broken(FULL[who])
    assert fixed(FULL[who]) == [16, 8, 4]


def test_witness_of_what_is_known() -> None:
    """What torch's allocator says is known to both; so the witness above is not about how it asks."""
    assert broken(FULL[KNOWN]) == fixed(FULL[KNOWN]) == [16, 8, 4]


def test_witness_of_a_false_alarm() -> None:
    """An input that cuDNN cannot take is tried with ever fewer rows; the core says at once what it is."""
    assert broken(OTHER["cuDNN"])[-1] == FITS
    with pytest.raises(RuntimeError, match="non-contiguous"):
        fixed(OTHER["cuDNN"])


@pytest.mark.parametrize("who", FULL)
def test_check_rejects(who: str) -> None:
    """Each of them is told for what it is; where not even one row fits, in one error that says so."""
    assert is_oom(FULL[who]())

    def never(size: int) -> Any:
        raise FULL[who]()

    with pytest.raises(OutOfMemory, match="one row at a time does not fit"):
        halving(never, 2)


@pytest.mark.parametrize("who", OTHER)
def test_check_accepts(who: str) -> None:
    """What only looks like it goes through as it is; and a step that fits is done once."""
    assert not is_oom(OTHER[who]())
    assert halving(lambda size: size, 16) == (16, 16)
