"""Ragged columns: counts row by row, rows in parts, rows that repeat; beside the plain Python that says the same."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llmguard.ragged import Ragged

ROWS = st.lists(st.lists(st.integers(-5, 3), max_size=6), max_size=12)


@settings(deadline=None)
@given(rows=ROWS)
def test_counts_are_those_of_each_row(rows: list[list[int]]) -> None:
    """Empty rows, rows without hits, masks that are strided: what a loop counts."""
    ragged = Ragged.of(rows)
    assert ragged.count(ragged.values > 0).tolist() == [sum(v > 0 for v in row) for row in rows]
    assert ragged.count(ragged.values > 9).tolist() == [0] * len(rows)
    strided = np.repeat(ragged.values > 0, 2)[::2]
    assert ragged.count(strided).tolist() == [sum(v > 0 for v in row) for row in rows]


@settings(deadline=None)
@given(rows=ROWS, values=st.integers(1, 9))
def test_parts_are_all_rows_in_order(rows: list[list[int]], values: int) -> None:
    """Whole rows each, at least one, and no more values than wanted unless a row alone has more."""
    ragged = Ragged.of(rows)
    parts = list(ragged.parts(values))
    assert [r for span, _ in parts for r in range(span.start, span.stop)] == list(range(len(rows)))
    for span, here in parts:
        assert ragged.values[here].tolist() == [v for row in rows[span] for v in row]
        assert here.stop - here.start <= values or span.stop - span.start == 1


@settings(deadline=None)
@given(rows=ROWS)
def test_rows_that_repeat_are_among_those_told(rows: list[list[int]]) -> None:
    """Every row that another equals is told; rows of other values are not, but for zeros at their end."""
    told = Ragged.of(rows).repeated.tolist()
    stripped = [tuple(np.trim_zeros(row, "b")) for row in rows]
    assert all(told[i] for i, row in enumerate(rows) if rows.count(row) > 1)
    assert told == [stripped.count(row) > 1 for row in stripped]


def test_rows_far_apart_are_told_as_repeated() -> None:
    """In another part of the data, at another place of it."""
    draw = np.random.default_rng(3)
    rows = [draw.integers(0, 50_000, 300) for _ in range(400)]
    rows[390] = rows[2].copy()
    assert np.flatnonzero(Ragged.of(rows).repeated).tolist() == [2, 390]
