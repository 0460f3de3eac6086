"""Prepared rows that hold the text of no row of the split."""

from __future__ import annotations

import numpy as np

import llmguard
from llmguard.encoded import Encoded, as_encoded
from llmguard.rows import as_rows

ROWS = as_rows([{"prompt": f"question {i}", "response": "yes"} for i in range(4)])


def prepared(matched: int, name: str = "prepared") -> Encoded:
    """Four rows, some of them matched with a source row."""
    columns = as_encoded([{"input_ids": [1, 2]}] * 4).columns
    return Encoded(columns, np.array([i if i < matched else -1 for i in range(4)]), name)


def test_rows_of_another_tokenizer_are_told() -> None:
    """`encoded_rows_match_the_split`: fewer than half of the rows known is an error, half is none; live rows are counted alone."""
    check = llmguard.encoded_rows_match_the_split
    for matched, name, expected in ((1, "prepared", 1), (2, "prepared", 0), (0, "train", 0)):
        found = check(prepared(matched, name), ROWS)
        assert (len(found), found.looked_at) == (expected, 4), (matched, name)
    told = check(prepared(1), ROWS)[0]
    assert told.severity.value == "error"
    assert "only 1 hold the text" in told.message
