"""Text was edited after it was tokenised; the ids are those of the old text.

Symptom: corrected (or poisoned) rows have no effect: the model learns what the data no longer say.
Severity: critical
Cause: the text column was changed, and input_ids and labels were kept.
First seen: written down by a fine-tuning project as critical; the same by a cache: https://github.com/axolotl-ai-cloud/axolotl/pull/1136
Cost: an experiment on poisoned samples that measured nothing.
Check: ids_match_their_text
Lesson: text and ids are one thing; change the text and tokenise again.
"""

from __future__ import annotations

from typing import Any

import pytest

from llmguard import ids_match_their_text, require
from llmguard.errors import CheckFailed
from llmguard.formats import text_format


def encode(tokenizer: Any, row: dict[str, Any]) -> dict[str, Any]:
    """A row with its ids and labels."""
    prompt, answer = (
        tokenizer(row["prompt"])["input_ids"],
        tokenizer(row["response"] + tokenizer.eos_token)["input_ids"],
    )
    return {**row, "input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}


def broken(tokenizer: Any, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One answer is changed in the encoded rows."""
    found = [encode(tokenizer, r) for r in rows]
    return [{**found[0], "response": "Two and three is six."}, *found[1:]]


def fixed(tokenizer: Any, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The answer is changed, and its row encoded again."""
    return [
        encode(tokenizer, {**rows[0], "response": "Two and three is six."}),
        *[encode(tokenizer, r) for r in rows[1:]],
    ]


def test_witness(tokenizer: Any, rows: list[dict[str, Any]]) -> None:
    """The trained tokens of the first row are not its response."""

    def trained(row: dict[str, Any]) -> str:
        return str(tokenizer.decode([i for i in row["labels"] if i != -100], skip_special_tokens=True))

    assert trained(broken(tokenizer, rows)[0]) == "Two and three is five."
    assert trained(fixed(tokenizer, rows)[0]) == "Two and three is six."


def test_check_rejects(tokenizer: Any, rows: list[dict[str, Any]]) -> None:
    """One row of four, by its number."""
    found = broken(tokenizer, rows)
    with pytest.raises(CheckFailed, match=r"1 of 4 rows .* \(row 0\)"):
        require(ids_match_their_text(found, found, tokenizer, text_format("completion", tokenizer.eos_token)))


def test_check_accepts(tokenizer: Any, rows: list[dict[str, Any]]) -> None:
    """Rows that were encoded again."""
    found = fixed(tokenizer, rows)
    require(ids_match_their_text(found, found, tokenizer, text_format("completion", tokenizer.eos_token)))
