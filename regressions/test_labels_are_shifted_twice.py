"""Labels shifted by hand, for a model that shifts them itself.

Symptom: the loss stays a bit high, and generations are word salad.
Severity: critical
Cause: labels = input_ids[1:] + [-100], as a hand-written loop needs; causal models of transformers shift inside.
First seen: https://github.com/huggingface/transformers/pull/44642
Cost: a run that learns the token after the next one.
Check: labels_are_not_shifted
Lesson: labels[i] is the token at i; who shifts is the model.
"""

from __future__ import annotations

from typing import Any

import pytest
from support.learning import answer, learnt

from llmguard import labels_are_not_shifted, require
from llmguard.errors import CheckFailed


def fixed(tokenizer: Any, row: dict[str, str]) -> dict[str, list[int]]:
    """Labels where their tokens are."""
    prompt, answer = (
        tokenizer(row["prompt"])["input_ids"],
        tokenizer(row["response"] + tokenizer.eos_token)["input_ids"],
    )
    return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}


def broken(tokenizer: Any, row: dict[str, str]) -> dict[str, list[int]]:
    """The same, moved to the left by one."""
    right = fixed(tokenizer, row)
    return {"input_ids": right["input_ids"], "labels": [*right["labels"][1:], -100]}


def _answers(model: Any, tokenizer: Any, row: dict[str, str], encoded: dict[str, list[int]]) -> str:
    """What the model says to the prompt after it was trained on this row alone."""
    trained = learnt(model, [encoded], steps=30)
    return answer(trained, tokenizer, row["prompt"])


def test_witness(tokenizer: Any, model: Any, rows: list[dict[str, str]]) -> None:
    """Overfitted on one row, the model repeats its answer; trained on shifted labels it cannot."""
    row = rows[0]
    assert _answers(model, tokenizer, row, fixed(tokenizer, row)) == row["response"]
    assert _answers(model, tokenizer, row, broken(tokenizer, row)) != row["response"]


def test_check_rejects(tokenizer: Any, rows: list[dict[str, str]]) -> None:
    """Every row is found to be moved by one position."""
    with pytest.raises(CheckFailed, match="moved by one position"):
        require(labels_are_not_shifted([broken(tokenizer, r) for r in rows]))


def test_check_accepts(tokenizer: Any, rows: list[dict[str, str]]) -> None:
    """Labels where their tokens are."""
    require(labels_are_not_shifted([fixed(tokenizer, r) for r in rows]))
