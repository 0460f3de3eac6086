"""Ragged columns: flat values and offsets, as Arrow keeps lists; no Python loop over tokens anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmguard.errors import UsageError

__all__ = ["Ints", "Ragged"]

Ints = NDArray[np.int64]
Span = slice
"""The built-in type, which a method of `Ragged` is named like."""


@dataclass(frozen=True)
class Ragged:
    """Rows of unequal length. `values`: int64 [tokens]; `offsets`: int64 [rows + 1], from 0 to `len(values)`."""

    values: Ints
    offsets: Ints

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]] | Any) -> Ragged:
        """From lists of ints, arrays, or an Arrow list column (zero-copy where its type allows).

        Raises:
            UsageError: a row holds something that is no integer.
        """
        if hasattr(rows, "combine_chunks"):
            rows = rows.combine_chunks()
        if hasattr(rows, "offsets") and hasattr(rows, "values"):
            return cls._of_arrow(rows)
        lengths = np.fromiter((len(r) for r in rows), dtype=np.int64, count=len(rows))
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        try:
            parts = [np.asarray(r, dtype=np.int64) for r in rows if len(r)]
        except (TypeError, ValueError, OverflowError):
            raise UsageError("column", rows, "rows of integers") from None
        return cls(np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64), offsets)

    @classmethod
    def _of_arrow(cls, column: Any) -> Ragged:
        offsets = np.asarray(column.offsets, dtype=np.int64)
        values = np.asarray(column.values)[offsets[0] : offsets[-1]]
        return cls(values.astype(np.int64, copy=False), offsets - offsets[0])

    @property
    def lengths(self) -> Ints:
        """Tokens of each row: int64 [rows]."""
        return np.diff(self.offsets)

    @property
    def row_of(self) -> Ints:
        """The row that each value lies in: int64 [tokens]."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.lengths)

    @property
    def position(self) -> Ints:
        """The position of each value in its row: int64 [tokens]."""
        return np.arange(len(self.values), dtype=np.int64) - np.repeat(self.offsets[:-1], self.lengths)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Ints:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def __iter__(self) -> Iterator[Ints]:
        return (self[i] for i in range(len(self)))

    def take(self, rows: Sequence[int] | Ints) -> Ragged:
        """Some rows, in the order given."""
        return Ragged.of([self[int(i)] for i in rows])

    def slice(self, start: int, stop: int) -> Ragged:
        """Rows start to stop, sharing memory."""
        lo, hi = self.offsets[start], self.offsets[stop]
        return Ragged(self.values[lo:hi], self.offsets[start : stop + 1] - lo)

    def keep(self, mask: NDArray[np.bool_]) -> Ragged:
        """The values where the flat mask is true, row by row."""
        return Ragged(self.values[mask], np.concatenate(([0], self.count(mask).cumsum())))

    def count(self, mask: NDArray[np.bool_]) -> Ints:
        """How many values of each row the flat mask holds for: int64 [rows]."""
        if not mask.any():  # nothing is wrong: the usual answer, and the fastest
            return np.zeros(len(self), dtype=np.int64)
        found, filled = np.zeros(len(self), dtype=np.int64), self.lengths > 0
        ones = np.ascontiguousarray(mask, dtype=bool).view(np.uint8)
        found[filled] = np.add.reduceat(ones, self.offsets[:-1][filled], dtype=np.int32)
        return found

    def parts(self, values: int = 1 << 20) -> Iterator[tuple[Span, Span]]:
        """Rows of about so many values, at least one, and their values: two slices each, for work that needs room."""
        first = 0
        while first < len(self):
            stop = int(np.searchsorted(self.offsets, self.offsets[first] + values, side="right")) - 1
            stop = min(max(stop, first + 1), len(self))
            yield Span(first, stop), Span(int(self.offsets[first]), int(self.offsets[stop]))
            first = stop

    @property
    def repeated(self) -> NDArray[np.bool_]:
        """Rows whose values another row may have too, judged by a number of 64 bits: bool [rows]; all others are alone."""
        numbers = np.zeros(len(self), dtype=np.uint64)
        for rows, values in self.parts(1 << 15):
            numbers[rows] = _numbers(
                self.values[values], self.offsets[rows.start : rows.stop + 1] - values.start
            )
        _, which, counts = np.unique(numbers, return_inverse=True, return_counts=True)
        return np.asarray(counts[which] > 1)

    def same_shape(self, other: Ragged) -> bool:
        """Whether both have the same rows of the same lengths."""
        return np.array_equal(self.offsets, other.offsets)


MULTIPLIER, INVERSE = 0x9E3779B97F4A7C15, pow(0x9E3779B97F4A7C15, -1, 1 << 64)


def _numbers(values: Ints, offsets: Ints) -> NDArray[np.uint64]:
    """A polynomial over the values of each row, modulo 2**64: equal rows have equal numbers."""
    filled = np.flatnonzero(np.diff(offsets) > 0)
    found = np.zeros(len(offsets) - 1, dtype=np.uint64)
    if len(filled):
        size, starts = 1 << int(len(values) - 1).bit_length(), offsets[filled]
        summed = np.add.reduceat(values.view(np.uint64) * _powers(MULTIPLIER, size)[: len(values)], starts)
        found[filled] = summed * _powers(INVERSE, size)[starts]  # as if every row started at the first place
    return found


@lru_cache(maxsize=8)
def _powers(base: int, count: int) -> NDArray[np.uint64]:
    factors = np.full(count, base, dtype=np.uint64)
    factors[:1] = 1
    return np.cumprod(factors, dtype=np.uint64)
