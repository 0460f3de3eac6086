"""Group J of the matrix: out of memory recognised in every disguise, never where it is something else, and survived where it can be."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.device_memory import MIB, FakeDevice, FakeOutOfMemoryError
from support.groups import ENTER, small_group
from support.limited import Limited, limited, no_png, run
from support.matrix import Matrix, fault
from support.queues import once
from support.runs import collate, model, rows, settings
from support.tiny import byte_level

from llmguard.memory.fragmentation import fragmentation, requested
from llmguard.memory.heap import heap_memory
from llmguard.memory.oom import classify_exit
from llmguard_core.errors import OutOfMemory
from llmguard_core.queue import status
from llmguard_core.queue.jobs import Queue
from llmguard_core.training import classify, halving, is_oom, train
from llmguard_core.training.oom import one_clear_error
from llmguard_core.training.trainer import InPieces

__all__ = ["no_png"]
TESTS = Path(__file__).resolve().parents[1]
TRITON = "out of resource: shared memory, Required: 294912, Hardware limit: 232448. Reducing block sizes or `num_stages` may help."


class AcceleratorError(RuntimeError):
    """As torch 2.8 and later call what a driver tells."""


def _raised(work: Callable[[], object]) -> BaseException:
    """A real error."""
    try:
        work()
    except Exception as error:
        return error.with_traceback(None)
    raise AssertionError("the fault did not fire")


MEMORY: dict[str, list[BaseException]] = {
    "J1": [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 23.64 GiB"),
        RuntimeError("HIP out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("XPU out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 63.98 GiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17.51 GB, other allocations: 384 KB, max allowed: 18.13 GB)"),
    ],
    "J2": [
        AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call"),
        RuntimeError("Caught AcceleratorError in replica 0 on device 0.\nCUDA error: out of memory"),
        RuntimeError("level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"),
    ],
    "J3": [
        RuntimeError("CUDA driver error: out of memory"),
        RuntimeError("CUDA driver error: 2 (CUDA_ERROR_OUT_OF_MEMORY)"),
        RuntimeError("HIP error: hipErrorOutOfMemory"),
    ],
    "J4": [
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
    ],
    "J5": [RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`")],
    "J6": [RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")],
    "J7": [
        RuntimeError("NCCL error: unhandled cuda error, Last error:\nCuda failure 2 'out of memory'"),
        RuntimeError("ncclUnhandledCudaError: Last error:\nFailed to CUDA calloc async 608 bytes: out of memory"),
    ],
    "J8": [
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000 bytes."),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4000 bytes."),
        _raised(lambda: torch.empty(2**50, dtype=torch.uint8)),
    ],
    "J9": [MemoryError(), _raised(lambda: bytearray(2**60)), OSError(12, "Cannot allocate memory")],
    "J10": [_raised(lambda: np.ones(2**50))],
    "J11": [torch.OutOfMemoryError("Allocation on device 0 would exceed allowed memory. (out of memory)")],
    "J12": [RuntimeError("CUDA out of memory.", "Tried to allocate 2.00 GiB")],
}  # fmt: skip
LOST = [
    AcceleratorError("CUDA error: device-side assert triggered"),
    AcceleratorError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: unspecified launch failure"),
]
OTHER: dict[str, list[BaseException]] = {
    "J13": [
        RuntimeError(TRITON),
        type("OutOfResources", (Exception,), {})(TRITON),
        RuntimeError(f"No valid triton configs. OutOfMemoryError: {TRITON}"),
    ],
    "J14": LOST[:1],
    "J15": LOST[1:],
}
PROSE = [
    RuntimeError("the queue ran out of memory slots for users"),
    RuntimeError("device registry: user 7 left out of memory game"),
    RuntimeError("the cache keeps what is out of memory until it is asked for"),
    RuntimeError("what does out of memory mean?"),
    ValueError("CUDA out of memory"),
    OSError(28, "No space left on device"),
    KeyboardInterrupt(),
]


def _rows(errors: dict[str, list[BaseException]]) -> list[Any]:
    return [
        pytest.param(error, id=f"{name}-{number}", marks=fault(name))
        for name, each in errors.items()
        for number, error in enumerate(each)
    ]


@pytest.mark.parametrize("error", _rows(MEMORY))
def test_memory_errors_are_recognised(error: BaseException, matrix: Matrix) -> None:
    """By type first, then by what allocators, libraries and drivers write; some are real ones of this machine."""
    matrix.saw(classify(error))
    assert classify(error) == "out of memory", error


@pytest.mark.parametrize("error", _rows(OTHER))
def test_other_errors_are_not_taken_for_memory(error: BaseException, matrix: Matrix) -> None:
    """Retrying them would hide a bug, or use a device that is lost."""
    matrix.saw(classify(error))
    assert classify(error) == ("poisoned" if error in LOST else "other")


@pytest.mark.parametrize("error", PROSE, ids=lambda e: str(e)[:30])
def test_words_about_memory_are_no_error_of_memory(error: BaseException) -> None:
    """An application's own messages, errors of other kinds, a full disk, Ctrl-C."""
    assert classify(error) == "other"


