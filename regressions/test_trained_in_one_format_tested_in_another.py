"""Trained in one format, tested in another.

Symptom: after training the model scores as before, or worse; the adapter looks like a no-op.
Severity: critical
Cause: the training script writes Zephyr turns, the test script Alpaca headings.
First seen: written down by a fine-tuning project as critical; https://github.com/hiyouga/LlamaFactory/issues/2509 has 26 % against 57 %.
Cost: runs judged by a prompt that they were never trained on.
Check: training_starts_with_the_generation_prompt
Lesson: one function builds prompts, for training, evaluation and serving.
"""

from __future__ import annotations

from typing import Any

import pytest
from support.learning import answer, learnt

from llmguard import require, training_starts_with_the_generation_prompt
from llmguard.errors import CheckFailed
from llmguard.evidence.prompts import as_prompts


def zephyr(row: dict[str, str]) -> str:
    """The prompt as training writes it."""
    return f"<|user|>\n{row['prompt']}<|endoftext|>\n<|assistant|>\n"


def alpaca(row: dict[str, str]) -> str:
    """The prompt as the test script writes it."""
    return f"### Instruction:\n{row['prompt']}\n\n### Response:\n"


broken, fixed = alpaca, zephyr
"""The builder that the evaluation uses."""


def encode(tokenizer: Any, row: dict[str, str]) -> dict[str, list[int]]:
    """A training row."""
    prompt, answer = (
        tokenizer(zephyr(row))["input_ids"],
        tokenizer(row["response"] + tokenizer.eos_token)["input_ids"],
    )
    return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}


def test_witness(tokenizer: Any, model: Any, rows: list[dict[str, str]]) -> None:
    """A model that has learnt all answers gives them to the prompt that it was trained with, and not to the other."""
    trained = learnt(model, [encode(tokenizer, row) for row in rows])

    def right(builder: Any) -> int:
        return sum(answer(trained, tokenizer, builder(r)) == r["response"] for r in rows)

    assert right(fixed) == len(rows)
    assert right(broken) < len(rows)


def _check(tokenizer: Any, rows: list[dict[str, str]], builder: Any) -> Any:
    prompts = as_prompts([builder(r) for r in rows], tokenizer)
    return training_starts_with_the_generation_prompt(
        [encode(tokenizer, r) for r in rows], prompts, tokenizer, rows
    )


def test_check_rejects(tokenizer: Any, rows: list[dict[str, str]]) -> None:
    """All rows, from the first token on."""
    with pytest.raises(CheckFailed, match=r"4 of 4 rows .* at token 0"):
        require(_check(tokenizer, rows, broken))


def test_check_accepts(tokenizer: Any, rows: list[dict[str, str]]) -> None:
    """The same builder on both sides."""
    require(_check(tokenizer, rows, fixed))
