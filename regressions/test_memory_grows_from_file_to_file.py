"""A daemon trains file after file, and each of them leaves its model behind.

Symptom: memory grows from file to file; the fifth or tenth training ends out of memory, though each fits by itself.
Severity: critical
Cause: Trainer, optimizer and model of each file stay reachable: in a list for the report, in a callback, in the traceback of an error that
    was caught; nobody collects, empties the cache, or looks at what is in use.
First seen: written down by a fine-tuning project as critical; https://github.com/huggingface/transformers/issues/26571
Cost: queues that stopped in the night, and daemons restarted by hand.
Check: llmguard_core.memory.proved_released
Lesson: a file is done when its memory is back: keep figures and paths, never the Trainer, and prove the release.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.held import tensor_bytes
from support.runs import collate, model, rows, settings
from support.tiny import byte_level
from transformers import Trainer, TrainingArguments

from llmguard_core.errors import OutOfMemory
from llmguard_core.memory import proved_released, release, weak
from llmguard_core.queue import run_queue
from llmguard_core.queue.jobs import Job, Queue
from llmguard_core.training import train

pytestmark = pytest.mark.usefixtures("frozen")
FILES = 3
Seen = Callable[[Any], object]


def broken(folder: Path, files: Sequence[Path], seen: Seen) -> list[Trainer]:
    """The daemon's loop; what it returns is for the report at the end."""
    done: list[Trainer] = []
    for file in files:
        arguments = TrainingArguments(
            str(folder / file.stem), max_steps=2, per_device_train_batch_size=4, save_strategy="no", report_to=[], use_cpu=True,
            disable_tqdm=True, dataloader_pin_memory=False, remove_unused_columns=False,
        )  # fmt: skip
        trainer = Trainer(model(), arguments, train_dataset=rows(8), data_collator=collate)
        trainer.train()
        done.append(trainer)
        seen(trainer.model)
    return done


def fixed(folder: Path, files: Sequence[Path], seen: Seen) -> Any:
    """The core's queue over the same files: what a job leaves are files."""
    Queue(folder).make()
    for file in files:
        (folder / "pending" / file.name).write_bytes(file.read_bytes())

    def work(job: Job) -> None:
        net = model()
        train(net, byte_level(), rows(8), settings(job.folder / "output", max_steps=2, save_steps=2))
        seen(net)

    return run_queue(folder, work, once=True, settle=0, poll=0.01)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Training files that wait."""
    found = [tmp_path / f"{number}.jsonl" for number in range(FILES)]
    for number, file in enumerate(found):
        file.write_text(f'{{"prompt": "what is {number}?", "response": "one"}}\n', "utf-8")
    return found


class Meter:
    """What tensors hold beyond the beginning when each file is done, in sizes of a model; and the models, weakly."""

    def __init__(self) -> None:
        self.size = sum(p.nbytes for p in model().parameters())
        self.start, self.read, self.models = tensor_bytes(), list[float](), list[Any]()

    def __call__(self, net: Any) -> None:
        self.read.append(self.now())
        self.models += weak(net)

    def now(self) -> float:
        """In sizes of a model."""
        return float((tensor_bytes() - self.start) / self.size)


def test_witness(tmp_path: Path, files: list[Path]) -> None:
    """Model, gradients and two moments a file: it grows by as much each time; in the core's queue it does not."""
    meter = Meter()
    kept = broken(tmp_path / "out", files, meter)
    growth = [b - a for a, b in zip(meter.read, meter.read[1:], strict=False)]
    assert min(growth) > 2.5
    assert meter.now() > 2.5 * FILES
    release(kept)
    meter = Meter()
    assert fixed(tmp_path / "queue", files, meter).done == FILES
    assert max(meter.read) - meter.read[0] < 0.5
    assert meter.now() < 0.5


def test_check_rejects(tmp_path: Path, files: list[Path]) -> None:
    """Behind the second file already, with what holds the models."""
    meter = Meter()
    kept = broken(tmp_path / "out", files[:2], meter)
    with pytest.raises(
        OutOfMemory,
        match=r"2 objects that should be released are still there: \w+ is held by .*: list of 2 -> Trainer\.model -> ",
    ):
        proved_released(meter.models)
    release(kept)


def test_check_accepts(tmp_path: Path, files: list[Path]) -> None:
    """The core's queue; and the loop, once it has let its list go."""
    meter = Meter()
    fixed(tmp_path / "queue", files, meter)
    kept = broken(tmp_path / "out", files[:1], meter)
    release(kept)
    assert len(meter.models) == FILES + 1
    proved_released(meter.models)
