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
from llmguard.overlap.table import Table
from llmguard.overlap.texts import ANSWERED, ASKED, Parts, part_blocks
from llmguard.ragged import Ints
from llmguard.rows import Rows

__all__ = ["CONTROL", "MOST_RARE", "Candidates", "Index", "Partial", "rare_at_most"]

CONTROL = 500
"""Training rows that are indexed as a control."""
LEAST_RARE, MOST_RARE = 2, 50
LOW = np.int64((1 << 32) - 1)
"""Pairs are kept in one number: gram or key in the upper half, row in the lower."""
SHARE, MOST_SHARE, LEAST = 0.03, 0.4, 2
"""A row is a candidate for a text with LEAST and SHARE of its rare grams, or with MOST_SHARE."""
BEST = 3
"""Candidates kept for each text."""


def rare_at_most(rows: int) -> int:
    """In how many training rows a gram may stand before it is a turn of phrase: one in a thousand, but 2 to 50."""
    return max(LEAST_RARE, min(MOST_RARE, rows // 1000))


class Candidates(NamedTuple):
    """Indexed text (part), training row, and how many of the text's rare grams that row has: int64 [candidates] each."""

    part: Ints
    row: Ints
    shared: Ints


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


class RowKeys(NamedTuple):
    """Hashes of all that a row asks, of all that it answers, and of both; 0 where there is nothing. uint64 [rows] each."""

    asked: Hashes
    answered: Hashes
    both: Hashes


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
        row_keys = _row_keys(_wholes(found), entry, parts.kinds, len(rows) + len(chosen))
        keys = np.unique(np.concatenate(row_keys))
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
            row_keys,
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
        found = _Found(self)
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
        keys = _row_keys(texts.whole, entry, block.kinds, len(distinct))
        key, which = self._key_table.find(np.concatenate(keys))
        return np.unique(gram << 32 | of_row), np.unique(key << 32 | np.tile(distinct, 3)[which] + first)

    def candidates(self, partial: Partial) -> Candidates:
        """For each indexed text the training rows that share the most of its rare grams, best first, at most BEST.

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
        kept = np.arange(len(part)) - np.searchsorted(part, part) < BEST
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


class _Found:
    """What has been found so far: counts for everything, places for what is still rare."""

    def __init__(self, index: Index) -> None:
        self.grams = np.zeros(len(index.grams), np.int64)
        self.keys = np.zeros(len(index.keys), np.int64)
        self.gram_rows: list[Ints] = []
        self.key_rows: list[Ints] = []

    def add(self, gram_rows: Ints, key_rows: Ints) -> None:
        for counts, pairs, kept in (
            (self.grams, gram_rows, self.gram_rows),
            (self.keys, key_rows, self.key_rows),
        ):
            upper = pairs >> 32
            kept.append(pairs[counts[upper] <= MOST_RARE])
            np.add.at(counts, upper, 1)

    def partial(self, rows: int) -> Partial:
        gram_rows, key_rows = (
            np.sort(np.concatenate(each or [np.zeros(0, np.int64)]))
            for each in (self.gram_rows, self.key_rows)
        )
        return Partial(rows, self.grams, _first_of_each(gram_rows), self.keys, _first_of_each(key_rows))


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


def _row_keys(wholes: Hashes, entry: Ints, kinds: Sequence[int], count: int) -> RowKeys:
    """Keys by entry from the hashes of its parts, in order."""
    kind = np.asarray(kinds, dtype=np.int64)
    asked, answered = (_combined(wholes[kind == k], entry[kind == k], count) for k in (ASKED, ANSWERED))
    both = (asked * np.uint64(0x9E3779B97F4A7C15)) ^ (answered * np.uint64(0xD6E8FEB86659FD93)) ^ np.uint64(1)
    both[asked == 0] = 0
    return RowKeys(_marked(asked, 1), _marked(answered, 2), both)


def _marked(keys: Hashes, kind: int) -> Hashes:
    """Keys of a kind of their own; 0 stays 0."""
    return np.where(keys != 0, keys ^ np.uint64(kind << 60 | kind), keys)


def _combined(wholes: Hashes, entry: Ints, count: int) -> Hashes:
    some = wholes != 0
    wholes, entry = wholes[some], entry[some]
    rank = np.arange(len(entry)) - np.searchsorted(entry, entry)
    factors = np.full(len(entry), 1, np.uint64)
    for r in range(1, int(rank.max(initial=0)) + 1):
        factors[rank >= r] *= np.uint64(0xC2B2AE3D27D4EB4F)
    found = np.zeros(count, np.uint64)
    np.add.at(found, entry, wholes * factors)
    return found


def _ranges(starts: Ints, counts: Ints) -> Ints:
    """`start, start + 1, …` of each range, one after another."""
    before = np.cumsum(counts) - counts
    return np.arange(int(counts.sum()), dtype=np.int64) - np.repeat(before - starts, counts)
