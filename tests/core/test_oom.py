"""Out of memory: recognised in every disguise, never where it is something else; survived inside a real Trainer with the same weights."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from support.matrix import fault
from support.runs import collate, model, rows, settings
from support.tiny import byte_level

from llmguard_core.errors import OutOfMemory, TrainingStopped
from llmguard_core.training import classify, halving, is_oom, train

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


class Limited(torch.autograd.Function):
    """A layer without effect that runs out of memory for more rows than there is room for, forwards or backwards."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, room: int, backwards: bool) -> torch.Tensor:
        ctx.rows, ctx.room, ctx.backwards = len(hidden), room, backwards
        if len(hidden) > room and not backwards:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return hidden.clone()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        if ctx.rows > ctx.room and ctx.backwards:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return grads[0], None, None


def limited(room: int, *, backwards: bool = False, **told: Any) -> tuple[Any, list[int]]:
    """A tiny model with room for so many rows; and the numbers of rows that it was called with."""
    net, seen = model(**told), list[int]()

    def called(module: Any, args: Any, output: Any) -> Any:
        if torch.is_grad_enabled():
            seen.append(len(output))
        return Limited.apply(output, room, backwards)

    net.get_input_embeddings().register_forward_hook(called)
    return net, seen


def run(folder: Path, net: Any, **told: Any) -> Any:
    """Three steps of 2 x 4 uneven rows by SGD."""
    told = {
        "max_steps": 3,
        "batch_size": 4,
        "accumulation": 2,
        "optimizer": "sgd",
        "learning_rate": 1e-2,
        "grad_clip": 50.0,
        **told,
    }
    extra = {"validation": told.pop("validation", None)}
    return train(net, byte_level(), rows(24), settings(folder, **told), collator=collate, **extra)


def distance(one: Any, other: Any) -> float:
    """The largest difference of two models' parameters."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


@pytest.fixture(autouse=True)
def _no_png(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmguard_core.training.run.png", lambda records, path: None)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run that begins with the small micro-batch."""
    net = model()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("llmguard_core.training.run.png", lambda records, path: None)
        run(tmp_path_factory.mktemp("small"), net, batch_size=1, accumulation=8)
    return net


@pytest.mark.parametrize("backwards", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("room", [3, 2, 1])
@fault("J16")
def test_a_run_out_of_memory_ends_with_the_weights_of_one_with_small_micro_batches(
    tmp_path: Path, small: Any, room: int, backwards: bool
) -> None:
    """Same data order, same effective batch, same steps; in the backward pass, too, where gradients are half made."""
    net, seen = limited(room, backwards=backwards)
    result = run(tmp_path, net)
    assert (result.steps, result.piece) == (3, 2 if room > 1 else 1)
    assert distance(net, small) < 1e-4 * distance(model(), small)
    tried = 1 if room > 1 else 2
    assert seen[: tried + 1] == [4, 2, 1][: tried + 1]
    assert max(seen[tried:]) == result.piece


@fault("J21")
def test_a_late_out_of_memory_does_the_whole_step_again(tmp_path: Path, small: Any) -> None:
    """In the second micro-batch of the second step: gradients of the first are thrown away and made again."""
    net, calls = model(), [0]

    def called(module: Any, args: Any, output: Any) -> Any:
        calls[0] += 1
        return Limited.apply(output, 3 if calls[0] == 4 else 99, True)

    net.get_input_embeddings().register_forward_hook(called)
    result = run(tmp_path, net)
    assert result.piece == 2
    assert (
        calls[0] == 4 + 4 + 4
    )  # three whole micro-batches and the failure; the second step again and the third, in halves
    assert distance(net, small) < 1e-4 * distance(model(), small)


def test_without_recovery_the_witness_dies(tmp_path: Path) -> None:
    """The fault really fires: transformers' own Trainer ends with it."""
    from transformers import Trainer, TrainingArguments

    args = TrainingArguments(
        str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=4,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
    )
    with pytest.raises(torch.OutOfMemoryError):
        Trainer(limited(3)[0], args, train_dataset=rows(8), data_collator=collate).train()


@fault("J22")
def test_one_row_that_does_not_fit_ends_the_run_with_the_numbers(tmp_path: Path) -> None:
    """The step, the row's length, what there is, what helps; and nothing stays alive."""
    net, _ = limited(0)
    watched = weakref.ref(net)
    with pytest.raises(OutOfMemory, match=r"step 1: one row of \d+ tokens does not fit") as caught:
        run(tmp_path, net)
    assert "gradient_checkpointing" in caught.value.remedy
    assert "expandable_segments" not in str(caught.value), "a CPU's memory has no such setting"
    assert not (tmp_path / "final").exists()
    del net, caught
    gc.collect()
    assert watched() is None


@fault("J18")
def test_evaluation_out_of_memory_gives_the_same_loss(tmp_path: Path) -> None:
    """Eleven rows at once do not fit; in pieces they have the mean over tokens that they have together."""
    told = {"max_steps": 1, "batch_size": 2, "eval_batch_size": 11, "eval_steps": 1, "validation": rows(11)}
    whole = run(tmp_path / "a", model(), **told)
    net, _ = limited(2)
    pieces = run(tmp_path / "b", net, **told)
    assert pieces.metrics["eval_loss"] == pytest.approx(whole.metrics["eval_loss"], abs=1e-6)


def test_a_lost_device_stops_the_run_at_once(tmp_path: Path) -> None:
    """No retry, no save: resume in a new process."""
    net, calls = model(), [0]

    def called(module: Any, args: Any, output: Any) -> None:
        calls[0] += 1
        raise AcceleratorError("CUDA error: device-side assert triggered")

    net.get_input_embeddings().register_forward_hook(called)
    with pytest.raises(TrainingStopped, match="cannot be used by this process any more"):
        run(tmp_path, net)
    assert calls[0] == 1
    assert not list(tmp_path.glob("checkpoint-*"))


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
