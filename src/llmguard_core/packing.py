"""Packing: several rows in one, each a document that knows nothing of the others."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence

from llmguard.encoded import IGNORE_INDEX
from llmguard_core.errors import DataRefused

__all__ = ["pack"]

Packed = dict[str, list[int]]


def pack(rows: Sequence[Mapping[str, Sequence[int]]], length: int) -> list[Packed]:
    """Rows packed into rows of at most `length` tokens, the longest first, each where it leaves the least room (best fit).

    A packed row has input_ids, labels, attention_mask, `position_ids` that start again with each document, and `seq_lengths`. The
    first label of a document is -100: shifted, its token would be predicted from another document. Order within the data set does
    not matter to a shuffling Trainer; equal input gives equal output.

    Raises:
        DataRefused: a row is longer than `length`.
    """
    lengths = [len(row["input_ids"]) for row in rows]
    long = [number for number, tokens in enumerate(lengths) if tokens > length]
    if long:
        raise DataRefused(
            f"{len(long):,} of {len(rows):,} rows are longer than a packed row of {length} tokens, "
            f"row {long[0]} with {lengths[long[0]]:,}",
            where="packing",
            remedy="Encode with max_length no longer than the packed rows.",
        )
    return [_joined([rows[i] for i in members]) for members in _bins(lengths, length)]


def _bins(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Which rows go together, in the order in which the bins were opened."""
    bins: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (room that is left, bin), sorted
    for row in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        at = bisect_left(free, (lengths[row], -1))
        left, chosen = free.pop(at) if at < len(free) else (room, len(bins))
        if chosen == len(bins):
            bins.append([])
        bins[chosen].append(row)
        insort(free, (left - lengths[row], chosen))
    return bins


def _joined(rows: Sequence[Mapping[str, Sequence[int]]]) -> Packed:
    found: Packed = {
        "input_ids": [],
        "labels": [],
        "attention_mask": [],
        "position_ids": [],
        "seq_lengths": [],
    }
    for row in rows:
        tokens = len(row["input_ids"])
        found["input_ids"] += row["input_ids"]
        found["labels"] += [IGNORE_INDEX, *row["labels"][1:]] if tokens else []
        found["attention_mask"] += [1] * tokens
        found["position_ids"] += range(tokens)
        found["seq_lengths"].append(tokens)
    return found
