"""Edge cases 21 to 30: memory that ends, on the device, the host and the disk; devices that are missing, lost, shared or in pieces."""

from __future__ import annotations

import errno
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from support.configs import says
from support.encoders import Endless
from support.hosts import machine
from support.limited import Limited, limited, no_png, run
from support.machines import host_of
from support.matrix import fault
from support.queues import once, until
from support.runs import collate, distance, model, rows
from support.supervised import crashes
from support.tiny import byte_level

from llmguard.errors import LLMGuardError, UsageError
from llmguard.locks import started
from llmguard_core.checkpoints import newest
from llmguard_core.errors import OutOfMemory, TrainingStopped
from llmguard_core.queue import status
from llmguard_core.queue.jobs import Queue

__all__ = ["no_png"]
# peft still asks transformers 5 for the old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
Project = Any  # see conftest.py
MIB = 2**20
LLAMA = (
    '{"model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,'
    ' "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192, "torch_dtype": "bfloat16"}'
)
GOOD = '{"prompt": "What is 2 + 2?", "response": "Four."}\n'
GROUP = {
    "/proc/self/cgroup": "0::/box\n",
    "/proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
}


def container(gib: float, *, used: float = 0.0, host: float = 512.0) -> dict[str, str]:
    """Files of a kernel with so much memory, and a control group that may use so much of it."""
    table = f"MemTotal: {int(host * 2**20)} kB\nMemAvailable: {int(host * 0.9 * 2**20)} kB\nSwapTotal: 0 kB\n"
    bound = {"memory.max": gib, "memory.current": used}
    files = {f"/sys/fs/cgroup/box/{name}": f"{int(value * 2**30)}\n" for name, value in bound.items()}
    return {**GROUP, "/proc/meminfo": table, **files}


def test_edge_21_memory_that_ends_while_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    """One error with what was wanted and what there is; what had been loaded by then is gone, although the error is kept."""
    from llmguard_core.lab import lab
    from llmguard_core.loading import load_base

    shards: list[weakref.ref[Any]] = []

    def fill(*args: Any, **more: Any) -> Any:
        shard = torch.nn.Linear(8, 8)
        shards.append(weakref.ref(shard))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.delenv("MODEL_PATH", raising=False)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", fill)
    with pytest.raises(
        OutOfMemory, match=r"GiB of weights\): no memory left.*Tried to allocate 2\.00 GiB.*free"
    ) as kept:
        load_base(lab().base, device="cpu")
    assert kept.value.__cause__ is None
    assert [shard() for shard in shards] == [None]


def test_edge_22_tokenised_rows_are_estimated_against_what_the_container_leaves(
    project: Project, tmp_path: Path
) -> None:
    """The interval holds what lists of Python really take; against a container it is a note, then a warning, and nothing on a large one."""
    tok = byte_level()
    source = [
        {"prompt": f"what is {n} times seven?", "response": f"that is the number {7 * n} " * 4}
        for n in range(2000)
    ]
    texts = ["\n".join(row.values()) for row in source]
    encoded = tok(texts)["input_ids"]
    tracemalloc.start()
    held = [
        {"input_ids": [*ids], "labels": [int(f"1{i}") for i in ids], "attention_mask": [1] * len(ids)}
        for ids in encoded
    ]
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(held) == len(source)
    project.write("train.jsonl", "".join(f"{json.dumps(row)}\n" for row in source))
    project.project(config="", data='train = "train.jsonl"')

    def judged(mib: float) -> list[Any]:
        known = {"tokenizer": tok, "environment": machine(tmp_path / f"{mib}", container(mib / 1024))}
        found: list[Any] = project.findings("tokenised_rows_fit_in_memory", known=known)
        return found

    tight, short = judged(taken / MIB / 3)[0], judged(0.4)[0]
    assert tight.evidence["low"] < taken < 1.5 * tight.evidence["high"]
    assert (tight.severity.value, short.severity.value) == ("note", "warning")
    says(tight.message, "2,000 rows", "Arrow to Python lists", "limit of the control group", "tight")
    says(short.message, "will not fit", "stream the rows")
    assert judged(4096) == []


