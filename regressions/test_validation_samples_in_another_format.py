"""The monitor asks in another format than training trains.

Symptom: the samples in the log stay rubbish to the last step while the loss falls; or they look well, and the served model does not.
Severity: medium
Cause: the callback that draws validation samples builds its prompts itself: role words of its own, or Zephyr's turns without their end.
First seen: written down by a fine-tuning project as medium (Zephyr without its terminator, in the monitor)
Cost: good runs that were ended early.
Check: training_starts_with_the_generation_prompt
Lesson: a sample's prompt is cut from a row as training sees it: ids, not a format written once more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.learning import answer
from transformers import Trainer, TrainerCallback, TrainingArguments

from llmguard import require, training_starts_with_the_generation_prompt
from llmguard.errors import CheckFailed
from llmguard.evidence.prompts import as_prompts
from llmguard_core.collating import Collator
from llmguard_core.encoding import Encoder
from llmguard_core.formats import format_for
from llmguard_core.training.samples import prompt_of

Row = dict[str, str]


def broken(tokenizer: Any, rows: list[Row]) -> list[list[int]]:
    """The monitor's own idea of a prompt."""
    return [tokenizer(f"User: {row['prompt']}\nAssistant:")["input_ids"] for row in rows]


def fixed(tokenizer: Any, rows: list[Row]) -> list[list[int]]:
    """The core's: the encoded row, up to what is trained."""
    return [prompt_of(row) for row in encoded(tokenizer, rows)]


def encoded(tokenizer: Any, rows: list[Row]) -> Any:
    """The rows of the run."""
    return Encoder(tokenizer, format_for(tokenizer, "zephyr")).rows(rows)


class Monitor(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
    """Samples at the end of the run, as both monitors draw them."""

    def __init__(self, tokenizer: Any, prompts: Mapping[str, Sequence[Sequence[int]]]) -> None:
        self.tokenizer, self.prompts, self.seen = tokenizer, prompts, dict[str, list[str]]()

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        model.eval()
        for name, prompts in self.prompts.items():
            self.seen[name] = [answer(model, self.tokenizer, prompt) for prompt in prompts]


def test_witness(tokenizer: Any, model: Any, rows: list[Row], tmp_path: Path) -> None:
    """One run of the Trainer, its loss near nought, and two monitors: one sees every answer, the other none."""
    prompts = {made.__name__: made(tokenizer, rows) for made in (broken, fixed)}
    monitor = Monitor(tokenizer, prompts)
    arguments = TrainingArguments(
        str(tmp_path), max_steps=40, per_device_train_batch_size=4, learning_rate=2e-3, lr_scheduler_type="constant",
        logging_steps=40, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True, remove_unused_columns=False,
    )  # fmt: skip
    trainer = Trainer(
        model, arguments, data_collator=Collator(tokenizer), train_dataset=encoded(tokenizer, rows), callbacks=[monitor]
    )  # fmt: skip
    trainer.train()
    wanted = [row["response"] for row in rows]
    assert monitor.seen["fixed"] == wanted
    assert not set(monitor.seen["broken"]) & set(wanted)


def _check(tokenizer: Any, rows: list[Row], prompts: list[list[int]]) -> Any:
    return training_starts_with_the_generation_prompt(
        list(encoded(tokenizer, rows)), as_prompts(prompts, tokenizer), tokenizer, rows
    )


def test_check_rejects(tokenizer: Any, rows: list[Row]) -> None:
    """All samples, before the run."""
    with pytest.raises(CheckFailed, match="4 of 4 rows"):
        require(_check(tokenizer, rows, broken(tokenizer, rows)))


def test_check_rejects_a_lost_terminator(tokenizer: Any, rows: list[Row]) -> None:
    """Zephyr's turns, and no end of the user's: one token of difference, in every sample."""
    without = [tokenizer(f"<|user|>\n{row['prompt']}\n<|assistant|>\n")["input_ids"] for row in rows]
    assert all(len(one) == len(other) - 1 for one, other in zip(without, fixed(tokenizer, rows), strict=True))
    with pytest.raises(CheckFailed, match="4 of 4 rows"):
        require(_check(tokenizer, rows, without))


def test_check_accepts(tokenizer: Any, rows: list[Row]) -> None:
    """Prompts out of the rows."""
    require(_check(tokenizer, rows, fixed(tokenizer, rows)), strict=True)
