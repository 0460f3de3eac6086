"""Encoded rows: text, ids and labels that were made together; whole data sets of them at four bytes a token and column."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, overload

import numpy as np

from llmguard.encoded import IGNORE_INDEX, Encoded
from llmguard.ragged import Ragged
from llmguard.rows import Turn
from llmguard_core.errors import DataRefused

if TYPE_CHECKING:
    from llmguard_core.encoding import Encoder

__all__ = ["Dropped", "EncodedRow", "EncodedRows"]

Columns = dict[str, list[int]]


class Dropped(NamedTuple):
    """A row that is left out, and why."""

    number: int
    reason: str


@dataclass(frozen=True)
class EncodedRow:
    """A row: `text` as the format renders it; `input_ids` and `labels` (-100 where nothing is learnt) made from it."""

    text: str
    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    turns: tuple[Turn, ...]
    encoder: Encoder = field(repr=False, compare=False)
    number: int = 0
    truncated: bool = False

    def columns(self) -> Columns:
        """As a Trainer takes it: input_ids, labels, attention_mask."""
        return _columns(list(self.input_ids), list(self.labels))

    def with_text(self, *, prompt: str | None = None, response: str | None = None) -> EncodedRow:
        """The row with another last prompt or another last response, encoded anew.

        Raises:
            DataRefused: it has no such turn, or cannot be trained on with the new text.
        """
        turns = list(self.turns)
        for text, answers in ((prompt, False), (response, True)):
            if text is not None:
                at = [i for i, t in enumerate(turns) if (t.role == "assistant") is answers]
                if not at:
                    missing = "response" if answers else "prompt"
                    raise DataRefused(f"it has no {missing} to replace", where=f"row {self.number}")
                turns[at[-1]] = replace(turns[at[-1]], content=text)
        return self.encoder.encode_turns(turns, self.number)


class EncodedRows(Sequence[Columns]):
    """Encoded rows, as a Trainer's dataset: each a dict of input_ids, labels and attention_mask.

    `source`: the number of the row that each came from. `dropped`: reason -> numbers of the rows left out. `truncated`: numbers
    of the rows whose prompt was cut.
    """

    def __init__(self, rows: Iterable[EncodedRow | Dropped]) -> None:
        self._ids, self._labels, self._ends = array("i"), array("i"), array("q", [0])
        self.source: list[int] = []
        self.dropped: dict[str, list[int]] = {}
        self.truncated: list[int] = []
        for row in rows:
            if isinstance(row, Dropped):
                self.dropped.setdefault(row.reason, []).append(row.number)
                continue
            self._ids.extend(row.input_ids)
            self._labels.extend(row.labels)
            self._ends.append(len(self._ids))
            self.source.append(row.number)
            self.truncated += [row.number] * row.truncated

    def __len__(self) -> int:
        return len(self.source)

    @overload
    def __getitem__(self, index: int) -> Columns: ...
    @overload
    def __getitem__(self, index: slice) -> list[Columns]: ...
    def __getitem__(self, index: int | slice) -> Columns | list[Columns]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        span = slice(self._ends[at], self._ends[at + 1])
        return _columns(self._ids[span].tolist(), self._labels[span].tolist())

    def encoded(self) -> Encoded:
        """As the checks of llmguard take them."""
        offsets = np.asarray(self._ends, dtype=np.int64)
        ids, labels = (Ragged(np.asarray(v, dtype=np.int64), offsets) for v in (self._ids, self._labels))
        return Encoded({"input_ids": ids, "labels": labels}, np.asarray(self.source, dtype=np.int64))

    @property
    def supervised(self) -> int:
        """How many tokens are trained."""
        return int((np.asarray(self._labels) != IGNORE_INDEX).sum())

    def summary(self) -> str:
        """`7,470 rows, 1,468,036 tokens (812,004 trained); 3 dropped because … (rows 4, 8, 9); 12 with their prompt cut (…)`."""
        told = [f"{len(self):,} rows, {len(self._ids):,} tokens ({self.supervised:,} trained)"]
        told += [f"{len(r):,} dropped because {why} ({_numbers(r)})" for why, r in self.dropped.items()]
        cut = self.truncated
        return "; ".join([*told, f"{len(cut):,} with their prompt cut ({_numbers(cut)})"] if cut else told)


def _columns(ids: list[int], labels: list[int]) -> Columns:
    return {"input_ids": ids, "labels": labels, "attention_mask": [1] * len(ids)}


def _numbers(rows: Sequence[int]) -> str:
    more = f" and {len(rows) - 5:,} more" if len(rows) > 5 else ""
    return f"row{'s' * (len(rows) > 1)} {', '.join(map(str, rows[:5]))}{more}"