def test_errors_are_told_without_torch() -> None:
    """The classifier needs no import of it: where torch is not loaded, none of its errors can have been raised."""
    code = """
import sys
from llmguard.memory.oom import classify
found = classify(RuntimeError("CUDA error: out of memory")), classify(MemoryError()), classify(ValueError("out of memory"))
assert found == ("out of memory", "out of memory", "other"), found
assert not {"torch", "numpy", "pytest", "llmguard_core"} & {*sys.modules}
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_lost_device_is_told_apart_and_a_named_cause_counts() -> None:
    """After a device-side assert nothing more works; an error raised from an out of memory is one."""
    assert [classify(e) for e in LOST] == ["poisoned"] * 3
    wrapped = RuntimeError("the step failed")
    wrapped.__cause__ = MEMORY["J1"][0]
    assert is_oom(wrapped)
    assert classify(RuntimeError("the step failed")) == "other"
    wrapped.__cause__ = wrapped
    assert classify(wrapped) == "other", "a circle of causes ends"


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


@fault("J22")
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


# ---- what is left behind


@fault("J16")
def test_a_backward_pass_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, matrix: Matrix
) -> None:
    """Behind the failure nearly all gradients are there; behind the recovery the heap is where it was before the step, within 1 MiB."""
    heap, seen = heap_memory(), dict[str, int]()
    net, _ = limited(3, backwards=True, hidden_size=256, intermediate_size=1024)
    weights = sum(p.numel() * p.element_size() for p in net.parameters())
    step, free = InPieces.training_step, InPieces._free

    def stepped(trainer: Any, *args: Any) -> Any:
        seen.setdefault("before", heap.allocated())
        return step(trainer, *args)

    def freed(trainer: Any) -> None:
        free(trainer)
        seen.setdefault("after", heap.allocated())

    def cleared(trainer: Any) -> None:  # the first thing that is done about it
        seen.setdefault("failed", heap.allocated())

    monkeypatch.setattr(InPieces, "training_step", stepped)
    monkeypatch.setattr(InPieces, "_free", freed)
    monkeypatch.setattr("llmguard_core.training.trainer.TokenWeighted._restart", cleared, raising=False)
    assert run(tmp_path, net, max_steps=1, accumulation=1).piece == 2
    assert seen["failed"] - seen["before"] > 0.8 * weights > 4 * MIB, "the fault did not fire"
    assert abs(seen["after"] - seen["before"]) < MIB
    matrix.saw("out of memory in backward; memory back to where it was")


@fault("J17")
def test_inside_of_the_except_block_the_failed_attempt_is_still_alive() -> None:
    """The witness of why retries wait for its end."""
    held: list[Any] = []

    def attempt() -> None:
        activations = torch.ones(10)
        held.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("CUDA out of memory")

    try:
        attempt()
    except torch.OutOfMemoryError:
        assert held[0]() is not None
    gc.collect()
    assert held[0]() is None


@fault("J18")
def test_evaluation_of_transformers_own_trainer_dies(tmp_path: Path) -> None:
    """The witness of an evaluation batch that does not fit."""
    from transformers import Trainer, TrainingArguments

    args = TrainingArguments(str(tmp_path), per_device_eval_batch_size=11, use_cpu=True, report_to="none")
    with pytest.raises(torch.OutOfMemoryError):
        Trainer(limited(2)[0], args, eval_dataset=rows(11), data_collator=collate).evaluate()


# ---- fragmentation


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    """A device of 4 GiB whose allocator works as torch's does, behind torch.cuda's questions."""
    fake = FakeDevice(total=4 * 1024 * MIB)

    def snapshot() -> list[dict[str, Any]]:
        return [
            {
                "device": 0,
                "blocks": [
                    {"size": b.size, "state": "inactive" if b.free else "active_allocated"} for b in s.blocks
                ],
            }
            for s in fake.segments
        ]

    for name, value in {
        "memory_snapshot": snapshot,
        "memory_allocated": lambda device: fake.allocated(),
        "memory_reserved": lambda device: fake.reserved(),
        "mem_get_info": lambda device: (fake.total - fake.device_wide()[0], fake.total),  # type: ignore[index]  # it tells
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(fake, "_ours", lambda: fake.reserved() or 0)  # without the context's own bytes
    return fake


def _until_full(gpu: FakeDevice, size: int) -> list[Any]:
    held: list[Any] = []
    with contextlib.suppress(FakeOutOfMemoryError):
        while True:
            held.append(gpu.tensor(size))
    return held


def _said(gpu: FakeDevice, size: int) -> str:
    with pytest.raises(FakeOutOfMemoryError) as caught:
        gpu.tensor(size)
    return str(caught.value)


@fault("J19")
def test_memory_in_pieces_is_told_with_what_a_request_lacks(gpu: FakeDevice, matrix: Matrix) -> None:
    """Every second of 4 MiB is free: half of the device is unused, and 512 MiB do not fit. The setting is told that helps."""
    held = _until_full(gpu, 4 * MIB)
    del held[::2]
    error = _said(gpu, 512 * MIB)
    told, wanted = fragmentation("cuda:0"), requested(error)
    assert told is not None
    assert wanted == 512 * MIB
    assert told.pieces > 1024 * MIB > told.largest > 0, "the fault did not fire"
    assert told.is_the_cause()
    assert told.is_the_cause(wanted)
    assert told.lacks(wanted) == wanted - told.usable > 400 * MIB
    assert told.reserved > 1.8 * told.allocated
    matrix.saw("fragmented: reserved is far more than allocated")

    def full() -> None:
        raise torch.OutOfMemoryError(error)

    class Gpu:
        device = "cuda:0"

        def empty_cache(self) -> None:
            held.clear()  # what is told is of before

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmguard_core.training.oom.pick_device", Gpu)
        with pytest.raises(OutOfMemory) as caught:
            one_clear_error("training", full)
    assert "a request of 0.54 GB lacks" in caught.value.what
    assert "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True" in caught.value.remedy


@fault("J19")
def test_memory_that_is_full_is_not_called_fragmented(gpu: FakeDevice) -> None:
    """All held: no setting helps. All free in whole segments: the allocator gives them back by itself. What fits lacks nothing."""
    held = _until_full(gpu, 4 * MIB)
    full = fragmentation("cuda:0")
    assert full is not None
    assert full.lacks(512 * MIB) > 400 * MIB
    assert (full.is_the_cause(512 * MIB), full.is_the_cause(), full.advice(512 * MIB)) == (False, False, "")
    held.clear()
    empty = fragmentation("cuda:0")
    assert empty is not None
    assert (empty.allocated, empty.pieces) == (0, 0)
    assert empty.usable > 0.9 * gpu.total
    assert (empty.lacks(512 * MIB), empty.is_the_cause(512 * MIB)) == (0, False)
    assert gpu.tensor(512 * MIB)
    assert fragmentation("cpu") is None
    assert requested("CUDA error: out of memory") is None


def test_segments_that_are_expandable_already_get_other_advice(gpu: FakeDevice) -> None:
    """The setting that is there cannot help a second time."""
    from dataclasses import replace

    held = _until_full(gpu, 4 * MIB)
    del held[::2]
    told = fragmentation("cuda:0")
    assert told is not None
    assert "garbage_collection_threshold" in replace(told, expandable=True).advice(512 * MIB)
    assert "garbage_collection_threshold" not in told.advice(512 * MIB)


# ---- the host's memory


@pytest.mark.parametrize(
    ("code", "kills", "kind"),
    [(-9, 1, "host memory"), (137, 1, "host memory"), (137, 0, "killed"), (-9, 0, "killed"), (1, 1, "other"), (143, 2, "other")],
)  # fmt: skip
def test_an_exit_is_told_by_its_status_and_the_kernels_counter(code: int, kills: int, kind: str) -> None:
    """SIGKILL alone may be anybody's; a counter that rose while a child failed by itself accuses nobody."""
    assert classify_exit(code, kills) == kind


