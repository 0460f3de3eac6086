"""A sorted table of hashes that is looked up in bulk: a filter first, then a directory by the upper bits, no binary search."""

from __future__ import annotations

import numpy as np

from llmguard.overlap.hashing import Hashes
from llmguard.ragged import Ints

__all__ = ["Table"]

SLOTS = 16
"""Flags of the filter for each hash: one in sixteen of the hashes that are not in the table gets through."""
MOST_BITS = 27


class Table:
    """Sorted distinct hashes, uint64 [hashes]."""

    def __init__(self, hashes: Hashes) -> None:
        self.hashes = hashes
        count = max(1, len(hashes))
        self._fine = np.uint64(64 - min(MOST_BITS, max(8, (count * SLOTS - 1).bit_length())))
        self._flags = np.zeros(1 << (64 - int(self._fine)), np.bool_)
        self._flags[(hashes >> self._fine).view(np.int64)] = True
        self._coarse = np.uint64(64 - min(MOST_BITS, max(1, (count - 1).bit_length())))
        buckets = np.arange((1 << (64 - int(self._coarse))), dtype=np.uint64) << self._coarse
        self._starts = np.append(np.searchsorted(hashes, buckets), len(hashes)).astype(np.int32)

    def find(self, values: Hashes) -> tuple[Ints, Ints]:
        """Which of the values are in the table: their places in the table, and in the values (these not in order)."""
        where = np.flatnonzero(self._flags.take((values >> self._fine).view(np.int64)))
        values = values[where]
        bucket = (values >> self._coarse).view(np.int64)
        at, stop = self._starts.take(bucket), self._starts.take(bucket + 1)
        places, found = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        while len(at):
            some = at < stop
            at, stop, values, where = at[some], stop[some], values[some], where[some]
            same = self.hashes.take(at) == values
            places.append(at[same].astype(np.int64))
            found.append(where[same])
            other = ~same
            at, stop, values, where = at[other] + np.int32(1), stop[other], values[other], where[other]
        return np.concatenate(places), np.concatenate(found)
