"""Out of memory: recognised in every disguise, never where it is something else; survived inside a real Trainer with the same weights."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from support.limited import limited, no_png, run
from support.matrix import fault
from support.runs import model, rows

from llmguard_core.errors import OutOfMemory
from llmguard_core.training import classify, halving, is_oom

__all__ = ["no_png"]
TRITON = "out of resource: shared memory, Required: 294912, Hardware limit: 232448. Reducing block sizes or `num_stages` may help."


class AcceleratorError(RuntimeError):
    """As torch 2.8 and later call what a driver tells."""


MEMORY = [
    torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 23.64 GiB"
    ),
    AcceleratorError(
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call"
    ),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("NCCL error: unhandled cuda error, Last error:\nCuda failure 2 'out of memory'"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000 bytes."
    ),
    MemoryError(),
    type("_ArrayMemoryError", (MemoryError,), {})(
        "Unable to allocate 7.28 TiB for an array with shape (1000000, 1000000)"
    ),
    torch.OutOfMemoryError("Allocation on device 0 would exceed allowed memory. (out of memory)"),
    RuntimeError("CUDA out of memory.", "Tried to allocate 2.00 GiB"),
    RuntimeError(
        "MPS backend out of memory (MPS allocated: 17.51 GB, other allocations: 384 KB, max allowed: 18.13 GB)"
    ),
    RuntimeError("level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"),
    OSError(12, "Cannot allocate memory"),
]
OTHER = [
    RuntimeError(TRITON),
    type("OutOfResources", (Exception,), {})(TRITON),
    AcceleratorError("CUDA error: device-side assert triggered"),
    AcceleratorError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: unspecified launch failure"),
    ValueError("the text says: out of memory"),
    OSError(28, "No space left on device"),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("error", MEMORY, ids=lambda e: f"{type(e).__name__}-{str(e)[:40]}")
@fault("J1", "J2", "J3", "J4", "J5", "J6", "J7", "J8", "J9", "J10", "J11", "J12")
def test_memory_errors_are_recognised(error: BaseException) -> None:
    """By type first, then by what allocators, libraries and drivers write."""
    assert is_oom(error)


@pytest.mark.parametrize("error", OTHER, ids=lambda e: f"{type(e).__name__}-{str(e)[:40]}")
@fault("J13", "J14", "J15")
def test_other_errors_are_not_taken_for_memory(error: BaseException) -> None:
    """Retrying them would hide a bug, or use a device that is lost."""
    assert not is_oom(error)


def test_a_lost_device_is_told_apart_and_a_named_cause_counts() -> None:
    """After a device-side assert nothing more works; an error raised from an out of memory is one."""
    assert [classify(e) for e in OTHER[2:5]] == ["poisoned"] * 3
    wrapped = RuntimeError("the step failed")
    wrapped.__cause__ = MEMORY[0]
    assert is_oom(wrapped)
    assert classify(RuntimeError("the step failed")) == "other"


@fault("J17")
def test_halving_retries_outside_of_the_except_block_with_nothing_left() -> None:
    """8, 4, 2: what an attempt held is gone when the next begins; other errors pass."""
    tried: list[int] = []
    held: list[Any] = []

    def attempt(size: int) -> str:
        assert all(ref() is None for ref in held)
        activations = torch.ones(10)
        held.append(weakref.ref(activations))
        tried.append(size)
        if size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return "done"

    assert halving(attempt, 8) == ("done", 2)
    assert tried == [8, 4, 2]
    with pytest.raises(ZeroDivisionError):
        halving(lambda size: str(size // 0), 8)


def test_an_error_that_somebody_keeps_keeps_no_tensors() -> None:
    """A logger, a debugger, a pool of futures: the frames of the failed attempt are cleared all the same."""
    errors: list[BaseException] = []
    held: list[Any] = []

    def attempt(size: int) -> str:
        assert all(ref() is None for ref in held)
        activations = torch.ones(10)
        held.append(weakref.ref(activations))
        if size > 1:
            errors.append(torch.OutOfMemoryError("CUDA out of memory"))
            raise errors[-1]
        return "done"

    assert halving(attempt, 4) == ("done", 1)
    assert len(errors) == 2


def test_halving_ends_at_one_with_a_clear_error() -> None:
    """No loop without end, and no chain of tracebacks that keeps tensors."""

    def attempt(size: int) -> None:
        raise torch.OutOfMemoryError(f"CUDA out of memory at {size}")

    with pytest.raises(OutOfMemory, match=r"one row at a time does not fit.*at 1") as caught:
        halving(attempt, 6)
    assert caught.value.__context__ is None
    assert "gradient_checkpointing" in caught.value.remedy


@fault("J18")
def test_evaluation_out_of_memory_gives_the_same_loss(tmp_path: Path) -> None:
    """Eleven rows at once do not fit; in pieces they have the mean over tokens that they have together."""
    told = {"max_steps": 1, "batch_size": 2, "eval_batch_size": 11, "eval_steps": 1, "validation": rows(11)}
    whole = run(tmp_path / "a", model(), **told)
    net, _ = limited(2)
    pieces = run(tmp_path / "b", net, **told)
    assert pieces.metrics["eval_loss"] == pytest.approx(whole.metrics["eval_loss"], abs=1e-6)


def test_the_log_goes_on_counting_as_before(tmp_path: Path) -> None:
    """The losses of the steps are those of a run with room."""
    run(tmp_path / "a", model())
    run(tmp_path / "b", limited(2)[0])
    losses = []
    for each in "ab":
        lines = [json.loads(line) for line in (tmp_path / each / "metrics.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines if "loss" in line])
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert len(losses[0]) == 3
