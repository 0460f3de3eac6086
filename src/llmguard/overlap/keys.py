"""Keys of whole rows: hashes of all that a row asks, of all that it answers, and of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llmguard.overlap.hashing import Hashes
from llmguard.overlap.texts import ANSWERED, ASKED
from llmguard.ragged import Ints

__all__ = ["RowKeys", "row_keys"]


class RowKeys(NamedTuple):
    """Hashes of all that a row asks, of all that it answers, and of both; 0 where there is nothing. uint64 [rows] each."""

    asked: Hashes
    answered: Hashes
    both: Hashes


def row_keys(wholes: Hashes, entry: Ints, kinds: Sequence[int], count: int) -> RowKeys:
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
