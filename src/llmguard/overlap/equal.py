"""Rows with the keys of a training row to matches: what is equal, byte by byte or but for its writing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmguard.overlap.compare import Words, same_but_for_writing
from llmguard.overlap.hashing import Hashes
from llmguard.overlap.index import Index, rare_at_most
from llmguard.overlap.match import Match
from llmguard.overlap.partial import Partial
from llmguard.overlap.texts import ANSWERED, ASKED, companions_of, texts_of
from llmguard.ragged import Ints
from llmguard.rows import Rows, is_metadata, turns_of

__all__ = ["Equal"]

PROMPT, ANSWER = 5, 20
"""Words from which an equal prompt counts though the answers differ, and an equal answer though the prompts do."""
FIXED, OFTEN = 8, 200
"""A prompt in more than FIXED training rows, and in more than one in OFTEN, is a fixed instruction: only whole rows count."""
REPEATED, SELDOM = 3, 50
"""Likewise a prompt of more than REPEATED rows of the split itself, and of more than one in SELDOM."""
LOOKED_AT = 8
"""Training rows with the same key that are looked at."""
USUAL_ANSWERS = 0.01
"""Where more training rows than this give another one's long answer to another prompt, equal answers say nothing."""


class Times(NamedTuple):
    """In how many training rows what each entry asks, answers, or both together stands: int64 [entries] each."""

    asked: Ints
    answered: Ints
    both: Ints


@dataclass
class Equal:
    """Looks at the texts behind the keys."""

    index: Index
    partial: Partial
    rows: Rows
    train: Rows

    def matches(self) -> Iterator[Match]:
        """Every row that is equal to a training row as a whole, in its prompt, or in its answer."""
        keys, times, rare = self.index.row_keys, self._times, rare_at_most(self.partial.rows)
        own = slice(0, self.index.rows)
        yield from self._side("row", keys.both, times.both, times.both[own] > 0)
        yield from self._side("prompt", keys.asked, times.asked, (times.asked[own] > 0) & ~self._fixed)
        if self._answers_tell:
            seldom = (times.answered[own] > 0) & (times.answered[own] <= rare)
            yield from self._side("response", keys.answered, times.answered, seldom)

    @cached_property
    def _times(self) -> Times:
        """In how many training rows each key of each entry stands."""
        return Times(*(self.index.key_counts(self.partial, keys) for keys in self.index.row_keys))

    def _side(self, side: str, keys: Hashes, times: Ints, which: NDArray[np.bool_]) -> Iterator[Match]:
        kinds, least = {
            "row": ((ASKED, ANSWERED), 1),
            "prompt": ((ASKED,), PROMPT),
            "response": ((ANSWERED,), ANSWER),
        }[side]
        for row in np.flatnonzero(which).tolist():
            own = _of(self.rows, row, kinds)
            words = sum(len(Words(t)) for t in own)
            some = (
                self.index.rows_of_key(self.partial, keys[row])[:LOOKED_AT].tolist() if words >= least else []
            )
            same = [r for r in some if self._same(row, r, own, kinds, side)]
            if same:
                exact = [r for r in same if _of(self.train, r, kinds) == own]
                kind, train_row = ("exact", exact[0]) if exact else ("normalised", same[0])
                yield Match(row, train_row, kind, side, 1.0, "\n".join(own), words, int(times[row]) - 1)

    def _same(self, row: int, train_row: int, own: Sequence[str], kinds: Sequence[int], side: str) -> bool:
        theirs = _of(self.train, train_row, kinds)
        if len(own) != len(theirs) or not all(map(same_but_for_writing, own, theirs)):
            return False
        return side != "prompt" or not self._unlike(row, train_row)

    def _unlike(self, row: int, train_row: int) -> bool:
        """Whether another column or the system prompt holds the rest of the question: then equal prompts are no overlap."""
        mine, theirs = _rest(self.rows, row), _rest(self.train, train_row)
        return any(Words(mine[n]).words != Words(theirs[n]).words for n in mine.keys() & theirs.keys())

    @cached_property
    def _fixed(self) -> NDArray[np.bool_]:
        """Whether each row's prompt is one that many rows share, with different answers: bool [rows]."""
        keys, rows = self.index.row_keys, self.index.rows
        asked = keys.asked[:rows]
        pairs = (
            np.unique(np.stack((asked, keys.answered[:rows])), axis=1)
            if rows
            else np.zeros((2, 0), np.uint64)
        )
        prompts, answers = np.unique(pairs[0], return_counts=True)
        own = answers[np.searchsorted(prompts, asked)]
        often = self._times.asked[:rows] > max(FIXED, self.partial.rows // OFTEN)
        return often | (own > max(REPEATED, rows // SELDOM))

    @cached_property
    def _answers_tell(self) -> bool:
        """Whether training rows hardly ever share a long answer under different prompts."""
        control = slice(self.index.rows, None)
        shared = int((self._times.answered[control] > self._times.both[control]).sum())
        return shared <= USUAL_ANSWERS * max(1, len(self.index.control))


def _of(rows: Rows, row: int, kinds: Sequence[int]) -> list[str]:
    return [text for kind, text in texts_of(rows.records[row], rows.columns) if kind in kinds]


def _rest(rows: Rows, row: int) -> dict[str, str]:
    """What else may belong to a prompt: texts of columns that are not mapped, and the system prompt."""
    record: Mapping[str, Any] = rows.records[row]
    known = {
        *rows.columns.named.values(),
        rows.columns.group,
        *companions_of(record, rows.columns),
    }
    found = {
        name: value
        for name, value in record.items()
        if isinstance(value, str) and name not in known and not is_metadata(name)
    }
    system = [t.content for t in turns_of(record, rows.columns) or () if t.role in ("system", "developer")]
    return {**found, **({"system": "\n".join(system)} if system else {})}
