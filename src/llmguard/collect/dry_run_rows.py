"""A few rows in place of a data set, the longest that fit among them; and which rows went into a batch that failed."""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Fetched", "Few", "chosen_rows", "fetches"]

LOOKED_AT = 512
"""Rows whose length is looked at, evenly spread."""
Form = tuple[tuple[str, str], ...]
CHARACTERS = 3
"""Characters of text for a token: a guess that is rather too many tokens than too few."""


@dataclass
class Few:
    """Cuts data sets to a few rows of at most `tokens` tokens.

    `kept`: name of a data set -> length of what is left of it -> which rows of the user's own these are. `whole`: nothing is cut.
    """

    tokens: int
    kept: dict[str, dict[int, list[int]]] = field(default_factory=dict)
    whole: bool = False

    def of(self, dataset: Any, count: int, name: str) -> Any:
        """The data set with `count` rows, each of a mapping of data sets so; one that cannot be cut as it is."""
        if isinstance(dataset, Mapping) and not hasattr(dataset, "select"):
            return {key: self.of(each, count, name) for key, each in dataset.items()}
        size = _size(dataset)
        if self.whole or size is None or size <= count or not hasattr(dataset, "__getitem__"):
            return dataset
        rows = chosen_rows(dataset, size, count, self.tokens)
        before = self.kept.setdefault(name, {}).get(size)
        self.kept[name][len(rows)] = [before[row] for row in rows] if before else rows
        return dataset.select(rows) if hasattr(dataset, "select") else _subset(dataset, rows)

    def row(self, dataset: Any, index: int, name: str) -> int | None:
        """The number of a row in the user's own data set; None where it was made of others on the way (packing)."""
        kept = self.kept.get(name)
        if not kept:
            return index
        rows = kept.get(_size(dataset) or 0, [])
        return rows[index] if index < len(rows) else None


def _size(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except Exception:  # iterable data sets, and whatever the user's own raises for it
        return None


def _subset(dataset: Any, rows: Sequence[int]) -> Any:
    from torch.utils.data import Subset

    class Cut(Subset):  # type: ignore[type-arg]  # generic only for type checkers
        """Some rows of a data set of the user's own, with all that it has beside."""

        def __getattr__(self, name: str) -> Any:
            if name in ("dataset", "indices") or name.startswith("__"):
                raise AttributeError(name)
            return getattr(self.dataset, name)

    return Cut(dataset, list(rows))


def chosen_rows(dataset: Any, size: int, count: int, tokens: int) -> list[int]:
    """`count` of `size` row numbers, in order: the longest of at most `tokens` tokens, the shortest, rows of a form that few have, and
    shorter ones evenly spread over the data.

    At most 512 rows are looked at; where they cannot be read the first are taken, where none is short enough the shortest.
    """
    looked_at = spread(size, LOOKED_AT)
    try:
        rows = {i: _look(dataset[i]) for i in looked_at}
    except Exception:  # a data set whose rows fail: the run itself will say so, with the row
        return list(range(count))
    by_length = sorted(looked_at, key=lambda i: rows[i][0])
    longest = next((i for i in reversed(by_length) if rows[i][0] <= tokens), by_length[count - 1])
    forms = Counter(form for _, form in rows.values())
    first = {form: i for i, (length, form) in reversed(rows.items()) if length <= tokens}
    rare = sorted((i for i in first.values()), key=lambda i: forms[rows[i][1]])[: count // 2]
    picked = list(dict.fromkeys([longest, by_length[0], *(rare if len(first) > 1 else ())]))[: count - 1]
    most = max(2 * count, len(by_length) // 2)
    shorter = sorted(i for i in by_length[:most] if i not in picked and rows[i][0] <= rows[longest][0])
    return sorted([*picked, *(shorter[j] for j in spread(len(shorter), count - len(picked)))])


def _look(row: Any) -> tuple[int, Form]:
    """The length of a row, and its form: its keys and the types of their values."""
    if not hasattr(row, "keys"):
        return length_of(row), ()
    return length_of(row), tuple(sorted((str(n), type(row[n]).__name__) for n in row.keys()))  # noqa: SIM118  # BatchEncoding iterates over other things


def spread(size: int, count: int) -> list[int]:
    """At most `count` of `size` numbers, evenly spread, the first and the last among them."""
    if size <= count:
        return list(range(size))
    return sorted({round(i * (size - 1) / max(1, count - 1)) for i in range(count)})


def length_of(row: Any) -> int:
    """Tokens of a row: of its ids where it has them, else a guess from its text."""
    if hasattr(row, "keys"):
        ids = [row[n] for n in row.keys() if str(n).endswith("input_ids") and hasattr(row[n], "__len__")]  # noqa: SIM118  # BatchEncoding iterates over other things
        if ids:
            return max(len(i) for i in ids)
        return max((len(str(row[n])) for n in row.keys()), default=0) // CHARACTERS  # noqa: SIM118  # as above
    return len(str(row)) // CHARACTERS


@dataclass
class Fetched:
    """The rows that a loader fetched last, by their numbers in its data set, those before, and its collator.

    Loaders fetch ahead: what a model is given was fetched one batch ago, or more under accumulation.
    """

    dataset: Any = None
    rows: tuple[int, ...] = ()
    before: deque[int] = field(default_factory=lambda: deque(maxlen=64))
    collate: Callable[[list[Any]], Any] | None = None

    def beyond(self) -> bool:
        """Whether rows were asked for that the data set, cut as it is, does not have: by a sampler that counts those of the whole."""
        size = _size(self.dataset)
        return size is not None and any(row >= size for row in self.rows)

    def holding(self, token: int) -> int | None:
        """The row of those fetched lately that holds a token id; None where none does."""
        for row in self.before:
            found = self.dataset[row]
            columns = [found[n] for n in list(found.keys())] if hasattr(found, "keys") else []
            if any(token in c for c in columns if isinstance(c, (list, tuple))):
                return row
        return None

    def culprit(self, fault: BaseException) -> int | None:
        """The one row, of those fetched last, that fails by itself as the batch did; None where none does, or there is no batch."""
        for row in self.rows:
            try:
                found = self.dataset[row]
                if self.collate is not None:
                    self.collate([dict(found) if isinstance(found, dict) else found])
            except Exception as own:
                if type(own) is type(fault):
                    return row
        return None


@contextlib.contextmanager
def fetches() -> Iterator[Fetched]:
    """Note the rows that loaders of this process fetch."""
    from torch.utils.data._utils import fetch

    fetcher: Any = fetch._MapDatasetFetcher
    last, original = Fetched(), fetcher.fetch

    def noted(self: Any, rows: Any) -> Any:
        numbers = rows if isinstance(rows, (list, tuple)) else [rows]
        last.dataset, last.collate = self.dataset, self.collate_fn
        last.rows = tuple(int(n) for n in numbers if isinstance(n, int))
        last.before.extend(last.rows)
        found = original(self, rows)
        last.collate = None  # what fails from here on is no matter of rows
        return found

    fetcher.fetch = noted
    try:
        yield last
    finally:
        fetcher.fetch = original
