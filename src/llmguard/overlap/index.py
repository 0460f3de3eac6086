"""The index of one split that another is streamed past: map and merge, the same answer whatever the shards.

    index = Index.of(test, control=train)
    partial = index.scan(first half of train) + index.scan(second half, first=5_000)     # any shards, any order
    index.candidates(partial)                                                            # to be looked at by `verify`

Indexes and partials hold hashes and row numbers. A sample of the training rows is indexed too, as a control: how near
training rows are to each other says how near a test row is by nature.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from llmguard.overlap.hashing import BLOCK, Hashed, Hashes, hashed
from llmguard.overlap.keys import RowKeys, row_keys
from llmguard.overlap.partial import MOST_RARE, Found, Partial
from llmguard.overlap.table import Table
from llmguard.overlap.texts import Parts, part_blocks
from llmguard.ragged import Ints
from llmguard.rows import Rows

__all__ = ["CONTROL", "Candidates", "Index", "rare_at_most"]

CONTROL = 500
"""Training rows that are indexed as a control."""
LEAST_RARE = 2
LOW = np.int64((1 << 32) - 1)
"""Pairs are kept in one number: gram or key in the upper half, row in the lower."""
SHARE, MOST_SHARE, LEAST = 0.03, 0.4, 2
"""A row is a candidate for a text with LEAST and SHARE of its rare grams, or with MOST_SHARE."""
BEST, FEW_GRAMS, BEST_OF_FEW = 3, 12, 12
"""Candidates kept for each text; more for a text of FEW_GRAMS, whose rare grams may stand together in rows that lack the rest."""


def rare_at_most(rows: int) -> int:
    """In how many training rows a gram may stand before it is a turn of phrase: one in a thousand, but 2 to 50."""
    return max(LEAST_RARE, min(MOST_RARE, rows // 1000))


class Candidates(NamedTuple):
    """Indexed text (part), training row, and how many of the text's rare grams that row has: int64 [candidates] each."""

    part: Ints
    row: Ints
    shared: Ints


