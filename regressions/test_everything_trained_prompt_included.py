"""Everything is trained, the prompt included.

Symptom: the loss looks good from the start, and the model writes further questions behind its answers.
Severity: high
Cause: labels = list(input_ids).
First seen: written down by a fine-tuning project as high
Cost: most of the training signal: prompts were longer than answers.
Check: every_prompt_token_is_masked
Lesson: print one row as text, with what is trained marked.
"""

from __future__ import annotations

from typing import Any

import pytest

from llmguard import every_prompt_token_is_masked, require
from llmguard.errors import CheckFailed
from llmguard_core.collating import Collator
from llmguard_core.encoding import Encoder
from llmguard_core.formats import format_for

Row = dict[str, str]
Encoded = dict[str, list[int]]


def long_prompts(rows: list[Row]) -> list[Row]:
    """Questions with the text that they are about, as in the data sets of the field."""
    text = "The spider sat in the apple tree all June, counted two and three, and waited for May."
    return [{**r, "prompt": f"{text}\n{r['prompt']}\n"} for r in rows]


def broken(tokenizer: Any, rows: list[Row]) -> list[Encoded]:
    """Labels that are a copy of the ids."""
    found = [tokenizer(r["prompt"] + r["response"] + tokenizer.eos_token)["input_ids"] for r in rows]
    return [{"input_ids": ids, "labels": list(ids)} for ids in found]


def fixed(tokenizer: Any, rows: list[Row], train_on: Any = "responses") -> list[Encoded]:
    """The core's encoder: a label where a response or its end is, and nowhere else."""
    return list(Encoder(tokenizer, format_for(tokenizer, "completion"), train_on=train_on).rows(rows))


def _gradient(model: Any, batch: dict[str, Any]) -> Any:
    """How much each position pulls at its prediction: float [rows, tokens]."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    logits.retain_grad()
    model.loss_function(logits, batch["labels"], model.config.vocab_size).backward()
    return logits.grad.abs().sum(-1)


def test_witness(tokenizer: Any, model: Any, rows: list[Row]) -> None:
    """More than half of the gradient comes from prompts; from none of their tokens once they are masked."""
    data = long_prompts(rows[:2])
    lengths = [len(tokenizer(r["prompt"])["input_ids"]) - 1 for r in data]

    def share_of_prompts(made: Any) -> float:
        pull = _gradient(model, Collator(tokenizer)(made(tokenizer, data)))
        return float(sum(row[:n].sum() for row, n in zip(pull, lengths, strict=True)) / pull.sum())

    assert share_of_prompts(broken) > 0.5
    assert share_of_prompts(fixed) == 0


def test_check_rejects(tokenizer: Any, rows: list[Row]) -> None:
    """Every row, with the likely cause."""
    data = long_prompts(rows)
    fmt = format_for(tokenizer, "completion")
    with pytest.raises(CheckFailed, match=r"4 of 4 rows .*train tokens of their prompt"):
        require(every_prompt_token_is_masked(broken(tokenizer, data), data, tokenizer, fmt))


def test_check_accepts(tokenizer: Any, rows: list[Row]) -> None:
    """Masked prompts; and whole sequences where the project says that it wants them."""
    data = long_prompts(rows)
    fmt = format_for(tokenizer, "completion")
    require(every_prompt_token_is_masked(fixed(tokenizer, data), data, tokenizer, fmt), strict=True)
    whole = fixed(tokenizer, data, train_on="all")
    require(every_prompt_token_is_masked(whole, data, tokenizer, fmt, train_on="all"), strict=True)
