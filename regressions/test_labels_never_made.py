"""Labels are never made: the prompt's length is computed and not used.

Symptom: training runs, the loss is that of prompts and responses together; the model writes questions.
Severity: critical
Cause: encode computes the prompt's length and returns input_ids alone; the default collator then copies them into labels.
First seen: written down by a fine-tuning project as critical
Cost: a run that trained everything, found by reading the code.
Check: labels_are_made, batches_carry_labels
Lesson: a variable that nothing reads is a bug: look at one batch before the first step.
"""

from __future__ import annotations

from typing import Any

import pytest

from llmguard import batches_carry_labels, labels_are_made, require
from llmguard.errors import CheckFailed

Row = dict[str, str]


def broken(tokenizer: Any, rows: list[Row]) -> list[dict[str, list[int]]]:
    """Whole texts; how long the prompt is, is known and forgotten."""
    found = []
    for row in rows:
        _prompt_length = len(tokenizer(row["prompt"])["input_ids"])
        ids = tokenizer(row["prompt"] + row["response"] + tokenizer.eos_token)["input_ids"]
        found.append({"input_ids": ids, "attention_mask": [1] * len(ids)})
    return found


def fixed(tokenizer: Any, rows: list[Row]) -> list[dict[str, list[int]]]:
    """The core's encoder: ids and labels from the same pieces."""
    from llmguard_core.encoding import Encoder
    from llmguard_core.formats import format_for

    return list(Encoder(tokenizer, format_for(tokenizer, "completion")).rows(rows))


def _batch(tokenizer: Any, encoded: list[dict[str, list[int]]]) -> dict[str, Any]:
    """What the model gets: the library's default for rows without labels, the core's collator for rows with."""
    from transformers import DataCollatorForLanguageModeling

    from llmguard_core.collating import Collator

    if "labels" in encoded[0]:
        return Collator(tokenizer)(encoded)
    return dict(DataCollatorForLanguageModeling(tokenizer, mlm=False)(encoded))


def _learns_from(model: Any, batch: dict[str, Any]) -> Any:
    """Whether the loss has a gradient at the logits that predict a token: bool [rows, tokens - 1]."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    logits.retain_grad()
    model.loss_function(logits, batch["labels"], model.config.vocab_size).backward()
    return logits.grad[:, :-1].abs().sum(-1) > 0


def test_witness(tokenizer: Any, model: Any, rows: list[Row]) -> None:
    """The gradient comes from the questions, too; with labels it comes from no token of them."""
    whole = _learns_from(model, _batch(tokenizer, broken(tokenizer, rows)))
    answers = _learns_from(model, _batch(tokenizer, fixed(tokenizer, rows)))
    for number, row in enumerate(rows):
        predicted = len(tokenizer(row["prompt"])["input_ids"]) - 1
        assert whole[number, :predicted].all()
        assert not answers[number, :predicted].any()
        assert answers[number, predicted:].any()


def test_check_rejects(tokenizer: Any, rows: list[Row]) -> None:
    """Rows without labels and no collator that makes them; and batches without any."""
    encoded = broken(tokenizer, rows)
    with pytest.raises(CheckFailed, match="4 encoded rows have no labels"):
        require(labels_are_made(encoded))
    with pytest.raises(CheckFailed, match="the batches have no labels"):
        require(batches_carry_labels([tokenizer.pad(encoded, return_tensors="pt")]))


def test_check_accepts(tokenizer: Any, rows: list[Row]) -> None:
    """Rows with labels; and rows without where the project says that everything is trained."""
    encoded = fixed(tokenizer, rows)
    require(labels_are_made(encoded), strict=True)
    require(batches_carry_labels([_batch(tokenizer, encoded)]), strict=True)
    require(labels_are_made(broken(tokenizer, rows), train_on="all"), strict=True)
