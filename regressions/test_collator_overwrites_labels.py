"""The collator makes new labels from input_ids.

Symptom: the prompt was masked with care, and masking has no effect on the loss.
Severity: critical
Cause: DataCollatorForLanguageModeling(mlm=False) sets labels = input_ids.clone(), whatever labels the rows carry.
First seen: https://github.com/huggingface/transformers/issues/26357
Cost: a whole run that trains prompts; critical in the project that wrote it down.
Check: collator_keeps_labels
Lesson: what goes into the model is what comes out of the collator; look there.
"""

from __future__ import annotations

from typing import Any

import pytest

from llmguard import collator_keeps_labels, require
from llmguard.errors import CheckFailed


def encoded(tokenizer: Any, rows: list[dict[str, str]]) -> list[dict[str, list[int]]]:
    """Rows of equal length whose prompt is masked (padded by hand, since this collator cannot pad labels)."""
    found = []
    for row in rows:
        prompt = tokenizer(row["prompt"] + "\n")["input_ids"]
        answer = tokenizer(row["response"] + tokenizer.eos_token)["input_ids"]
        pad = 64 - len(prompt) - len(answer)
        found.append(
            {
                "input_ids": prompt + answer + [tokenizer.pad_token_id] * pad,
                "attention_mask": [1] * (64 - pad) + [0] * pad,
                "labels": [-100] * len(prompt) + answer + [-100] * pad,
            }
        )
    return found


def broken(tokenizer: Any) -> Any:
    """The collator of language modelling."""
    from transformers import DataCollatorForLanguageModeling

    return DataCollatorForLanguageModeling(tokenizer, mlm=False)


def fixed(tokenizer: Any) -> Any:
    """A collator that pads labels and leaves the rest."""
    from transformers import DataCollatorForSeq2Seq

    return DataCollatorForSeq2Seq(tokenizer)


def test_witness(tokenizer: Any, model: Any, rows: list[dict[str, str]]) -> None:
    """The model's loss through the broken collator is that of the whole sequence, not that of the response."""
    import torch

    features = encoded(tokenizer, rows)
    ids = torch.tensor([f["input_ids"] for f in features])
    masked = torch.tensor([f["labels"] for f in features])
    attention = torch.tensor([f["attention_mask"] for f in features])
    with torch.no_grad():
        wanted = model(input_ids=ids, attention_mask=attention, labels=masked).loss
        losses = {
            made.__name__: model(**made(tokenizer)([dict(f) for f in features])).loss
            for made in (broken, fixed)
        }
    assert torch.allclose(losses["fixed"], wanted, rtol=1e-5)
    assert abs(float(losses["broken"] - wanted)) > 0.05


def test_check_rejects(tokenizer: Any, rows: list[dict[str, str]]) -> None:
    """Tokens that the data mask are trained once they have passed."""
    features = encoded(tokenizer, rows)
    with pytest.raises(CheckFailed, match="train tokens that the data mask"):
        require(collator_keeps_labels(features, [broken(tokenizer)([dict(f) for f in features])]))


def test_check_accepts(tokenizer: Any, rows: list[dict[str, str]]) -> None:
    """Labels that come out as they went in are left alone."""
    features = encoded(tokenizer, rows)
    require(collator_keeps_labels(features, [fixed(tokenizer)([dict(f) for f in features])]))
