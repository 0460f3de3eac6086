"""Sequences are cut at 256 tokens, from the right.

Symptom: answers end in mid-sentence, or long questions get none; the log shows nothing.
Severity: high
Cause: truncation=True, max_length=256 in the tokenizer call, copied from a model with short inputs.
First seen: written down by a fine-tuning project as high; a default of 1024 does the same: https://github.com/huggingface/trl/issues/2400
Cost: the ends of all long responses, and with them every EOS.
Check: responses_are_not_cut, rows_fit_max_length
Lesson: choose max_length from the lengths of the data, count what is cut, and cut prompts rather than responses.
"""

from __future__ import annotations

from typing import Any

import pytest

from llmguard import require, responses_are_not_cut, rows_fit_max_length
from llmguard.errors import CheckFailed
from llmguard_core.encoding import Encoder
from llmguard_core.formats import format_for

Row = dict[str, str]
Encoded = dict[str, list[int]]
LIMIT = 256
STORY = "Tom found a small key beside the river and carried it to the old tower. "


def long_rows(rows: list[Row]) -> list[Row]:
    """Prompts of more than 200 tokens and responses of about 60: no prompt alone reaches the limit."""
    return [
        {"prompt": STORY * 12 + r["prompt"] + "\n", "response": f"{STORY * 3}{r['response']}"} for r in rows
    ]


def broken(tokenizer: Any, rows: list[Row]) -> list[Encoded]:
    """The tokenizer cuts what does not fit, at the end."""
    found = []
    for row in rows:
        prompt = len(tokenizer(row["prompt"])["input_ids"])
        text = row["prompt"] + row["response"] + tokenizer.eos_token
        ids = tokenizer(text, truncation=True, max_length=LIMIT)["input_ids"]
        found.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
    return found


def fixed(tokenizer: Any, rows: list[Row]) -> list[Encoded]:
    """The core leaves out the start of a prompt, and never a part of its response."""
    fmt = format_for(tokenizer, "completion")
    return list(Encoder(tokenizer, fmt, max_length=LIMIT, overflow="left").rows(rows))


def _trained(tokenizer: Any, row: Encoded) -> str:
    return str(tokenizer.decode([i for i in row["labels"] if i != -100]))


def test_witness(tokenizer: Any, rows: list[Row]) -> None:
    """No EOS is left and no response is whole; of the fixed rows, all are, in as many tokens."""
    data = long_rows(rows)
    for row, bad, good in zip(data, broken(tokenizer, data), fixed(tokenizer, data), strict=True):
        assert tokenizer.eos_token_id not in bad["input_ids"]
        assert row["response"].startswith(_trained(tokenizer, bad))
        assert row["response"] != _trained(tokenizer, bad)
        assert _trained(tokenizer, good) == row["response"] + tokenizer.eos_token
        assert len(good["input_ids"]) <= LIMIT == len(bad["input_ids"])


def test_check_rejects(tokenizer: Any, rows: list[Row]) -> None:
    """In the encoded rows, and in the texts before they are encoded."""
    data, fmt = long_rows(rows), format_for(tokenizer, "completion")
    with pytest.raises(CheckFailed, match=r"4 of 4 rows .* response cut off, .*\(cut to 256 tokens"):
        require(responses_are_not_cut(broken(tokenizer, data), data, tokenizer, fmt))
    with pytest.raises(CheckFailed, match=r"4 of 4 rows are longer than max_length = 256"):
        require(rows_fit_max_length(data, tokenizer, fmt, LIMIT))


def test_check_accepts(tokenizer: Any, rows: list[Row]) -> None:
    """Prompts cut from the left lose no response; a limit that was chosen from the data cuts nothing."""
    data, fmt = long_rows(rows), format_for(tokenizer, "completion")
    require(responses_are_not_cut(fixed(tokenizer, data), data, tokenizer, fmt), strict=True)
    require(rows_fit_max_length(data, tokenizer, fmt, 400), strict=True)
    require(responses_are_not_cut(fixed(tokenizer, rows), rows, tokenizer, fmt), strict=True)
