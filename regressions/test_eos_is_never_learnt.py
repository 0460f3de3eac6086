"""pad_token = eos_token, and a collator that masks by id takes every EOS out of the labels.

Symptom: answers are right and never stop; generation runs to max_new_tokens.
Severity: critical
Cause: labels[labels == pad_token_id] = -100 in the collator, with pad_token_id == eos_token_id.
First seen: https://github.com/huggingface/transformers/issues/23530
Cost: found days later, when the model was served.
Check: collator_keeps_labels, terminator_is_trained
Lesson: mask padding by attention, never by id.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest

from llmguard import collator_keeps_labels, require, terminator_is_trained
from llmguard.errors import CheckFailed
from llmguard.formats import text_format


def encoded(tokenizer: Any, rows: list[dict[str, str]]) -> list[dict[str, list[int]]]:
    """Rows in the completion format, everything but the prompt trained."""
    found = []
    for row in rows:
        prompt, answer = (
            tokenizer(row["prompt"])["input_ids"],
            tokenizer(row["response"] + tokenizer.eos_token)["input_ids"],
        )
        labels = [-100] * len(prompt) + answer
        found.append({"input_ids": prompt + answer, "attention_mask": [1] * len(labels), "labels": labels})
    return found


def _padded(tokenizer: Any, features: list[dict[str, list[int]]], *, by_id: bool) -> dict[str, Any]:
    import torch

    width = max(len(f["input_ids"]) for f in features) + 2
    pad = tokenizer.eos_token_id
    ids = torch.tensor([f["input_ids"] + [pad] * (width - len(f["input_ids"])) for f in features])
    mask = torch.tensor([f["attention_mask"] + [0] * (width - len(f["input_ids"])) for f in features])
    labels = torch.tensor([f["labels"] + [-100] * (width - len(f["labels"])) for f in features])
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": labels.masked_fill(ids == pad, -100) if by_id else labels,
    }


def broken(tokenizer: Any, features: list[dict[str, list[int]]]) -> dict[str, Any]:
    """Padding with EOS, masked by id."""
    return _padded(tokenizer, features, by_id=True)


def fixed(tokenizer: Any, features: list[dict[str, list[int]]]) -> dict[str, Any]:
    """Padding with EOS, masked by where it is: legitimate."""
    return _padded(tokenizer, features, by_id=False)


def _learns_to_stop(model: Any, batch: dict[str, Any], eos: int) -> float:
    """How much the probability of EOS behind the last word of an answer rises over a few steps."""
    import torch

    trained = copy.deepcopy(model).train()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-3)
    last = batch["attention_mask"].sum(1) - 2

    def probability() -> float:
        with torch.no_grad():
            logits = trained(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return float(logits[torch.arange(len(last)), last].softmax(-1)[:, eos].mean())

    before = probability()
    for _ in range(12):
        trained(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return probability() - before


def test_witness(tokenizer: Any, model: Any, rows: list[dict[str, str]]) -> None:
    """Trained on the fixed batch the model learns to stop; on the broken one it does not."""
    features = encoded(tokenizer, rows)
    risen = {
        made.__name__: _learns_to_stop(model, made(tokenizer, features), tokenizer.eos_token_id)
        for made in (broken, fixed)
    }
    assert risen["fixed"] > 0.3
    assert risen["broken"] < 0.1


def test_check_rejects(tokenizer: Any, rows: list[dict[str, str]]) -> None:
    """Both sides see it: labels that went in and did not come out, and a response whose end is masked."""
    features = encoded(tokenizer, rows)
    batch = broken(tokenizer, features)
    with pytest.raises(CheckFailed, match="mask tokens that the data train"):
        require(collator_keeps_labels(features, [batch]))
    as_rows = [{n: batch[n][i][: len(f["labels"])].tolist() for n in batch} for i, f in enumerate(features)]
    with pytest.raises(CheckFailed, match="mask the terminator"):
        require(
            terminator_is_trained(as_rows, rows, tokenizer, text_format("completion", tokenizer.eos_token))
        )


def test_check_accepts(tokenizer: Any, rows: list[dict[str, str]]) -> None:
    """pad == eos is legitimate where padding is masked by attention."""
    features = encoded(tokenizer, rows)
    require(collator_keeps_labels(features, [fixed(tokenizer, features)]))
    require(terminator_is_trained(features, rows, tokenizer, text_format("completion", tokenizer.eos_token)))