@fault("J20")
def test_a_file_whose_training_the_kernel_killed_is_told_as_the_hosts_memory(
    tmp_path: Path, matrix: Matrix
) -> None:
    """A real child in a real group of 64 MiB that takes 256; the queue tells it from a kill by hand."""
    queue = tmp_path / "queue"
    Queue(queue).make()
    (queue / "pending" / "a.jsonl").write_text("{}\n")
    with small_group(64 * MIB) as group:
        enter = ENTER.format(procs=str(group / "cgroup.procs"))
        once(queue, [sys.executable, "-c", f"{enter}\nhoard = b'1' * 2**28"])
    (row,) = status(queue).rows
    matrix.saw("killed for want of host memory")
    assert (
        "killed for want of host memory, not the GPU's: the kernel ended 1 processes meanwhile" in row.reason
    )


# ---- late, and on one process alone


class Recording:
    """Rows that remember in which order they were asked for."""

    def __init__(self, count: int, long: int | None = None) -> None:
        self.rows, self.asked = rows(count, uneven=False), list[int]()
        if long is not None:
            self.rows[long] = {name: values * 6 for name, values in self.rows[long].items()}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int) -> Any:
        self.asked.append(at)
        return self.rows[at]


@fault("J21")
def test_the_longest_batch_comes_late_and_is_survived(tmp_path: Path, matrix: Matrix) -> None:
    """Forty steps fit; the batch with the one long row does not, until it is taken row by row: all steps are done."""
    told = {"max_steps": 44, "batch_size": 2, "accumulation": 1, "save_steps": 100, "logging_steps": 50}

    def trained(folder: str, data: Recording, net: Any) -> Any:
        return train(net, byte_level(), data, settings(tmp_path / folder, **told), collator=collate)

    first = Recording(100)
    trained("order", first, model())
    late = first.asked[2 * 39]
    assert late not in first.asked[: 2 * 39]
    width = len(rows(1, uneven=False)[0]["input_ids"])
    net, calls = model(), list[tuple[int, int]]()

    def called(module: Any, args: Any, output: Any) -> Any:
        calls.append((output.shape[0], output.shape[1]))
        return Limited.apply(output, 99 if output.shape[0] * output.shape[1] <= 7 * width else 0, False)

    net.get_input_embeddings().register_forward_hook(called)
    result = trained("late", Recording(100, long=late), net)
    failed = [at for at, (count, tokens) in enumerate(calls) if count * tokens > 7 * width]
    assert failed == [39], "the fault did not fire at step 40"
    assert (result.steps, result.piece) == (44, 1)
    assert {count for count, _ in calls[:40]} == {2}
    assert {count for count, _ in calls[40:]} == {1}
    matrix.saw("step 40 done again row by row, 44 steps done")


