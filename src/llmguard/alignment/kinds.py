"""Kind and turn of every token, from the stretches of bytes that its first and its last byte lie in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmguard.alignment.blocks import Block
from llmguard.alignment.place import Stretch
from llmguard.formats import Kind
from llmguard.ragged import Ints

__all__ = ["Stretches", "kinds_of"]


def _of(*kinds: Kind) -> NDArray[np.bool_]:
    """Whether a kind is one of some: bool [kinds]."""
    found = np.zeros(len(Kind), dtype=bool)
    found[[int(k) for k in kinds]] = True
    return found


IS_EDGE = _of(Kind.RESPONSE, Kind.TERMINATOR, Kind.TAIL, Kind.SEAM)
IS_ANSWER = _of(Kind.RESPONSE, Kind.TERMINATOR)
IS_WHITE = _of(Kind.BLANK_BEFORE, Kind.BLANK_WITHIN, Kind.SEAM)


@dataclass(frozen=True)
class Stretches:
    """Stretches of a block's rows, one behind the other: `starts` in bytes of their row, `kinds`, `turns`; `offsets`: int64 [rows + 1]."""

    offsets: Ints
    starts: NDArray[np.int32]
    kinds: NDArray[np.uint8]
    turns: NDArray[np.int16]

    @classmethod
    def room(cls, counts: Ints) -> Stretches:
        """Room for so many stretches a row: int64 [rows]."""
        offsets = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        total = int(offsets[-1])
        return cls(offsets, np.zeros(total, np.int32), np.zeros(total, np.uint8), np.zeros(total, np.int16))

    def put(self, rows: Ints, starts: Any, kinds: Any, turns: Any) -> None:
        """Stretches of rows that have the same ones: starts [rows, stretches], kinds and turns [stretches]."""
        at = self.offsets[rows][:, None] + np.arange(starts.shape[1])
        self.starts[at], self.kinds[at], self.turns[at] = starts, kinds, turns

    def put_one(self, row: int, found: Sequence[Stretch]) -> None:
        """The stretches of one row."""
        for at, stretch in enumerate(found, int(self.offsets[row])):
            self.starts[at], self.kinds[at], self.turns[at] = stretch.start, stretch.kind, stretch.turn


def kinds_of(block: Block, stretches: Stretches, kind: NDArray[np.uint8], turn: Any) -> None:
    """Write kind and turn of the tokens of a block; what has no content is left to the caller."""
    counts, kinds, turns = np.diff(stretches.offsets), stretches.kinds, stretches.turns
    bounds: Ints = np.repeat(block.bounds[0], counts) + stretches.starts
    if not block.filled.all():
        kept = np.repeat(block.filled, counts)
        bounds, kinds, turns = bounds[kept], kinds[kept], turns[kept]
    if not len(block.ids):
        return
    bounds = np.maximum.accumulate(bounds)  # in order already, unless stretches of a row overlap
    first = np.searchsorted(block.starts, bounds)
    reach = np.diff(np.append(first, len(block.ids)))
    kind[:], turn[:] = np.repeat(kinds, reach), np.repeat(turns.astype(turn.dtype), reach)
    _straddling(block, bounds, kinds, turns, first, kind, turn)
    _blanks(block, bounds, kinds, kind)


def _straddling(
    block: Block, bounds: Ints, kinds: Any, turns: Any, first: Ints, kind: Any, turn: Any
) -> None:
    """Tokens with a bound within their bytes."""
    before = np.maximum(first - 1, 0)
    tokens = np.unique(before[(first > 0) & (bounds < block.ends[before])])
    if not len(tokens):
        return
    last = np.searchsorted(bounds, block.ends[tokens] - 1, side="right") - 1
    start, end = kind[tokens], kinds[last]
    into = IS_ANSWER[end] & (start == Kind.PROMPT)
    blank_into = IS_ANSWER[end] & IS_WHITE[start]
    shared = (start == Kind.BLANK_WITHIN) & ((end == Kind.TAIL) | (end == Kind.PROMPT))
    kind[tokens[into]] = Kind.STRADDLE
    kind[tokens[blank_into]] = Kind.RESPONSE
    turn[tokens[into | blank_into]] = turns[last][into | blank_into]
    kind[tokens[shared]] = Kind.TAIL  # a line break of the response's and one of the template's in one token


def _blanks(block: Block, bounds: Ints, kinds: Any, kind: Any) -> None:
    """Tokens of spaces alone have no bytes: within a stretch they are its kind; at an edge they are nobody's (SentencePiece
    inserts them), unless the prompt's own text ends with a space there.
    """
    empty = np.flatnonzero(block.sizes == 0)
    if not len(empty):
        return
    starts = block.starts[empty]
    kind[empty[_among(starts, bounds[IS_EDGE[kinds]])]] = Kind.SEAM
    spaces = (kinds[:-1] == Kind.BLANK_BEFORE) & (bounds[:-1] == bounds[1:])
    kind[empty[_among(starts, bounds[:-1][spaces])]] = Kind.BLANK_BEFORE


def _among(places: Ints, known: Ints) -> NDArray[np.bool_]:
    """Which places are among known ones (ascending)."""
    if not len(known):
        return np.zeros(len(places), dtype=bool)
    at = np.minimum(np.searchsorted(known, places), len(known) - 1)
    return np.asarray(known[at] == places)
