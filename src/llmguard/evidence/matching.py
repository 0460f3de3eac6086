"""Find the source row of encoded rows whose order is not known: by their text.

The first eight bytes of every content are looked for at every position of a block of rows at once; where they stand, whole
contents are compared by a look-up. A row is the one of which most is there.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmguard.encoded import Encoded
from llmguard.ragged import Ints
from llmguard.rows import Rows
from llmguard.vocabulary import Bytes, vocabulary_of

__all__ = ["matched"]

ANCHOR = 8
"""Bytes that are looked for everywhere."""
START = 48
"""Bytes of a content by which a row is known whose text was cut or edited behind them."""
COMMON = 32
"""A content that more rows than this have (a system message) is looked at only where the others do not tell a row."""
BITS = 20
BLOCK = 1024
"""Rows at a time: a few megabytes of text."""


@dataclass
class _Index:
    """Contents by their first bytes.

    `lengths`: for an anchor, how long the contents are that start so; `sizes`: bytes of all contents of each row.
    """

    rows: dict[bytes, list[int]] = field(default_factory=dict)
    lengths: dict[bytes, set[int]] = field(default_factory=dict)
    short: dict[bytes, list[int]] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)

    def add(self, text: bytes, row: int) -> None:
        """A content, and its start."""
        if len(text) < ANCHOR:
            self.short.setdefault(text, []).append(row)
            return
        for known in {text, text[:START]}:
            rows = self.rows.setdefault(known, [])
            if rows[-1:] != [row]:
                rows.append(row)
            self.lengths.setdefault(known[:ANCHOR], set()).add(len(known))

    def in_text(self, text: bytes, at: int) -> Iterator[tuple[int, list[int]]]:
        """Contents (or their starts) at a place of a text: their length and the rows that have them."""
        for length in self.lengths.get(text[at : at + ANCHOR], ()):
            rows = self.rows.get(text[at : at + length]) if at + length <= len(text) else None
            if rows:
                yield length, rows


def matched(encoded: Encoded, rows: Rows, tokenizer: Any) -> Encoded:
    """The encoded rows with `source` set to the row whose contents they hold; -1 where none does."""
    vocabulary = vocabulary_of(tokenizer)
    index = _Index()
    for row in range(len(rows)):
        contents = [vocabulary.text_as_bytes(t.content.strip()) for t in rows.turns[row] or ()]
        index.sizes.append(sum(map(len, contents)))
        for text in contents:
            index.add(text, row)
    sieve = _sieve(index)
    source: list[int] = []
    for start in range(0, len(encoded), BLOCK):
        ids = encoded.input_ids.slice(start, min(start + BLOCK, len(encoded)))
        flat, ends = vocabulary.spans(ids.values)
        bounds = np.concatenate(([0], ends))[ids.offsets]
        source += _block(flat, bounds, index, sieve, source[-1] if source else -1)
    return replace(encoded, source=np.asarray(source, dtype=np.int64))


def _hashes(flat: Bytes) -> NDArray[np.uint32]:
    """A small hash of the eight bytes at every place: uint32 [bytes - 7]."""
    count = len(flat) - ANCHOR + 1
    found = np.zeros(max(count, 0), dtype=np.uint32)
    for offset in range(ANCHOR if count > 0 else 0):
        found = found * np.uint32(31) + flat[offset : offset + count]
    return np.asarray(found & np.uint32((1 << BITS) - 1))


def _sieve(index: _Index) -> NDArray[np.bool_]:
    sieve = np.zeros(1 << BITS, dtype=bool)
    anchors = np.frombuffer(b"".join(index.lengths), dtype=np.uint8)
    if len(anchors):
        sieve[_hashes(anchors)[::ANCHOR]] = True
    return sieve


def _block(flat: Bytes, bounds: Ints, index: _Index, sieve: NDArray[np.bool_], last: int) -> list[int]:
    """The source of every row of a block; `last` is the source of the row before it."""
    whole, places = flat.tobytes(), np.flatnonzero(sieve[_hashes(flat)])
    first = np.searchsorted(places, bounds)
    found = []
    for row, (start, stop) in enumerate(itertools.pairwise(bounds.tolist())):
        text = whole[start:stop]
        at = (places[first[row] : first[row + 1]] - start).tolist()
        last = _best(text, at, index, last)
        found.append(last)
    return found


def _best(text: bytes, places: Sequence[int], index: _Index, last: int) -> int:
    """The row of which most bytes are in a text, and fewest are not; of equals, the one behind the row before, as files are in order."""
    found = [(at, *hit) for at in places for hit in index.in_text(text, at)]
    if not found:
        found = [(0, len(c), rows) for c, rows in index.short.items() if c and c in text]
    held = _held([hit for hit in found if len(hit[2]) <= COMMON])
    best = max(held, key=lambda row: held[row], default=-1)
    if best < 0 or _held([(at, length, [best] if _has(rows, best) else []) for at, length, rows in found])[
        best
    ] < _covered(found):
        held = _held(found)
    most = max(held.values(), default=0)
    equal = [row for row, here in held.items() if here == most]
    return min(equal, key=lambda row: (index.sizes[row], row <= last, row), default=-1)


def _held(found: Sequence[tuple[int, int, list[int]]]) -> dict[int, int]:
    """How many bytes of each row were found: of contents that start at one place, the longest."""
    longest: dict[int, dict[int, int]] = {}
    for at, length, rows in found:
        for row in rows:
            here = longest.setdefault(row, {})
            here[at] = max(here.get(at, 0), length)
    return {row: sum(here.values()) for row, here in longest.items()}


def _has(rows: list[int], row: int) -> bool:
    at = bisect.bisect_left(rows, row)
    return at < len(rows) and rows[at] == row


def _covered(found: Sequence[tuple[int, int, list[int]]]) -> int:
    """How many bytes of a text are some row's content: contents within others counted once."""
    covered = reached = 0
    for at, length, _ in sorted(found, key=lambda hit: hit[0]):
        covered += max(at + length - max(at, reached), 0)
        reached = max(reached, at + length)
    return covered
