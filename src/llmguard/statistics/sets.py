"""Results of evaluations: one set a model, one row an item, read from JSON Lines and aligned by id, never by position."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llmguard.errors import UsageError
from llmguard.findings import Where
from llmguard.rows import Problem, read_files
from llmguard.statistics.clusters import Floats

__all__ = ["ResultSet", "Results", "aligned", "as_results", "read_results"]

SCORES = ("correct", "score")
OUTPUTS = ("output", "completion", "response", "generation", "prediction", "resps")
EXTRACTED = ("extracted", "parsed", "extracted_answer", "filtered_resps")
NOTHING = ("", "[invalid]", "[no answer]", "none", "null", "nan")


@dataclass(frozen=True)
class ResultSet:
    """The results of one model; `records` as they were written, `lines` of the file where there is one.

    `id`, `score`: the columns told by the project. `group`: the column of what items share, None where no row has it.
    """

    name: str
    records: Sequence[Mapping[str, Any]]
    file: str | None = None
    lines: Sequence[int | None] = ()
    problems: Sequence[Problem] = ()
    id: str = "id"
    score: str | None = None
    group: str | None = None

    def __len__(self) -> int:
        return len(self.records)

    def where(self, row: int | None = None, column: str | None = None) -> Where:
        """The place of a row, or of the whole set."""
        if row is None:
            return Where(file=self.file, what=f"results of {self.name}", column=column)
        line = self.lines[row] if row < len(self.lines) else None
        return Where(file=self.file, line=line, row=row, column=column, what=f"results of {self.name}")

    @cached_property
    def ids(self) -> list[str | None]:
        """The id of every row as text; None where it has none."""
        found = [r.get(self.id) for r in self.records]
        return [None if v is None or isinstance(v, (list, dict)) else str(v) for v in found]

    @cached_property
    def repeated(self) -> dict[str, list[int]]:
        """Ids that stand in more than one row -> those rows."""
        rows: dict[str, list[int]] = {}
        for row, key in enumerate(self.ids):
            if key is not None:
                rows.setdefault(key, []).append(row)
        return {key: those for key, those in rows.items() if len(those) > 1}

    @cached_property
    def score_column(self) -> str | None:
        """The column that is judged by: the one told, else `correct`, else `score`; None where no row has it."""
        return _first_column(self.records, (self.score,) if self.score else SCORES)

    @cached_property
    def scores(self) -> Floats:
        """One float a row; NaN where the row has no finite number (`true` and `false` are 1 and 0)."""
        column = self.score_column
        return np.array(
            [_number(r.get(column)) if column else math.nan for r in self.records], dtype=np.float64
        )

    @cached_property
    def outputs(self) -> list[str] | None:
        """What the model wrote, '' for nothing; None where the file does not tell."""
        column = _first_column(self.records, OUTPUTS)
        return None if column is None else [_text(r.get(column)) for r in self.records]

    @cached_property
    def statuses(self) -> list[str] | None:
        """Per row `empty`, `unparseable` or `answered`; None where neither outputs nor statuses are told."""
        outputs, extracted = self.outputs, _first_column(self.records, EXTRACTED)
        if outputs is None and extracted is None and not any("status" in r for r in self.records):
            return None
        return [
            _status(r, None if outputs is None else outputs[i], extracted) for i, r in enumerate(self.records)
        ]

    @cached_property
    def groups(self) -> list[Hashable] | None:
        """What every row shares with others, by the group column; None where a row lacks it."""
        found = [_text(r.get(self.group)) for r in self.records] if self.group else []
        return list(found) if found and all(found) else None


@dataclass(frozen=True)
class Results:
    """The result sets of a project in its order."""

    sets: Sequence[ResultSet]

    def __len__(self) -> int:
        return sum(map(len, self.sets))

    @property
    def pairs(self) -> list[tuple[ResultSet, ResultSet]]:
        """Every two sets, in order."""
        return [(a, b) for i, a in enumerate(self.sets) for b in self.sets[i + 1 :]]


def read_results(
    files: Mapping[str, Path | str],
    *,
    id: str = "id",
    score: str | None = None,
    group: str | None = None,
    root: Path | None = None,
) -> Results:
    """Read one JSON Lines file a model; never raises for what is in them or for files that are not there."""
    sets = []
    for name, path in files.items():
        rows = read_files([Path(path)], root=root)
        file, lines = rows.files[0], [line for _, line in rows.origin]
        sets.append(ResultSet(name, rows.records, file, lines, rows.problems, id, score, group))
    return Results(sets)


def as_results(value: Any, *, id: str = "id", score: str | None = None, group: str | None = None) -> Results:
    """Results from `{"base": rows, "sft": rows}`, rows being mappings; Results as they are.

    Raises:
        UsageError: not rows by model name.
    """
    if isinstance(value, Results):
        return value
    if not isinstance(value, Mapping) or not all(_are_rows(rows) for rows in value.values()):
        raise UsageError("results", value, 'rows by model: {"base": [{"id": 1, "correct": true}, …], …}')
    return Results(
        [ResultSet(str(n), list(rows), id=id, score=score, group=group) for n, rows in value.items()]
    )


def aligned(first: ResultSet, second: ResultSet) -> tuple[Floats, Floats, list[Hashable] | None]:
    """The scores of the items that both sets hold, in the order of the first, and their groups; the first row of a repeated id."""
    rows, others = _by_id(first), _by_id(second)
    common = [key for key in rows if key in others]
    groups = first.groups or second.groups
    at = rows if first.groups else others
    return (
        first.scores[[rows[k] for k in common]] if common else np.empty(0),
        second.scores[[others[k] for k in common]] if common else np.empty(0),
        None if groups is None else [groups[at[k]] for k in common],
    )


def _by_id(one: ResultSet) -> dict[str, int]:
    found: dict[str, int] = {}
    for row, key in enumerate(one.ids):
        if key is not None:
            found.setdefault(key, row)
    return found


def _are_rows(rows: Any) -> bool:
    return (
        isinstance(rows, Iterable)
        and not isinstance(rows, (str, Mapping))
        and all(isinstance(r, Mapping) for r in rows)
    )


def _first_column(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str | None:
    return next((n for n in names if any(n in r for r in records)), None)


def _number(value: Any) -> float:
    """A finite number; NaN for anything else: text, null, lists, infinities."""
    if not isinstance(value, (bool, int, float)):
        return math.nan
    try:
        found = float(value)
    except OverflowError:
        return math.nan
    return found if math.isfinite(found) else math.nan


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "".join(map(_text, value))
    return "" if value is None else str(value)


def _status(record: Mapping[str, Any], output: str | None, extracted: str | None) -> str:
    told = record.get("status")
    if told in ("empty", "unparseable"):
        return str(told)
    if output is not None and not output.strip():
        return "empty"
    if extracted and _text(record.get(extracted)).strip().lower() in NOTHING:
        return "unparseable"
    return "answered"
