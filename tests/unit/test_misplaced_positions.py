"""Position ids that restart one token beside the documents that they are to tell apart."""

from __future__ import annotations

import itertools

import pytest

import llmguard
from llmguard.encoded import as_batches

DOCUMENT, COUNT = [9, 5, 6, 7, 8], 5


def counted(boundaries: list[int], length: int) -> list[int]:
    """Positions that restart at some places."""
    starts = [0, *boundaries, length]
    return [n for a, b in itertools.pairwise(starts) for n in range(b - a)]


@pytest.mark.parametrize(("by", "told"), [(0, ""), (1, "one token late"), (-1, "one token early")])
def test_boundaries_one_token_off(by: int, told: str) -> None:
    """`position_ids_restart_with_each_document`: restarts beside the token that documents start with are told, those on it pass."""
    ids = DOCUMENT * COUNT
    positions = counted([len(DOCUMENT) * i + by for i in range(1, COUNT)], len(ids))
    found = llmguard.position_ids_restart_with_each_document(
        as_batches([{"input_ids": [ids], "position_ids": [positions]}])
    )
    assert [f.severity.value for f in found] == (["error"] if told else [])
    assert all(told in f.message for f in found)
    assert found.looked_at == 1


def test_two_boundaries_are_too_few() -> None:
    """`position_ids_restart_with_each_document`: two boundaries beside the first token may be an accident."""
    ids = DOCUMENT * 3
    batch = {"input_ids": [ids], "position_ids": [counted([6, 11], len(ids))]}
    assert not llmguard.position_ids_restart_with_each_document(as_batches([batch]))
