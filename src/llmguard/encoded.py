"""Encoded rows as the model is to see them: ragged columns, with the source row that each one came from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmguard.errors import UsageError
from llmguard.ragged import Ints, Ragged

__all__ = ["IGNORE_INDEX", "MISSING", "Batches", "Encoded", "as_batches", "as_encoded"]

IGNORE_INDEX = -100
"""The label that cross-entropy leaves out (torch.nn.CrossEntropyLoss, `ignore_index`)."""

MISSING = -(2**62)
"""Stands in a column where a row has None instead of a number: below every id and every label."""

COLUMNS = (
    "input_ids",
    "labels",
    "attention_mask",
    "position_ids",
    "completion_mask",
    "assistant_masks",
    "seq_lengths",
    "token_type_ids",
)


@dataclass(frozen=True)
class Encoded:
    """Tokenised rows.

    `columns`: name -> Ragged, `input_ids` always there. `source`: int64 [rows], the index of the source row, -1 where it is
    not known. `name`: what reports call it. `problems`: rows that are no encoded rows, as (row, what is wrong).
    """

    columns: Mapping[str, Ragged]
    source: Ints
    name: str = "encoded"
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def input_ids(self) -> Ragged:
        """Token ids."""
        return self.columns["input_ids"]

    @property
    def has_labels(self) -> bool:
        """Whether what is trained is told: labels, or one of the masks that frameworks make labels from."""
        return any(name in self.columns for name in ("labels", "completion_mask", "assistant_masks"))

    @cached_property
    def labels(self) -> Ragged:
        """Labels; made from `completion_mask` or `assistant_masks` where there are no labels, else a copy of the ids."""
        if "labels" in self.columns:
            return self.columns["labels"]
        masks = [self.columns[n] for n in ("assistant_masks", "completion_mask") if n in self.columns]
        fitting = [m.values != 0 for m in masks if m.same_shape(self.input_ids)]
        if (
            not fitting
        ):  # masks of another shape train nothing that could be told; without any, everything is trained
            return masks[0] if masks else self.input_ids
        trained = np.logical_and.reduce(fitting)  # as TRL's collator does with both
        return Ragged(np.where(trained, self.input_ids.values, IGNORE_INDEX), self.input_ids.offsets)

    @cached_property
    def attended(self) -> NDArray[np.bool_]:
        """Whether each token is content, not padding: bool [tokens]; all true where there is no attention mask."""
        mask = self.columns.get("attention_mask")
        if mask is None or not mask.same_shape(self.input_ids):
            return np.ones(len(self.input_ids.values), dtype=bool)
        return np.asarray(mask.values != 0)

    @cached_property
    def trained(self) -> NDArray[np.bool_]:
        """Whether each token is supervised: bool [tokens]. Where labels have another shape than the ids, all false."""
        if not self.labels.same_shape(self.input_ids):
            return np.zeros(len(self.input_ids.values), dtype=bool)
        return np.asarray(self.labels.values != IGNORE_INDEX)

    def __len__(self) -> int:
        return len(self.input_ids)

    def shard(self, start: int, stop: int) -> Encoded:
        """Rows start to stop, sharing memory; `source` keeps the numbers of the whole."""
        columns = {name: column.slice(start, stop) for name, column in self.columns.items()}
        return replace(self, columns=columns, source=self.source[start:stop])

    def shards(self, rows: int = 8192) -> list[Encoded]:
        """The whole in shards of at most `rows` rows."""
        return [self.shard(i, min(i + rows, len(self))) for i in range(0, len(self), rows)] or [self]

    def unpadded(self) -> Encoded:
        """The same rows without padding (tokens with attention 0), for rows that come out of a batch."""
        return self if bool(self.attended.all()) else self._content

    @cached_property
    def _content(self) -> Encoded:
        keep, shape = self.attended, self.input_ids
        columns = {n: c.keep(keep) if c.same_shape(shape) else c for n, c in self.columns.items()}
        return replace(self, columns=columns)


@dataclass(frozen=True)
class Batches:
    """What a collator or a Trainer really emits.

    `padded`: all rows of all batches in order, padding included. `batch`: int64 [rows], the batch of each row. `before`: the
    encoded rows that went in, in the same order, where that is known. `facts`: sizes and settings that were seen on the way.
    """

    padded: Encoded
    batch: Ints
    before: Encoded | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.padded)


def as_encoded(value: Any, name: str = "encoded") -> Encoded:
    """Rows as mappings, a mapping of columns (`datasets`, Arrow, `BatchEncoding`), or Encoded as it is.

    Raises:
        UsageError: no `input_ids` in it, or a column that holds no integers.
    """
    if isinstance(value, Encoded):
        return value
    columns = _columns_of(value)
    if "input_ids" not in columns:
        raise UsageError("encoded", sorted(columns), "rows or columns with input_ids")
    found = {n: _ragged(_lists(c)) for n, c in columns.items() if n in COLUMNS}
    return Encoded(found, np.arange(len(found["input_ids"]), dtype=np.int64), name)


def as_batches(value: Any, before: Encoded | None = None) -> Batches:
    """A list of batches (mappings of 2-d arrays or tensors), or Batches as they are.

    Raises:
        UsageError: not a sequence of mappings with `input_ids`.
    """
    if isinstance(value, Batches):
        return value
    batches = [as_encoded(b, "batch") for b in ([value] if isinstance(value, Mapping) else value)]
    if not batches:
        raise UsageError("batches", value, "at least one batch")
    names = set.intersection(*(set(b.columns) for b in batches))
    columns = {n: Ragged.of([row for b in batches for row in b.columns[n]]) for n in names}
    index = np.repeat(np.arange(len(batches)), [len(b) for b in batches])
    source = np.arange(len(index)) if before is None else before.source[: len(index)]
    return Batches(Encoded(columns, source, "batches"), index, before)


def _ragged(column: Any) -> Ragged:
    """A column with `MISSING` in the place of None, as `tokenizer.bos_token_id` leaves it where there is none."""
    if hasattr(column, "combine_chunks"):
        column = column.combine_chunks()
    nulls = getattr(getattr(column, "values", None), "null_count", 0)
    try:
        return Ragged.of(column.to_pylist() if nulls else column)
    except (UsageError, TypeError):
        rows = column.to_pylist() if hasattr(column, "to_pylist") else column
        if not any(_is_missing(v) for row in rows for v in (row if row is not None else (None,))):
            raise
        return Ragged.of([[MISSING if _is_missing(v) else v for v in (row or ())] for row in rows])


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _columns_of(value: Any) -> dict[str, Any]:
    if hasattr(value, "column_names"):  # an Arrow table, or datasets.Dataset over one
        table = (
            value.data.table if hasattr(value, "data") and getattr(value, "_indices", None) is None else value
        )
        if hasattr(table, "column"):
            return {n: table.column(n) for n in value.column_names if n in COLUMNS}
        return {n: value[n] for n in value.column_names if n in COLUMNS}
    if isinstance(value, Mapping) or hasattr(value, "keys"):
        return {str(k): value[k] for k in value.keys()}  # noqa: SIM118  # BatchEncoding iterates over other things
    if isinstance(value, Iterable):
        return _transposed(list(value))
    raise UsageError("encoded", value, "rows as mappings, or columns")


def _transposed(rows: Sequence[Any]) -> dict[str, list[Any]]:
    if not all(hasattr(r, "keys") for r in rows):
        raise UsageError("encoded", rows, "rows that are mappings with input_ids")
    names = [n for n in COLUMNS if rows and all(n in r for r in rows)]
    return {n: [r[n] for r in rows] for n in names}


def _lists(column: Any) -> Any:
    if hasattr(column, "detach"):  # a torch tensor: its memory is read, torch is not imported here
        column = column.detach().cpu().numpy()
    if isinstance(column, np.ndarray) and column.ndim == 1 and column.dtype != object:
        return column[None, :]
    if isinstance(column, (list, tuple)) and column and isinstance(column[0], (int, np.integer)):
        return [column]
    return column
