"""A split: its rows, where each came from, what could not be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from llmguard.errors import UsageError
from llmguard.findings import Where
from llmguard.rows.columns import Columns, guess_columns
from llmguard.rows.stored import Derived, Stored
from llmguard.rows.turns import Turn, turns_of

__all__ = ["Problem", "Rows", "as_rows"]


@dataclass(frozen=True)
class Problem:
    """Something of a data file that could not be read: a missing file (no line), or a bad line."""

    file: str
    reason: str
    line: int | None = None
    column: int | None = None

    @property
    def where(self) -> Where:
        """The place, for a finding."""
        return Where(file=self.file, line=self.line, column=self.column)


@dataclass(frozen=True)
class Rows:
    """The rows of a split in file order.

    `records`: the rows as parsed, each a mapping. `origin`: for each row (index into `files`, line or None). `problems`: what
    could not be read; the good rows are there all the same.
    """

    records: Sequence[Mapping[str, Any]]
    columns: Columns = field(default_factory=Columns)
    split: str = ""
    files: Sequence[str] = ()
    origin: Sequence[tuple[int, int | None]] = ()
    problems: Sequence[Problem] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self.records)

    @cached_property
    def turns(self) -> Sequence[tuple[Turn, ...] | None]:
        """The turns of every row; None for rows that have none (see `turns_of`)."""
        made = Derived(self.records, partial(turns_of, columns=self.columns))
        return made if isinstance(self.records, Stored) else list(made)

    @property
    def filled(self) -> set[str]:
        """The files that rows come from."""
        if isinstance(self.records, Stored):
            return {self.files[block.file] for block in self.records.blocks if block.rows}
        return {self.files[file] for file, _ in self.origin}

    def where(self, row: int) -> Where:
        """File, line and number of a row (numbers count from 0)."""
        if not 0 <= row < len(self.origin):
            return Where(what=self.split or "rows", row=row)
        file, line = self.origin[row]
        return Where(file=self.files[file], line=line, row=row)

    def example(self, row: int, **more: Any) -> dict[str, Any]:
        """A row as an example in a tally: its place and what is said about it."""
        where = self.where(row)
        place = {"file": where.file, "line": where.line} if where.file else {}
        return {**place, "row": row, **more}


def as_rows(value: Any, columns: Columns | None = None) -> Rows:
    """Rows as mappings (with `messages`, `prompt`/`response`, …), or Rows as they are.

    Raises:
        UsageError: not rows of mappings.
    """
    if isinstance(value, Rows):
        return value
    records: list[Any] = list(value) if isinstance(value, Iterable) else [None]
    if not all(isinstance(r, Mapping) for r in records):
        raise UsageError(
            "rows", value, "rows that are mappings, such as {'prompt': …, 'response': …} or {'messages': […]}"
        )
    return Rows(records, guess_columns(records, columns or Columns()), "rows")
