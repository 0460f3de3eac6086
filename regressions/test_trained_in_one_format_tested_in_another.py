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

import copy
from typing import Any

import pytest

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
    import torch

    trained = copy.deepcopy(model).train()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=2e-3)
    for _ in range(40):
        for row in rows:
            batch = {name: torch.tensor([values]) for name, values in encode(tokenizer, row).items()}
            trained(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def right(builder: Any) -> int:
        return sum(_answer(trained, tokenizer, builder(r)) == r["response"] for r in rows)

    assert right(fixed) == len(rows)
    assert right(broken) < len(rows)


def _answer(model: Any, tokenizer: Any, prompt: str) -> str:
    import torch

    ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    with torch.inference_mode():
        out = model.eval().generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=24,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )
    return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


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
