"""Packed rows taken apart into their documents."""

from __future__ import annotations

import numpy as np
import pytest

from llmguard.encoded import Encoded, as_encoded
from llmguard.packing import document_starts, unpacked

Columns = dict[str, list[list[int]]]
IDS = [[1, 2, 3, 4, 5], [6, 7, 8]]


def encoded(**columns: list[list[int]]) -> Encoded:
    return as_encoded({"input_ids": IDS, "labels": IDS, **columns})


def rows(found: Encoded) -> list[list[int]]:
    return [r.tolist() for r in found.input_ids]


@pytest.mark.parametrize("told", [
    {"position_ids": [[0, 1, 0, 1, 2], [0, 1, 2]]},
    {"seq_lengths": [[2, 3], [3]]},
    {"seq_lengths": [[2, 3], [3]], "position_ids": [[0, 1, 0, 1, 2], [0, 1, 2]]},
])  # fmt: skip
def test_documents_become_rows(told: Columns) -> None:
    """By position_ids that start again or by seq_lengths; labels go with their ids, and nobody knows the source any more."""
    found = unpacked(encoded(**told))
    assert rows(found) == [[1, 2], [3, 4, 5], [6, 7, 8]]
    assert [r.tolist() for r in found.labels] == rows(found)
    assert found.source.tolist() == [-1, -1, -1]


def test_rows_that_are_not_packed_stay_as_they_are() -> None:
    """Without a word about documents, and with position_ids that simply count."""
    for plain in (
        encoded(),
        encoded(position_ids=[[0, 1, 2, 3, 4], [0, 1, 2]]),
        encoded(seq_lengths=[[5], [3]]),
    ):
        assert unpacked(plain) is plain
        assert unpacked(plain).source.tolist() == [0, 1]


def test_where_documents_start_is_told_in_flat_positions() -> None:
    """Across rows; None where nothing tells."""
    starts = document_starts(encoded(position_ids=[[0, 1, 0, 1, 2], [0, 1, 0]]))
    assert starts is not None
    assert starts.tolist() == [0, 2, 5, 7]
    starts = document_starts(encoded(seq_lengths=[[1, 4], [2, 1]]))
    assert starts is not None
    assert starts.tolist() == [0, 1, 5, 7]
    assert document_starts(encoded()) is None


def test_lengths_that_do_not_add_up_are_not_believed() -> None:
    """seq_lengths of another sum than the row is long: documents are not cut at random, nor ids lost."""
    broken = encoded(seq_lengths=[[2, 9], [3]])
    assert unpacked(broken) is broken
    positions = [[0, 1, 2, 0, 1], [0, 1, 2]]
    assert rows(unpacked(encoded(seq_lengths=[[2, 9], [3]], position_ids=positions))) == [
        [1, 2, 3],
        [4, 5],
        [6, 7, 8],
    ]


def test_padding_on_the_left_starts_no_document() -> None:
    """position_ids of 0 over padding: once it is taken off, the rest counts on."""
    padded = as_encoded(
        {
            "input_ids": [[9, 9, 1, 2, 3]],
            "attention_mask": [[0, 0, 1, 1, 1]],
            "position_ids": [[0, 0, 0, 1, 2]],
        }
    )
    assert rows(unpacked(padded.unpadded())) == [[1, 2, 3]]


def test_packed_rows_of_a_batch_of_one() -> None:
    """A padding-free batch: one row of many documents."""
    lengths = np.random.default_rng(3).integers(1, 6, size=20)
    ids = [np.arange(int(lengths.sum())).tolist()]
    positions = [[p for n in lengths for p in range(int(n))]]
    found = unpacked(as_encoded({"input_ids": ids, "position_ids": positions}))
    assert found.input_ids.lengths.tolist() == lengths.tolist()