@dataclass(frozen=True)
class Index:
    """A split by the hashes of its texts.

    `parts`: its texts; `entry`: int64 [parts], which entry each is of: rows 0 to `rows` - 1 of the split, then control rows,
    whose rows in the training split are `control`. `grams`: sorted distinct hashes; the k-th stands in the parts
    `at[first[k] : first[k + 1]]`. `size`: int64 [parts], distinct grams of each part. `keys`: sorted distinct row keys.
    """

    parts: Parts
    rows: int
    entry: Ints
    control: Ints
    grams: Hashes
    first: Ints
    at: Ints
    size: Ints
    row_keys: RowKeys
    keys: Hashes

    @classmethod
    def of(cls, rows: Rows, *, control: Rows | None = None) -> Index:
        """Index a split; `control` is the training split, from which every n-th row is taken."""
        chosen = _chosen(len(control)) if control is not None else []
        own = list(part_blocks(rows, range(len(rows)), BLOCK))
        more = list(part_blocks(control, chosen, BLOCK)) if control is not None else []
        found = [hashed(block.texts) for block in (*own, *more)]
        parts = _together([*own, *more])
        place = {row: len(rows) + n for n, row in enumerate(chosen)}
        split = sum(map(len, own))
        entry = np.asarray([*parts.rows[:split], *(place[row] for row in parts.rows[split:])], dtype=np.int64)
        by_row = row_keys(_wholes(found), entry, parts.kinds, len(rows) + len(chosen))
        keys = np.unique(np.concatenate(by_row))
        grams, first, at, size = _inverted(found, len(parts))
        return cls(
            parts,
            len(rows),
            entry,
            np.asarray(chosen, np.int64),
            grams,
            first,
            at,
            size,
            by_row,
            keys[keys != 0],
        )

    @cached_property
    def _gram_table(self) -> Table:
        return Table(self.grams)

    @cached_property
    def _key_table(self) -> Table:
        return Table(self.keys)

    def scan(self, rows: Rows, *, first: int = 0, threads: int | None = None) -> Partial:
        """Stream a shard of the training split past the index; `first` is the number of its first row.

        NumPy works outside the interpreter's lock, so `threads` (default: as many as this process may use, at most 4) help.
        """
        few = threads or min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
        found = Found(self.grams, self.keys)
        blocks = part_blocks(rows, range(len(rows)), BLOCK)
        if few == 1 or len(rows) < 1000:
            for block in blocks:
                found.add(*self._scan_block(block, first))
        else:
            with ThreadPoolExecutor(few) as pool:
                for some in _by(blocks, 2 * few):
                    for hits in pool.map(lambda block: self._scan_block(block, first), some):
                        found.add(*hits)
        return found.partial(len(rows))

    def _scan_block(self, block: Parts, first: int) -> tuple[Ints, Ints]:
        """Sorted distinct (gram, row) and (key, row) of a block."""
        texts = hashed(block.texts)
        rows = np.asarray(block.rows, dtype=np.int64)
        grams, at = texts.grams
        gram, where = self._gram_table.find(grams)
        of_row = rows[texts.text[at[where]]] + first
        distinct, entry = np.unique(rows, return_inverse=True)
        keys = row_keys(texts.whole, entry, block.kinds, len(distinct))
        key, which = self._key_table.find(np.concatenate(keys))
        return np.unique(gram << 32 | of_row), np.unique(key << 32 | np.tile(distinct, 3)[which] + first)

    def candidates(self, partial: Partial) -> Candidates:
        """For each indexed text the training rows that share the most of its rare grams, best first.

        A control row is no candidate for itself, and what only it has is not held against it.
        """
        gram, row = partial.gram_rows >> 32, partial.gram_rows & LOW
        limit = rare_at_most(partial.rows)
        near = partial.grams[gram] <= limit + 1
        gram, row = gram[near], row[near]
        times = self.first[gram + 1] - self.first[gram]
        part = self.at[_ranges(self.first[gram], times)]
        gram, row = np.repeat(gram, times), np.repeat(row, times)
        own = self._own_row[part]
        good = (
            (partial.grams[gram] - (own >= 0) <= limit)
            & (row != own)
            & (self.spread[gram] <= max(3, self.rows // 100))
        )
        pairs, shared = np.unique(part[good] << 32 | row[good], return_counts=True)
        return self._best(pairs >> 32, pairs & LOW, shared)

    @cached_property
    def _own_row(self) -> Ints:
        """The training row that a part is of, -1 for parts of the indexed split: int64 [parts]."""
        rows = np.concatenate((np.full(self.rows, -1, np.int64), self.control))
        return rows[self.entry]

    @cached_property
    def spread(self) -> Ints:
        """In how many parts of the indexed split itself each gram stands: int64 [grams]."""
        mine = np.concatenate(([0], np.cumsum(self.entry[self.at] < self.rows)))
        spread: Ints = mine[self.first[1:]] - mine[self.first[:-1]]
        return spread

    def _best(self, part: Ints, row: Ints, shared: Ints) -> Candidates:
        share = shared / self.size[part]
        enough = ((shared >= LEAST) & (share >= SHARE)) | (share >= MOST_SHARE)
        part, row, shared = part[enough], row[enough], shared[enough]
        order = np.lexsort((row, -shared, part))
        part, row, shared = part[order], row[order], shared[order]
        most = np.where(self.size[part] <= FEW_GRAMS, BEST_OF_FEW, BEST)
        kept = np.arange(len(part)) - np.searchsorted(part, part) < most
        return Candidates(part[kept], row[kept], shared[kept])

    def key_counts(self, partial: Partial, keys: Hashes) -> Ints:
        """In how many training rows each of some row keys stands; 0 for the key 0."""
        found = np.zeros(len(keys), np.int64)
        key, where = self._key_table.find(keys)
        found[where] = partial.keys[key]
        return found

    def rows_of_key(self, partial: Partial, key: np.uint64) -> Ints:
        """The first training rows that a row key stands in."""
        at = int(np.searchsorted(self.keys, key))
        lo, hi = np.searchsorted(partial.key_rows, [at << 32, (at + 1) << 32])
        rows: Ints = partial.key_rows[lo:hi] & LOW
        return rows

    def gram_counts(self, partial: Partial, text: str) -> Ints:
        """In how many training rows the gram at each word of an indexed text stands, -1 where none is indexed."""
        grams, at = hashed([text]).grams
        found = np.full(int(at[-1]) + 1 if len(at) else 0, -1, np.int64)
        gram, where = self._gram_table.find(grams)
        found[at[where]] = partial.grams[gram]
        return found


def _chosen(rows: int) -> list[int]:
    """Rows of the control sample, spread evenly."""
    count = min(CONTROL, rows)
    return [n * rows // count for n in range(count)]


def _by(blocks: Iterator[Parts], count: int) -> Iterator[list[Parts]]:
    some: list[Parts] = []
    for block in blocks:
        some.append(block)
        if len(some) == count:
            yield some
            some = []
    if some:
        yield some


def _together(blocks: Sequence[Parts]) -> Parts:
    return Parts(
        [t for b in blocks for t in b.texts],
        [r for b in blocks for r in b.rows],
        [k for b in blocks for k in b.kinds],
    )


def _wholes(found: Sequence[Hashed]) -> Hashes:
    return np.concatenate([h.whole for h in found] or [np.zeros(0, np.uint64)])


def _inverted(found: Sequence[Hashed], parts: int) -> tuple[Hashes, Ints, Ints, Ints]:
    """Distinct grams that say something, where each one's parts start, those parts, and how many grams each part has."""
    grams, places, base = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)], 0
    for texts in found:
        each, at = texts.grams
        telling = texts.telling[at]
        grams.append(each[telling])
        places.append(texts.text[at[telling]] + base)
        base += len(texts.whole)
    all_grams, all_places = np.concatenate(grams), np.concatenate(places)
    order = np.lexsort((all_places, all_grams))
    all_grams, all_places = all_grams[order], all_places[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (all_grams[1:] != all_grams[:-1]) | (all_places[1:] != all_places[:-1])
    all_grams, all_places = all_grams[new], all_places[new]
    distinct, first = np.unique(all_grams, return_index=True)
    bounds = np.append(first, len(all_grams)).astype(np.int64)
    return distinct, bounds, all_places, np.bincount(all_places, minlength=parts)


def _ranges(starts: Ints, counts: Ints) -> Ints:
    """`start, start + 1, …` of each range, one after another."""
    before = np.cumsum(counts) - counts
    return np.arange(int(counts.sum()), dtype=np.int64) - np.repeat(before - starts, counts)
