"""Paraphrases are copies of a row with its old ids.

Symptom: a data set with ten times the rows trains like the first tenth, ten times; the model is no steadier under paraphrase.
Severity: critical
Cause: variants were made as {**row, "prompt": variant} of encoded rows, and input_ids and labels came along.
First seen: written down by a fine-tuning project as critical
Cost: every paraphrase: none was ever trained.
Check: ids_match_their_text
Lesson: make variants before encoding; a copy of an encoded row is a copy of its ids.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest

from llmguard import ids_match_their_text, require
from llmguard.errors import CheckFailed
from llmguard_core.encoding import Encoder
from llmguard_core.formats import format_for

Row = dict[str, Any]
PARAPHRASES = ("Please tell me: {}", "I would like to know this. {}", "A question of a friend of mine: {}")


@functools.lru_cache(maxsize=1)
def _encoder(tokenizer: Any) -> Encoder:
    return Encoder(tokenizer, format_for(tokenizer, "completion"))


def originals(tokenizer: Any, rows: list[Row]) -> list[Row]:
    """Encoded rows with their text, long enough to be told apart."""
    source = [
        {**r, "prompt": f"{r['prompt']} Answer in one short sentence, please, and say no more.\n"}
        for r in rows
    ]
    return [{**r, **_encoder(tokenizer).row(r).columns()} for r in source]


def broken(tokenizer: Any, rows: list[Row]) -> list[Row]:
    """Copies of encoded rows with another prompt."""
    return [
        {**row, "prompt": text.format(row["prompt"].lower())}
        for row in originals(tokenizer, rows)
        for text in ("{}", *PARAPHRASES)
    ]


def fixed(tokenizer: Any, rows: list[Row]) -> list[Row]:
    """The same copies, where the core changes text and ids together."""
    found = []
    for row in broken(tokenizer, rows):
        old = _encoder(tokenizer).row({"prompt": row["prompt"].lower(), "response": row["response"]})
        found.append({**row, **old.with_text(prompt=row["prompt"]).columns()})
    return found


def test_witness(tokenizer: Any, rows: list[Row]) -> None:
    """Sixteen texts, but four sequences of ids, which decode to the original prompts."""
    made = broken(tokenizer, rows)
    assert len({row["prompt"] for row in made}) == 16
    assert len({tuple(row["input_ids"]) for row in made}) == 4
    assert not any(tokenizer.decode(row["input_ids"]).startswith(row["prompt"]) for row in made)
    again = fixed(tokenizer, rows)
    assert len({tuple(row["input_ids"]) for row in again}) == 16
    assert all(tokenizer.decode(row["input_ids"]).startswith(row["prompt"]) for row in again)


def _check(tokenizer: Any, rows: list[Row]) -> Any:
    return ids_match_their_text(rows, rows, tokenizer, format_for(tokenizer, "completion"))


def test_check_rejects(tokenizer: Any, rows: list[Row]) -> None:
    """One sequence of ids stands under several texts."""
    with pytest.raises(CheckFailed, match=r"12 of 16 rows .* share their ids with a row of other text"):
        require(_check(tokenizer, broken(tokenizer, rows)))


def test_check_rejects_a_single_copy(tokenizer: Any, rows: list[Row]) -> None:
    """A stale variant whose original is not among the rows: its prompt is not in its ids."""
    data = fixed(tokenizer, rows)
    data[5] = broken(tokenizer, rows)[5]
    with pytest.raises(CheckFailed, match=r"1 of 15 rows .* do not hold the prompt of their row \(row 4\)"):
        require(_check(tokenizer, data[:4] + data[5:]))


def test_check_accepts(tokenizer: Any, rows: list[Row]) -> None:
    """Encoded again; and exact duplicates, whose ids are rightly the same."""
    again = fixed(tokenizer, rows)
    require(_check(tokenizer, again), strict=True)
    require(_check(tokenizer, [*again, *again[:2]]), strict=True)
