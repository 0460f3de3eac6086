"""Rows in blocks that fit into a processor's cache: their ids, and where the bytes of every token stand."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from llmguard.encoded import Encoded
from llmguard.ragged import Ints
from llmguard.vocabulary import Vocabulary

__all__ = ["TOKENS", "Block", "blocks", "rows_of_bytes"]

TOKENS = 1 << 17
"""Tokens of a block: a few megabytes of everything that is made of them."""


@dataclass(frozen=True)
class Block:
    """Rows `first` to `stop`. `ids`: int64 [tokens], `len(vocabulary)` where there is no content; `offsets`: int64 [rows + 1], from 0."""

    first: int
    stop: int
    ids: Ints
    offsets: Ints
    vocabulary: Vocabulary

    @cached_property
    def sizes(self) -> NDArray[np.int32]:
        """How many bytes each token holds: int32 [tokens]."""
        return self.vocabulary.sizes.take(self.ids)

    @cached_property
    def filled(self) -> NDArray[np.bool_]:
        """Rows that have tokens: bool [rows]."""
        return np.asarray(np.diff(self.offsets) > 0)

    @cached_property
    def ends(self) -> Ints:
        """Where each token ends in the bytes of all rows that have tokens, with one byte put before every row: int64 [tokens].

        With it no two rows share a place, not even those of tokens without bytes.
        """
        gapped = self.sizes.copy()
        gapped[self.offsets[:-1][self.filled]] += 1
        return np.cumsum(gapped, dtype=np.int64)

    @cached_property
    def starts(self) -> Ints:
        """Where each token starts: int64 [tokens]."""
        return self.ends - self.sizes

    @cached_property
    def bounds(self) -> tuple[Ints, Ints]:
        """Where each row starts and ends, for rows that have tokens; 0 for others: int64 [rows] each."""
        starts, ends = np.zeros((2, len(self.filled)), dtype=np.int64)
        starts[self.filled] = self.starts[self.offsets[:-1][self.filled]]
        ends[self.filled] = self.ends[self.offsets[1:][self.filled] - 1]
        return starts, ends


def blocks(encoded: Encoded, vocabulary: Vocabulary, tokens: int = TOKENS) -> Iterator[Block]:
    """All rows in blocks of about so many tokens, whole rows each."""
    ids, mask = encoded.input_ids, encoded.columns.get("attention_mask")
    attended = mask.values if mask is not None and mask.same_shape(ids) else None
    first = 0
    while first < len(ids):
        stop = int(np.searchsorted(ids.offsets, ids.offsets[first] + tokens, side="right")) - 1
        stop = min(max(stop, first + 1), len(ids), first + tokens)
        part = slice(int(ids.offsets[first]), int(ids.offsets[stop]))
        known = _known(ids.values[part], None if attended is None else attended[part], len(vocabulary))
        yield Block(first, stop, known, ids.offsets[first : stop + 1] - ids.offsets[first], vocabulary)
        first = stop


def _known(ids: Ints, attended: Ints | None, count: int) -> Ints:
    """The ids, with `count` in the place of padding and of what the vocabulary does not have."""
    if attended is not None and not attended.all():
        ids = np.where(attended != 0, ids, count)
    if len(ids) and (ids.min() < 0 or ids.max() > count):
        ids = np.where((ids < 0) | (ids > count), count, ids)
    return ids


def rows_of_bytes(block: Block, rows: Ints) -> list[bytes]:
    """The bytes of some rows of a block, numbered within it."""
    if not len(rows):
        return []
    parts = [block.ids[block.offsets[r] : block.offsets[r + 1]] for r in rows.tolist()]
    flat, ends = block.vocabulary.spans(np.concatenate(parts))
    counted = np.cumsum([0, *(len(p) for p in parts)])
    at = np.concatenate(([0], ends))[counted].tolist()
    text = flat.tobytes()
    return [text[start:stop] for start, stop in itertools.pairwise(at)]
