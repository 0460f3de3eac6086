"""Documents in a batch as it goes into a model: where each starts, and the same batch with every document cut short."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Short", "Spans", "documents", "shortened"]

Spans = list[tuple[int, int]]
"""Documents of a row, as (start, stop)."""
SHORTEST, LENGTH, SEVERAL, ROWS, PADS = 4, 48, 3, 2, 2
"""Tokens of the shortest document that is looked at; tokens kept of each; documents of a row; rows; pads of a padded row."""
FLAT = ("cu_seq_lens_q", "cu_seq_lens_k", "cu_seqlens")
LONGEST = ("max_length_", "max_seqlen")


def documents(batch: Mapping[str, Any]) -> tuple[list[Spans], list[str]]:
    """The documents of each row, padding left out, and the columns that tell them apart (none: one document a row).

    Read from position_ids that start again, seq_lengths, seq_idx, cumulative lengths, an attention mask that numbers
    documents, or one that is block-diagonal.
    """
    rows, length = batch["input_ids"].shape[:2]
    starts, told = np.zeros((rows, length), dtype=bool), []
    starts[:, 0] = True
    content = _content(batch, rows, length)
    for name in (*FLAT, "position_ids", "attention_mask", "seq_idx", "seq_lengths"):
        found = _starts_by(name, batch.get(name), rows, length)
        if found is not None and (found[:, 1:] & content[:, 1:] & content[:, :-1]).any():
            starts |= found
            told.append(name)
    return [_spans(starts[r], content[r]) for r in range(rows)], told


def _content(batch: Mapping[str, Any], rows: int, length: int) -> NDArray[np.bool_]:
    mask = batch.get("attention_mask")
    if mask is None or getattr(mask, "ndim", 0) != 2 or tuple(mask.shape) != (rows, length):
        return np.ones((rows, length), dtype=bool)
    return np.asarray(_array(mask) != 0)


def _starts_by(name: str, value: Any, rows: int, length: int) -> NDArray[np.bool_] | None:
    """Where a column says that documents start: bool [rows, tokens]; None where it says nothing."""
    if value is None:
        return None
    if name == "seq_lengths":
        return _by_lengths(value, rows, length)
    if not hasattr(value, "ndim"):  # masks by kind of layer, or of another library
        return None
    array = _array(value)
    if name in FLAT:
        return _by_ends(array, rows, length)
    if name == "attention_mask" and array.ndim == 4:
        return _by_blocks(array, rows, length)
    array = array[0] if array.ndim == 3 else array
    if array.ndim != 2 or array.shape[1] != length:
        return None
    step = np.diff(np.broadcast_to(array, (rows, length)).astype(np.int64), axis=1, prepend=0)
    return np.asarray(step != 1 if name == "position_ids" else step != 0)


def _by_lengths(value: Any, rows: int, length: int) -> NDArray[np.bool_] | None:
    found = np.zeros((rows, length), dtype=bool)
    nested = [np.ravel(_array(v)).astype(np.int64) for v in value]
    if len(nested) != rows or any(v.sum() > length for v in nested):
        return None
    for row, lengths in enumerate(nested):
        found[row, np.cumsum(lengths)[:-1]] = True
    return found


def _by_ends(ends: NDArray[Any], rows: int, length: int) -> NDArray[np.bool_] | None:
    """Cumulative lengths over the whole batch, laid out flat."""
    flat = np.ravel(ends).astype(np.int64)
    if not len(flat) or flat[-1] != rows * length:
        return None
    found = np.zeros(rows * length, dtype=bool)
    found[flat[:-1]] = True
    return found.reshape(rows, length)


def _by_blocks(mask: NDArray[Any], rows: int, length: int) -> NDArray[np.bool_] | None:
    """A token starts a document where it attends to itself and to nothing before it."""
    if mask.shape[-2:] != (length, length):
        return None
    allowed = mask[:, 0] if mask.dtype == bool else mask[:, 0] >= 0 if (mask < 0).any() else mask[:, 0] > 0
    before = np.tril(np.broadcast_to(allowed, (rows, length, length)), -1).any(axis=2)
    own = np.broadcast_to(allowed, (rows, length, length)).diagonal(axis1=1, axis2=2)
    return np.asarray(own & ~before)


def _array(value: Any) -> NDArray[Any]:
    if not hasattr(value, "detach"):
        return np.asarray(value)
    tensor = value.detach().cpu()
    return np.asarray((tensor.float() if tensor.is_floating_point() else tensor).numpy())


def _spans(starts: NDArray[np.bool_], content: NDArray[np.bool_]) -> Spans:
    edges = [*np.flatnonzero(starts).tolist(), len(starts)]
    found = []
    for start, stop in pairwise(edges):
        inside = np.flatnonzero(content[start:stop])
        if len(inside):
            found.append((start + int(inside[0]), start + int(inside[-1]) + 1))
    return found


@dataclass(frozen=True)
class Short:
    """A batch cut to a few short documents. `columns`: what is left of it; `spans`: its documents; `rows`: the rows they are of."""

    columns: dict[str, Any]
    spans: list[Spans]
    rows: list[int]


def shortened(batch: Mapping[str, Any], spans: Sequence[Spans]) -> Short | None:
    """At most two rows with several documents each, every document cut after its first tokens; None where no row has several.

    All columns are cut alike, so that position ids, masks and lengths say of the short documents what they said of the long
    ones; a padded row keeps some padding. The number of rows stays one, or more than one.
    """
    chosen = {r: [s for s in row if s[1] - s[0] >= SHORTEST][:SEVERAL] for r, row in enumerate(spans)}
    pads = {r: _pads(batch, r) for r, row in chosen.items() if len(row) > 1}
    if not pads:
        return None
    rows = (sorted(pads, key=lambda r: not pads[r]) * ROWS)[: min(ROWS, len(spans))]
    if (
        len({len(pads[r]) for r in rows}) > 1
    ):  # rows are of one length: of a padded row and one that is not, the first twice
        rows = rows[:1] * len(rows)
    count = min(len(chosen[r]) for r in rows)
    each = min([LENGTH, *(stop - start for r in rows for start, stop in chosen[r][:count])])
    places = [sorted({*pads[r], *(s + i for s, _ in chosen[r][:count] for i in range(each))}) for r in rows]
    kept = [
        [(at.index(s), at.index(s) + each) for s, _ in chosen[r][:count]]
        for r, at in zip(rows, places, strict=True)
    ]
    return Short(_columns(batch, rows, places, each), kept, rows)


def _pads(batch: Mapping[str, Any], row: int) -> list[int]:
    """Positions of some padding of a row."""
    rows, length = batch["input_ids"].shape[:2]
    return [int(i) for i in np.flatnonzero(~_content(batch, rows, length)[row])[:PADS]]


def _columns(batch: Mapping[str, Any], rows: list[int], places: list[list[int]], each: int) -> dict[str, Any]:
    """The columns of a batch at some places; cumulative lengths and longest lengths are counted anew."""
    import torch

    shape, at, found = tuple(batch["input_ids"].shape[:2]), torch.tensor(places), dict[str, Any]()
    for name, given in batch.items():
        value = torch.as_tensor(given) if isinstance(given, np.ndarray) else given
        if name in FLAT:
            found[name] = torch.arange(0, at.numel() + 1, each, dtype=value.dtype)
        elif name.startswith(LONGEST):
            found[name] = each
        elif isinstance(value, bool):
            found[name] = value
        elif getattr(value, "ndim", 0) >= 2 and not value.is_sparse:
            cut = _cut(value, shape, rows, at)
            found |= {} if cut is None else {name: cut}
    return found


def _cut(value: Any, shape: tuple[int, ...], rows: list[int], at: Any) -> Any:
    """A tensor of [rows, tokens], [planes, rows, tokens] or [rows, heads, tokens, tokens] at some places; None for others."""
    import torch

    if tuple(value.shape[:2]) == shape:
        return torch.stack([value[r][p] for r, p in zip(rows, at, strict=True)])
    if value.ndim == 2 and value.shape == (1, shape[1]):
        return torch.stack([value[0][at[0]]])
    if value.ndim == 3 and tuple(value.shape[1:]) == shape:
        return torch.stack([value[:, r][:, p] for r, p in zip(rows, at, strict=True)], dim=1)
    if value.ndim == 4 and tuple(value.shape[2:]) == (shape[1], shape[1]):
        wide = value.expand(shape[0], *value.shape[1:])
        return torch.stack([wide[r][:, p][:, :, p] for r, p in zip(rows, at, strict=True)])
    return None
