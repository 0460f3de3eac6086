"""What shards of the training split say of an index: counts that add up, and the places of what is rare."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmguard.overlap.hashing import Hashes
from llmguard.ragged import Ints

__all__ = ["MOST_RARE", "Found", "Partial"]

MOST_RARE = 50
"""Training rows in which a gram may stand at most to be rare, however many there are."""


@dataclass(frozen=True)
class Partial:
    """What one shard of the training rows says.

    `rows`: how many there were. `grams`, `keys`: in how many of them each indexed gram (key) stands. `gram_rows`,
    `key_rows`: where, as sorted numbers `gram << 32 | row`; only the first of what stands in more than MOST_RARE rows.
    """

    rows: int
    grams: Ints
    gram_rows: Ints
    keys: Ints
    key_rows: Ints

    def __add__(self, other: Partial) -> Partial:
        return Partial(
            self.rows + other.rows,
            self.grams + other.grams,
            _first_of_each(np.union1d(self.gram_rows, other.gram_rows)),
            self.keys + other.keys,
            _first_of_each(np.union1d(self.key_rows, other.key_rows)),
        )


def _first_of_each(pairs: Ints) -> Ints:
    """Of sorted pairs the first MOST_RARE + 1 of each upper half."""
    upper = pairs >> 32
    kept: Ints = pairs[np.arange(len(pairs)) - np.searchsorted(upper, upper) <= MOST_RARE]
    return kept


class Found:
    """What has been found so far: counts for everything, places for what is still rare."""

    def __init__(self, grams: Hashes, keys: Hashes) -> None:
        self.grams = np.zeros(len(grams), np.int64)
        self.keys = np.zeros(len(keys), np.int64)
        self.gram_rows: list[Ints] = []
        self.key_rows: list[Ints] = []

    def add(self, gram_rows: Ints, key_rows: Ints) -> None:
        """What a block of rows says: sorted distinct (gram, row) and (key, row), rows above those of the blocks before."""
        for counts, pairs, kept in (
            (self.grams, gram_rows, self.gram_rows),
            (self.keys, key_rows, self.key_rows),
        ):
            upper = pairs >> 32
            kept.append(pairs[counts[upper] <= MOST_RARE])
            np.add.at(counts, upper, 1)

    def partial(self, rows: int) -> Partial:
        """All of it, for a shard of so many rows."""
        gram_rows, key_rows = (
            np.sort(np.concatenate(each or [np.zeros(0, np.int64)]))
            for each in (self.gram_rows, self.key_rows)
        )
        return Partial(rows, self.grams, _first_of_each(gram_rows), self.keys, _first_of_each(key_rows))
