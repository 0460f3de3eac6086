"""Rows without a single label: the Trainer logs a loss of 0.0 for them, or hides them in the mean of the others.

Symptom: the training loss is 0.0 from the first step, or lower than it should be; the evaluation loss is nan.
Severity: high
Cause: every label of a batch is -100, because a response marker is never found or right truncation took the response; the mean over no
    token is NaN, and the Trainer's log filters that.
First seen: https://github.com/huggingface/trl/issues/6668
Cost: runs over data of which a part, or all, was never trained.
Check: every_row_has_a_supervised_token
Lesson: count the supervised tokens of every row before training; the loss cannot tell.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs import collate, model
from support.tiny import byte_level
from transformers import Trainer, TrainingArguments

from llmguard import every_row_has_a_supervised_token, require
from llmguard.errors import CheckFailed
from llmguard_core.encoding import Encoder
from llmguard_core.formats import format_for

LENGTH = 48
LONG = "one two three " * 24
ROWS = [
    {"prompt": f"{LONG}what is the number {n}?", "response": " the answer is in the garden"} for n in range(8)
]
Row = dict[str, str]
Encoded = dict[str, list[int]]


def broken(rows: list[Row]) -> list[Encoded]:
    """Rows cut at max_length from the right, as `truncation=True` does: of long prompts nothing but the prompt is left."""
    tokenizer, found = byte_level(), []
    for row in rows:
        prompt = tokenizer(row["prompt"])["input_ids"]
        answer = [*tokenizer(row["response"])["input_ids"], tokenizer.eos_token_id]
        ids, labels = prompt + answer, [-100] * len(prompt) + answer
        found.append({"input_ids": ids[:LENGTH], "labels": labels[:LENGTH], "attention_mask": [1] * LENGTH})
    return found


def fixed(rows: list[Row]) -> Any:
    """The core's encoder cuts the prompt, from its left, and never the response."""
    encoder = Encoder(byte_level(), format_for(byte_level(), "completion"), max_length=LENGTH)
    return encoder.rows(rows)


def _trained(rows: Any, folder: Path) -> tuple[list[float], float, bool]:
    """The logged losses, the loss of an evaluation, and whether a weight has changed."""
    net = model()
    before = [p.detach().clone() for p in net.parameters()]
    arguments = TrainingArguments(
        str(folder), max_steps=3, per_device_train_batch_size=4, learning_rate=1e-3, weight_decay=0.0, logging_steps=1,
        save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False, remove_unused_columns=False,
    )  # fmt: skip
    trainer = Trainer(
        net, arguments, train_dataset=list(rows), eval_dataset=list(rows), data_collator=collate
    )
    trainer.train()
    changed = any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, float(trainer.evaluate()["eval_loss"]), changed


def test_witness(tmp_path: Path) -> None:
    """Three steps at 0.0 while the evaluation is nan, and no weight has learnt anything; the core's rows train."""
    losses, evaluated, _ = _trained(broken(ROWS), tmp_path / "broken")
    assert losses == [0.0] * 3
    assert math.isnan(evaluated)
    losses, evaluated, changed = _trained(fixed(ROWS), tmp_path / "fixed")
    assert min(losses) > 1
    assert math.isfinite(evaluated)
    assert changed


def test_check_rejects() -> None:
    """Eight of eight rows, before a model is loaded."""
    with pytest.raises(CheckFailed, match="8 of 8 rows"):
        require(every_row_has_a_supervised_token(broken(ROWS)))


def test_check_accepts() -> None:
    """What the core makes of the same rows, at the same length."""
    encoded = fixed(ROWS)
    assert {len(row["input_ids"]) for row in encoded} == {LENGTH}
    require(every_row_has_a_supervised_token(list(encoded)), strict=True)
