"""A new experiment goes on from the checkpoint of an old one.

Symptom: the second experiment is over at once, or its loss begins where the first one's ended; its result is that of the first.
Severity: high
Cause: the same output folder, and a script that resumes from whatever checkpoint it finds there.
First seen: https://github.com/PriorLabs/TabPFN/issues/814; https://github.com/huggingface/transformers/pull/9776
Cost: two experiments of which one was never run.
Check: output_dir_holds_no_old_checkpoint
Lesson: an experiment has a folder of its own; resuming is said, not found.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from support.small_runs import model_of, trainer_of, weights_hash
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint

from llmguard import output_dir_holds_no_old_checkpoint, require
from llmguard.errors import CheckFailed

STEPS, BATCHES = 4, 2
"""Optimizer steps, and batches of each."""


def broken(output_dir: Path) -> tuple[int, str]:
    """The script of the second experiment, with another learning rate: batches that it sees, and the hash of its weights."""
    model, done = model_of(), []
    trainer = trainer_of(output_dir, model=model, steps=STEPS, kind=Trainer, learning_rate=5e-2)
    step = trainer.training_step

    def counted(*arguments: Any, **named: Any) -> Any:
        done.append(1)
        return step(*arguments, **named)

    trainer.training_step = counted
    trainer.train(resume_from_checkpoint=get_last_checkpoint(output_dir) if output_dir.is_dir() else None)
    return len(done), weights_hash(model)


def fixed(output_dir: Path) -> tuple[int, str]:
    """The same script in a folder of its own."""
    return broken(output_dir.with_name("second"))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The first experiment: its folder, and the hash of its weights."""
    folder, model = tmp_path_factory.mktemp("runs") / "out", model_of()
    trainer_of(folder, model=model, steps=STEPS, kind=Trainer).train()
    return folder, weights_hash(model)


def test_witness(first: tuple[Path, str]) -> None:
    """One batch that is thrown away, and the first one's weights to the last bit; in a folder of its own it trains."""
    folder, before = first
    batches, after = broken(folder)
    assert batches <= BATCHES
    assert after == before
    batches, after = fixed(folder)
    assert batches == STEPS * BATCHES
    assert after != before


def _check(output_dir: Path, folder: Path) -> Any:
    config = {"output_dir": str(output_dir), "max_steps": STEPS, "per_device_train_batch_size": 2}
    (folder / "run.yaml").write_text(yaml.safe_dump(config), "utf-8")
    return output_dir_holds_no_old_checkpoint(folder / "run.yaml")


def test_check_rejects(first: tuple[Path, str], tmp_path: Path) -> None:
    """With the checkpoint, and what would become of the run."""
    with pytest.raises(
        CheckFailed, match=r"of an earlier run lies in the output folder .*it would end at once"
    ):
        require(_check(first[0], tmp_path), strict=True)


def test_check_accepts(tmp_path: Path) -> None:
    """A folder that is not there yet."""
    require(_check(tmp_path / "third", tmp_path), strict=True)
