"""Batches from encoded rows: labels as they are, padding that is neither attended to nor trained, packed documents apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import torch

from llmguard.encoded import IGNORE_INDEX
from llmguard.errors import UsageError

__all__ = ["Collator"]

Row = Mapping[str, Sequence[int]]
Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Collator:
    """Rows of input_ids, labels (none for generation) and, where they are packed, position_ids, to a batch of int64 tensors.

    Padded on `side` to the least multiple of `multiple_of` that holds the longest row. With padding on the left, `position_ids`
    count from each row's first token. Rows whose `position_ids` start again hold several documents, which are kept apart:

    - `packed="mask"`, for sdpa and eager attention: `attention_mask` [rows, 1, tokens, tokens] of `dtype`, 0 where a token may look
      and the least number where it may not. It stands for the whole mask: sliding windows shorter than the row do not apply.
    - `packed="positions"`, for flash attention alone: all rows as one, without padding and without a mask; the position_ids say
      where documents start. Other kernels may not look at them, and mix the documents without a word.
    """

    tokenizer: Any
    side: Literal["right", "left"] = "right"
    multiple_of: int = 8
    packed: Literal["mask", "positions"] = "mask"
    dtype: torch.dtype = torch.float32

    def __call__(self, rows: Sequence[Row]) -> Batch:
        """One batch.

        Raises:
            UsageError: no rows, or a row whose labels and ids differ in length.
        """
        for row in rows:
            if len(row.get("labels", row["input_ids"])) != len(row["input_ids"]):
                raise UsageError("rows", {k: len(v) for k, v in row.items()}, "as many labels as input_ids")
        if not rows:
            raise UsageError("rows", rows, "at least one row")
        several = any(list(row.get("position_ids", ())).count(0) > 1 for row in rows)
        if several and self.packed == "positions":
            return self._as_one(rows)
        batch = self._padded(rows)
        if several:
            batch["attention_mask"] = self._apart(batch["position_ids"], batch["attention_mask"])
        return batch

    def _padded(self, rows: Sequence[Row]) -> Batch:
        longest = max(len(row["input_ids"]) for row in rows)
        width = -(-longest // self.multiple_of) * self.multiple_of
        batch = {
            "input_ids": self._column([row["input_ids"] for row in rows], self._pad(), width),
            "attention_mask": self._column([[1] * len(row["input_ids"]) for row in rows], 0, width),
        }
        if all("labels" in row for row in rows):
            batch["labels"] = self._column([row["labels"] for row in rows], IGNORE_INDEX, width)
        if self.side == "left" or any("position_ids" in row for row in rows):
            told = [row.get("position_ids", range(len(row["input_ids"]))) for row in rows]
            batch["position_ids"] = self._column(told, 0, width)
        return batch

    def _pad(self) -> int:
        """The pad id; any will do, since padding is neither attended to nor trained."""
        known = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        return next((int(token) for token in known if token is not None), 0)

    def _column(self, values: Sequence[Sequence[int]], filler: int, width: int) -> torch.Tensor:
        found = torch.full((len(values), width), filler, dtype=torch.int64)
        for row, value in zip(found, values, strict=True):
            start = 0 if self.side == "right" else width - len(value)
            row[start : start + len(value)] = torch.tensor(list(value), dtype=torch.int64)
        return found

    def _apart(self, positions: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """The causal mask of each document on its own; padding looks at itself alone, since a row of nothing but -inf is NaN."""
        real = attended.bool()
        document = ((positions == 0) & real).cumsum(1) * real
        width = positions.shape[1]
        causal = torch.ones(width, width, dtype=torch.bool).tril()
        seen = (document[:, :, None] == document[:, None, :]) & causal & real[:, None, :]
        seen |= torch.eye(width, dtype=torch.bool)
        mask = torch.zeros(seen.shape, dtype=self.dtype).masked_fill(~seen, torch.finfo(self.dtype).min)
        return mask[:, None]

    def _as_one(self, rows: Sequence[Row]) -> Batch:
        """All documents of all rows in one row."""
        found = {}
        for name in ("input_ids", "labels", "position_ids"):
            if all(name in row for row in rows):
                found[name] = torch.tensor([list(chain.from_iterable(row[name] for row in rows))])
        return found
