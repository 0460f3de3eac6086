"""The prompts that the data store are not the prompts that generation sends.

Symptom: the saved data set shows prompts that no model was ever asked; a model trained on the data answers worse than its data.
Severity: low
Cause: generation used completion-style prompts, the data set stored "Instruction: X, Response:" beside the answers.
First seen: written down by a fine-tuning project as low
Cost: none that was measured; nobody could say which text a model had answered.
Check: built_prompt_holds_the_stored_one
Lesson: store what was sent, or build what is sent from what is stored; never write the same prompt twice.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmguard import built_prompt_holds_the_stored_one, require
from llmguard.errors import CheckFailed
from llmguard.evidence.prompts import Prompts
from llmguard.ragged import Ragged


def stored(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The data set as it was saved."""
    return [{"prompt": f"Instruction: {r['prompt']}\nResponse: ", "response": r["response"]} for r in rows]


def _encoder(tokenizer: Any) -> Any:
    from llmguard_core.encoding import Encoder
    from llmguard_core.formats import format_for

    return Encoder(tokenizer, format_for(tokenizer, "completion"))


def broken(tokenizer: Any, row: dict[str, str]) -> list[int]:
    """Generation's own idea of the prompt: the question as text to be completed."""
    asked = row["prompt"].removeprefix("Instruction: ").removesuffix("\nResponse: ")
    return list(tokenizer(f"{asked}\n")["input_ids"])


def fixed(tokenizer: Any, row: dict[str, str]) -> list[int]:
    """The prompt of the row, by the encoder that makes the training row."""
    return list(_encoder(tokenizer).prompt(row))


def _prompts(tokenizer: Any, rows: list[dict[str, str]], build: Any) -> Prompts:
    ids = [build(tokenizer, r) for r in rows]
    return Prompts([None] * len(ids), Ragged.of(ids), np.arange(len(ids)), "generate:prompt_of", built=True)


def test_witness(tokenizer: Any, model: Any, rows: list[dict[str, str]]) -> None:
    """No training row starts with the prompt that is sent, and the model expects something else behind it."""
    import torch

    def expected(ids: list[int]) -> Any:
        with torch.inference_mode():
            return model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)

    for row in stored(rows):
        trained = list(_encoder(tokenizer).row(row).input_ids)
        sent, right = broken(tokenizer, row), fixed(tokenizer, row)
        assert trained[: len(right)] == right
        assert trained[: len(sent)] != sent
        assert float((expected(sent) - expected(right)).abs().sum()) / 2 > 0.1


def test_check_rejects(tokenizer: Any, rows: list[dict[str, str]]) -> None:
    """All rows, with both texts."""
    data = stored(rows)
    with pytest.raises(CheckFailed, match=r"4 of 4 prompts .* stored 'Instruction: "):
        require(built_prompt_holds_the_stored_one(_prompts(tokenizer, data, broken), data, tokenizer))


def test_check_accepts(tokenizer: Any, rows: list[dict[str, str]]) -> None:
    """The stored prompts; and questions that are stored without any scaffolding, whatever generation writes around them."""
    data = stored(rows)
    require(built_prompt_holds_the_stored_one(_prompts(tokenizer, data, fixed), data, tokenizer))

    def wrapped(tokenizer: Any, row: dict[str, str]) -> list[int]:
        return list(tokenizer(f"Question: {row['prompt']}\nAnswer: ")["input_ids"])

    require(built_prompt_holds_the_stored_one(_prompts(tokenizer, rows, wrapped), rows, tokenizer))