RANK = """
import os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path[:0] = [{tests!r}]
from support.runs import collate, model, rows, settings
from support.tiny import byte_level
from llmguard_core.training import train

net, full = model(), os.environ["RANK"] == {rank!r}
def called(module, args, output):
    if full and torch.is_grad_enabled():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
net.get_input_embeddings().register_forward_hook(called)
told = settings(Path({folder!r}), max_steps=3, accumulation={accumulation}, batch_size=2, save_steps=3)
try:
    train(net, byte_level(), rows(24), told, collator=collate)
except Exception as error:
    print(type(error).__name__, error, flush=True)
    if full:
        sys.stdin.read()  # it catches its error and lives on
"""


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator[Callable[[str, int], list[Any]]]:
    """Two processes of one run, of which one runs out of memory at its first step, and lives on until its input ends."""
    import socket

    started: list[Any] = []

    def start(rank: str, accumulation: int) -> list[Any]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        code = RANK.format(
            tests=str(TESTS), folder=str(tmp_path / "out"), rank=rank, accumulation=accumulation
        )
        for each in "01":
            env = {
                **os.environ, "RANK": each, "LOCAL_RANK": each, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1",
            }  # fmt: skip
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            started.append(subprocess.Popen([sys.executable, "-c", code], text=True, env=env, **pipes))
        return started

    yield start
    for each in started:
        each.kill()
        each.communicate()


@pytest.mark.parametrize(("rank", "accumulation"), [("0", 2)])
@fault("J23")
def test_one_process_out_of_memory_ends_all_with_its_name(
    ranks: Callable[[str, int], list[Any]], rank: str, accumulation: int, matrix: Matrix
) -> None:
    """The other one stands in the backward pass and waits for its gradients: it is told, although the first one lives on."""
    processes = ranks(rank, accumulation)
    full, other = processes[int(rank)], processes[1 - int(rank)]
    told = other.communicate(timeout=240)[0]
    assert (
        f"TrainingStopped step 1: process {rank} of 2 ran out of memory at step 1; this process stops with it"
        in told
    )
    assert "batch_size halved and accumulation doubled" in told
    assert full.poll() is None, "the other one ended because this one did"
    said = full.communicate(input="", timeout=60)[0]
    assert f"OutOfMemory step 1: process {rank} of 2 ran out of memory at step 1: 2 rows of" in said
    matrix.saw("both processes stop, each with the name of the one that was full")
