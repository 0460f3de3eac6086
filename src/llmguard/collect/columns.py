"""Rows of token columns to one .npz file and back, without pickle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmguard.encoded import COLUMNS, Encoded
from llmguard.ragged import Ragged

__all__ = ["BadRow", "load_columns", "plain_row", "save_columns"]


class BadRow(Exception):
    """What a function of the user's returned is no encoded row; the message says what it is."""


def plain_row(row: Any) -> dict[str, list[int]]:
    """One encoded row as lists of ints, whatever it came as (lists, arrays, tensors, a `BatchEncoding`, a batch of one).

    Raises:
        BadRow: no mapping, no `input_ids`, nested, or not of integers.
    """
    if not hasattr(row, "keys"):
        raise BadRow(f"a {type(row).__name__}, expected a mapping with input_ids")
    found = {str(name): _ints(name, row[name]) for name in row.keys() if name in COLUMNS}  # noqa: SIM118  # BatchEncoding iterates over other things
    if "input_ids" not in found:
        raise BadRow(
            f"a mapping with the keys {', '.join(map(str, row.keys())) or '(none)'}, expected input_ids among them"
        )
    return found


def _ints(name: str, value: Any) -> list[int]:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, int):
        value = [value]
    while isinstance(value, (list, tuple)) and len(value) == 1 and isinstance(value[0], (list, tuple)):
        value = value[0]
    if not isinstance(value, (list, tuple)):
        raise BadRow(f"{name} of type {type(value).__name__}, expected a list of integers")
    wrong = (
        next((v for v in value if isinstance(v, bool) is False and not isinstance(v, int)), None)
        if value
        else None
    )
    if any(v is None for v in value):
        raise BadRow(f"{name} with None at position {list(value).index(None)}, expected integers")
    if wrong is not None:
        raise BadRow(f"{name} with {wrong!r} ({type(wrong).__name__}) in it, expected integers")
    return [int(v) for v in value]


def save_columns(path: Path, rows: Sequence[Mapping[str, Sequence[int]]], **arrays: Sequence[int]) -> None:
    """Columns that every row has, ragged, and further flat arrays (such as `source`), into one file."""
    names = [n for n in COLUMNS if rows and all(n in r for r in rows)]
    columns = {n: Ragged.of([r[n] for r in rows]) for n in names}
    flat = {f"{n}.values": c.values for n, c in columns.items()} | {
        f"{n}.offsets": c.offsets for n, c in columns.items()
    }
    partial = path.with_name(path.name + ".partial.npz")
    np.savez(
        partial, allow_pickle=False, **flat, **{n: np.asarray(a, dtype=np.int64) for n, a in arrays.items()}
    )
    partial.replace(path)


def load_columns(path: Path, name: str) -> tuple[Encoded, dict[str, Any]]:
    """The rows of a file as Encoded (`source` from the array of that name), and its further arrays."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {n: file[n] for n in file.files}
    names = [n.removesuffix(".offsets") for n in arrays if n.endswith(".offsets")]
    columns = {n: Ragged(arrays[f"{n}.values"], arrays[f"{n}.offsets"]) for n in names}
    rest = {n: a for n, a in arrays.items() if not n.endswith((".values", ".offsets"))}
    rows = len(next(iter(columns.values()))) if columns else 0
    return Encoded(columns, rest.get("source", np.arange(rows, dtype=np.int64)), name), rest
