"""Packing: every document once, none in pieces, none that sees another."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tiny import byte_level

from llmguard import (
    first_token_of_a_document_is_not_trained,
    packed_documents_are_told_apart,
    position_ids_restart_with_each_document,
)
from llmguard.encoded import as_encoded
from llmguard.packing import unpacked
from llmguard_core.encoding import Encoder
from llmguard_core.errors import DataRefused
from llmguard_core.formats import format_for
from llmguard_core.packing import pack

IGNORED = -100


def row(length: int, mark: int = 0) -> dict[str, list[int]]:
    """A row of `length` tokens that all say which row it is, all trained."""
    ids = [mark + 1] * length
    return {"input_ids": ids, "labels": list(ids), "attention_mask": [1] * length}


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(40, 90))
def test_every_document_is_in_one_row_and_whole(lengths: list[int], room: int) -> None:
    """With its ids, its labels but for the first, its own positions, and within the length."""
    packed = pack([row(length, mark) for mark, length in enumerate(lengths)], room)
    seen = []
    for each in packed:
        assert len(each["input_ids"]) <= room
        assert sum(each["seq_lengths"]) == len(each["input_ids"]) == len(each["attention_mask"])
        at = 0
        for length in each["seq_lengths"]:
            ids = each["input_ids"][at : at + length]
            assert each["position_ids"][at : at + length] == list(range(length))
            assert each["labels"][at : at + length] == [IGNORED, *ids[1:]]
            assert len(set(ids)) == 1
            seen.append((ids[0] - 1, length))
            at += length
    assert sorted(seen) == list(enumerate(lengths))


def test_rows_are_filled() -> None:
    """Best fit of the longest first wastes little: 500 rows of 1 to 100 tokens fill rows of 128 to more than 97 %."""
    draw = random.Random(3)
    lengths = [draw.randint(1, 100) for _ in range(500)]
    packed = pack([row(length) for length in lengths], 128)
    assert sum(lengths) > 0.97 * 128 * len(packed)


def test_packing_is_the_same_every_time() -> None:
    """Equal lengths keep their order."""
    rows = [row(5, mark) for mark in range(7)]
    assert pack(rows, 15) == pack(rows, 15)
    assert [each["input_ids"][::5] for each in pack(rows, 15)] == [[1, 2, 3], [4, 5, 6], [7]]


def test_a_row_that_is_too_long_is_refused() -> None:
    """With its number and length; nothing is cut here."""
    with pytest.raises(DataRefused, match=r"1 of 2 rows .* of 8 tokens, row 1 with 9"):
        pack([row(3), row(9)], 8)
    assert pack([], 8) == []


def test_the_checks_see_documents_that_are_apart() -> None:
    """On encoded rows: told apart, positions that restart, first tokens that are not trained; and each can be broken."""
    tok = byte_level()
    rows = [
        {"prompt": f"how many apples are there in garden {i}", "response": f"there are {i}"}
        for i in range(12)
    ]
    made: Any = Encoder(tok, format_for(tok)).rows(rows)
    packed = pack(made, 160)
    assert len(packed) < len(made)
    assert not packed_documents_are_told_apart(packed, tok, rows)
    assert not position_ids_restart_with_each_document(packed)
    assert not first_token_of_a_document_is_not_trained(packed)
    apart = unpacked(as_encoded(packed))
    assert sorted(map(tuple, apart.input_ids)) == sorted(tuple(r["input_ids"]) for r in made)

    counted = [{**r, "position_ids": [i + (i > 20) for i in range(len(r["input_ids"]))]} for r in packed]
    assert position_ids_restart_with_each_document(counted)
    trained = [{**r, "labels": list(r["input_ids"])} for r in packed]
    assert first_token_of_a_document_is_not_trained(trained)
    untold = [{k: v for k, v in r.items() if k in ("input_ids", "labels", "attention_mask")} for r in packed]
    assert packed_documents_are_told_apart(untold, tok, rows)