def test_edge_22_the_core_encodes_without_holding_all_rows() -> None:
    """Of a stream without end it reads a block; where everything is held, memory follows the rows."""
    from llmguard_core.encoding import BLOCK, Encoder
    from llmguard_core.formats import format_for

    endless = Endless()
    encoder = Encoder(byte_level(), format_for(byte_level()))
    peaks = []
    for blocks in (2, 8):
        stream = encoder.stream(iter(endless))
        tracemalloc.start()
        for _ in range(blocks * BLOCK):
            next(stream)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert endless.read <= 12 * BLOCK
    assert peaks[1] < 1.5 * peaks[0]


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
def test_edge_23_a_run_out_of_memory_ends_with_the_weights_of_one_with_small_micro_batches(
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
def test_edge_23_a_late_out_of_memory_does_the_whole_step_again(tmp_path: Path, small: Any) -> None:
    """In the second micro-batch of the second step: gradients of the first are thrown away and made again."""
    net, calls = model(), [0]

    def called(module: Any, args: Any, output: Any) -> Any:
        calls[0] += 1
        return Limited.apply(output, 3 if calls[0] == 4 else 99, True)  # type: ignore[no-untyped-call]  # torch's own

    net.get_input_embeddings().register_forward_hook(called)
    result = run(tmp_path, net)
    assert result.piece == 2
    assert (
        calls[0] == 4 + 4 + 4
    )  # three whole micro-batches and the failure; the second step again and the third, in halves
    assert distance(net, small) < 1e-4 * distance(model(), small)


def test_edge_23_without_recovery_the_witness_dies(tmp_path: Path) -> None:
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
def test_edge_23_one_row_that_does_not_fit_ends_the_run_with_the_numbers(tmp_path: Path) -> None:
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


def test_edge_24_the_run_is_judged_by_the_limit_of_the_container(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine has half a terabyte, the container may use four gigabytes: tools show the one, the kernel kills by the other."""
    host = host_of(project.path / "kernel", container(4.0, used=0.5))
    assert host.numbers("/proc/meminfo")["MemTotal"] > 100 * (host.cgroup().memory or 0) > 0
    monkeypatch.setattr("llmguard.probe.host.Host", lambda: host)
    monkeypatch.setattr("shutil.which", lambda name, **more: None)
    project.write("model/config.json", LLAMA)
    project.rows("train.jsonl", 100)
    settings = "output_dir: out\nmodel_name_or_path: model\nuse_cpu: true\nlearning_rate: 1.0e-5\nper_device_train_batch_size: 8\n"
    project.write("train.yaml", f"{settings}bf16: true\npacking: true\nmax_length: 4096\n")
    project.project(data='train = "train.jsonl"')
    told = project.told("training_fits_in_memory")
    says(told.message, "will not fit", "3.5 GiB free of 4.0 GiB (limit of the control group)")
    assert told.evidence["low"] > 4 * 2**30
    assert project.findings(
        "container_leaves_memory", known={"environment": machine(project.path / "kernel", {})}
    )


def test_edge_24_a_child_that_the_kernel_kills_is_told_as_such(tmp_path: Path) -> None:
    """SIGKILL, as the kernel sends it when memory is exhausted: status -9, no traceback; the queue says what it means."""
    queue = tmp_path / "queue"
    Queue(queue).make()
    (queue / "pending" / "a.jsonl").write_text("{}\n")
    dies = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    assert subprocess.run(dies, capture_output=True, check=False).returncode == -signal.SIGKILL
    once(queue, dies)
    (row,) = status(queue).rows
    assert "killed by SIGKILL, as the kernel does when memory is exhausted" in row.reason


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What is left of runs whose saves failed, by how they did."""
    folder = tmp_path_factory.mktemp("full")
    unshare = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(folder)]
    able = (
        shutil.which("unshare") and not subprocess.run(unshare, capture_output=True, check=False).returncode
    )
    return crashes(folder, "disk_full", before=("unshare", "-rm") if able else ())


@fault("L10")
def test_edge_25_a_full_disk_leaves_the_checkpoint_before(full: Any) -> None:
    """A real file system of 600 kB: the error names path, errno and bytes; nothing half-written stays."""
    seen = full["mounted"]
    if seen is None:
        pytest.skip("this system gives no mount namespace: no small file system can be made")
    says(seen["error"], "No space left on device (errno 28, ENOSPC)", "checkpoint-", "bytes are needed")
    assert seen["left"] == seen["before"], "a temporary folder stayed, or a checkpoint went"
    assert seen["newest"]


def test_edge_25_a_file_that_may_grow_no_further_leaves_the_checkpoint_before(full: Any) -> None:
    """A limit on the size of files: the second save fails with path and errno, the first is whole."""
    seen = full["limited"]
    assert full["witness"] == errno.EFBIG
    says(seen["error"], "checkpoint-4", f"errno {errno.EFBIG}")
    assert (seen["left"], seen["before"], seen["newest"]) == (
        ["checkpoint-2"],
        ["checkpoint-2"],
        "checkpoint-2",
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_edge_26_gpu_is_a_usage_error_where_there_is_none(tmp_path: Path) -> None:
    """pytest as a user starts it: exit code 4 and one line, no test is run and none is skipped."""
    (tmp_path / "test_it.py").write_text("def test_it():\n    raise AssertionError\n")
    with pytest.raises((RuntimeError, AssertionError)):
        torch.zeros(1, device="cuda")
    command = [sys.executable, "-m", "pytest", "--gpu", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--gpu was given and there is no GPU to use" in done.stderr
    assert "test_it" not in done.stdout


def test_edge_26_the_core_takes_the_cpu_and_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default; asked for, without a word."""
    import logging

    from llmguard_core.memory import pick_device

    for name in ("cuda", "xpu", "mps"):
        monkeypatch.setattr(f"torch.{name}.is_available", lambda: False)
    with caplog.at_level(logging.INFO):
        assert pick_device().on_cpu
    assert "running on the CPU" in caplog.text
    caplog.clear()
    assert pick_device("cpu").on_cpu
    assert caplog.text == ""


@pytest.mark.parametrize("wanted", ["cuda:7", "tpu9", "cuda"])
def test_edge_26_a_device_that_is_not_there_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    """Never a stack of torch, and never the CPU in its place."""
    from llmguard_core.memory import pick_device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LLMGuardError, match=f"device='{wanted}'.*one of those here: cpu"):
        pick_device(wanted)


def test_edge_27_devices_are_those_that_the_caller_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process' current device of those visible; one that is not visible is refused; a queue's child sees the same ones."""
    from llmguard_core.memory import pick_device
    from llmguard_core.queue import in_child, run_queue

    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 2)
        patch.setattr(torch.cuda, "current_device", lambda: 1)
        assert str(pick_device().device) == "cuda:1"
        assert str(pick_device("cuda:0").device) == "cuda:0"
        with pytest.raises(UsageError, match=r"device='cuda:2'.*cpu, cuda:0 to cuda:1"):
            pick_device("cuda:2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    (tmp_path / "pending").mkdir()
    (tmp_path / "pending" / "a.jsonl").write_text(GOOD)
    says = "import os; print('sees', os.environ['CUDA_VISIBLE_DEVICES'])"
    assert (
        run_queue(tmp_path, in_child(lambda job: [sys.executable, "-c", says]), once=True, settle=0.0).done
        == 1
    )
    assert "sees 3" in next(tmp_path.glob("done/*/attempt-1.log")).read_text()


LOST = getattr(torch, "AcceleratorError", RuntimeError)
"""What a driver tells, under the name that torch 2.8 and later give it."""


def test_edge_28_a_lost_device_stops_the_run_at_once(tmp_path: Path) -> None:
    """No retry, no save: resume in a new process."""
    net, calls = model(), [0]

    def called(module: Any, args: Any, output: Any) -> None:
        calls[0] += 1
        raise LOST("CUDA error: device-side assert triggered")

    net.get_input_embeddings().register_forward_hook(called)
    with pytest.raises(TrainingStopped, match="cannot be used by this process any more"):
        run(tmp_path, net)
    assert calls[0] == 1
    assert not list(tmp_path.glob("checkpoint-*"))


def test_edge_28_a_run_whose_device_was_lost_goes_on_in_a_new_process(tmp_path: Path) -> None:
    """What was saved before is whole; another run takes it up and ends with the weights of one that lost nothing."""
    told = {"max_steps": 4, "save_steps": 2, "batch_size": 4, "accumulation": 1}
    whole = model()
    run(tmp_path / "whole", whole, **told)
    net, calls = model(), [0]

    def called(module: Any, args: Any, output: Any) -> None:
        calls[0] += torch.is_grad_enabled()
        if calls[0] == 4:
            raise LOST("CUDA error: an illegal memory access was encountered")

    hook = net.get_input_embeddings().register_forward_hook(called)
    calls[0] = 3
    with pytest.raises(LOST):
        net(**collate(rows(2)))
    calls[0] = 0
    with pytest.raises(TrainingStopped, match="cannot be used by this process any more"):
        run(tmp_path / "out", net, **told)
    hook.remove()
    saved = newest(tmp_path / "out")
    assert saved is not None
    assert saved.name == "checkpoint-2"
    again = model(seed=5)
    assert distance(again, whole) > 0.01
    run(tmp_path / "out", again, **told)
    assert distance(again, whole) == 0.0


def test_edge_28_what_a_child_started_ends_with_it(tmp_path: Path) -> None:
    """Workers hold memory and a GPU: after each file there is no process of it left."""
    queue = tmp_path / "queue"
    Queue(queue).make()
    (queue / "pending" / "a.jsonl").write_text("{}\n")
    script = (
        "import subprocess; p = subprocess.Popen(['sleep', '60']);"
        f" open({str(tmp_path / 'pid')!r}, 'w').write(str(p.pid))"
    )
    once(queue, [sys.executable, "-c", script])
    assert [job.name for job in Queue(queue).jobs("done")] == ["a.jsonl"]
    until(lambda: started(int((tmp_path / "pid").read_text())) is None)


def test_edge_29_fragmentation_is_told_with_its_numbers_and_the_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Allocated, reserved, the largest unused block of this device, and what helps, in the error of a memory that is full."""
    from llmguard_core.memory import Device
    from llmguard_core.training.oom import one_clear_error

    def blocks(device: int, *sizes: int) -> dict[str, Any]:
        states = ("active_allocated", "inactive")
        return {"device": device, "blocks": [{"size": n, "state": s} for n in sizes for s in states]}

    snapshot = [blocks(0, *[60_000_000] * 30), blocks(1, 900_000_000)]
    gpu = Device(torch.device("cuda", 0))
    for name, value in {
        "memory_snapshot": lambda: snapshot, "memory_allocated": lambda d: 6_100_000_000, "memory_reserved": lambda d: 7_900_000_000,
        "mem_get_info": lambda d: (100_000_000, 8_000_000_000), "empty_cache": lambda: None,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr("llmguard_core.training.oom.pick_device", lambda: gpu)

    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 512.00 MiB. GPU 0 has …")

    with pytest.raises(OutOfMemory) as told:
        one_clear_error("training", full)
    for said in (
        "6.10 GB allocated, 7.90 reserved",
        "largest unused block 0.06 GB",
        "a request of 0.54 GB lacks 0.44",
        "1.90 GB are unused, 0.10 GB of them in one piece",
        "expandable_segments:True",
    ):
        assert said in str(told.value)


def test_edge_30_a_machine_that_swaps_is_told_with_its_rate(project: Project) -> None:
    """The kernel's counter is read when the checks begin and again when this one runs: pages a second between the two."""
    files = {
        "/proc/vmstat": "pswpin 1000\npswpout 50\n",
        "/proc/meminfo": "MemTotal: 1000 kB\nSwapTotal: 4000 kB\nSwapFree: 1000 kB\n",
    }
    project.project(config="")

    def judged(pages: int, **more: str) -> list[Any]:
        environment = machine(project.path / "kernel", {**files, **more})
        environment.begin(["machine_is_not_swapping"])
        (project.path / "kernel/proc/vmstat").write_text(f"pswpin {1000 + pages}\npswpout 50\n")
        assert environment.host.numbers("/proc/vmstat")["pswpin"] - environment.swapped_in[1] == pages
        found: list[Any] = project.findings("machine_is_not_swapping", known={"environment": environment})
        return found

    (told,) = judged(20_000)
    rate = 20_000 * os.sysconf("SC_PAGE_SIZE") / told.evidence["seconds"]
    assert told.severity.value == "warning"
    assert told.evidence["bytes_per_second"] == pytest.approx(rate, rel=0.05)
    says(told.message, "a second are read back from swap (20,000 pages in", "thrashing")
    assert judged(3) == []
    assert judged(20_000, **{"/proc/meminfo": "MemTotal: 1000 kB\nSwapTotal: 0 kB\n"}) == []


def test_edge_30_this_machine_is_looked_at_once_for_real(project: Project) -> None:
    """The real counter is there and never falls; where there is none the check says that it judged nothing."""
    from llmguard.probe.host import Host

    there = "pswpin" in Host().numbers("/proc/vmstat")
    project.project(config="")
    (result,) = project.results_of("machine_is_not_swapping").values()
    assert (result.outcome.value == "skipped") == (not there)
    assert result.seconds < 5
