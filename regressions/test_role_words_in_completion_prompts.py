"""Role words stand in prompts that are to be completed by a base model.

Symptom: the base model writes both sides of a dialogue; compared with the trained model it looks better, or worse, than it is.
Severity: high
Cause: "Human:" and "Assistant:" written around the question by a prompt builder made for chat models.
First seen: written down by a fine-tuning project as high
Cost: a baseline that measured the scaffolding.
Check: base_prompts_carry_no_role_words, role_markers_are_not_in_the_text
Lesson: a base model is given text to go on with, and nothing that its training rows do not have.
"""

from __future__ import annotations

from typing import Any

import pytest

from llmguard import base_prompts_carry_no_role_words, require, role_markers_are_not_in_the_text
from llmguard.errors import CheckFailed
from llmguard_core.fewshot import FewShot


def broken(row: dict[str, str]) -> str:
    """A dialogue."""
    return f"Human: {row['prompt']}\n\nAssistant:"


def fixed(row: dict[str, str]) -> str:
    """The core's prompt for base models: examples, and then the question."""
    return FewShot().prompt(row["prompt"])


def test_witness(tokenizer: Any, model: Any, rows: list[dict[str, str]]) -> None:
    """The words reach the model as text of its own prompt, and change what it expects after the very same question."""
    import torch

    def expected(text: str) -> Any:
        with torch.inference_mode():
            return model(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).logits[0, -1].softmax(-1)

    for row in rows:
        sent = tokenizer.decode(tokenizer(broken(row))["input_ids"])
        assert sent.startswith("Human: ")
        assert sent.endswith("Assistant:")
        assert "Human" not in fixed(row) + row["prompt"]
        assert "Assistant" not in fixed(row) + row["prompt"]
        bare = expected(f"{row['prompt']}\n\n")
        assert float((expected(broken(row)) - bare).abs().sum()) / 2 > 0.1


def test_check_rejects(tokenizer: Any, rows: list[dict[str, str]]) -> None:
    """The words are named; and so they are where the data store such prompts."""
    with pytest.raises(CheckFailed, match=r"4 of 4 prompts .* carry role words: 'Human:', 'Assistant:'"):
        require(base_prompts_carry_no_role_words([broken(r) for r in rows], tokenizer, "base", rows))
    stored = [{**r, "prompt": broken(r)} for r in rows]
    with pytest.raises(CheckFailed, match=r"start with a role marker: 'Human:'"):
        require(role_markers_are_not_in_the_text(stored), strict=True)


def test_check_accepts(tokenizer: Any, rows: list[dict[str, str]]) -> None:
    """Plain prompts; a question about role words; and a chat model, whose prompts are another check's."""
    talk = {"prompt": "What does this mean?\nAssistant: hello", "response": "It is a line of a chat log."}
    data = [*rows, talk]
    require(base_prompts_carry_no_role_words([fixed(r) for r in data], tokenizer, "base", data), strict=True)
    require(base_prompts_carry_no_role_words([broken(r) for r in rows], tokenizer, "chat", rows), strict=True)
    require(role_markers_are_not_in_the_text(data), strict=True)
