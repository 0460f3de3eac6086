"""Call a collator as a Trainer does, and row by row where it cannot take several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmguard.collect.columns import BadRow, plain_row
from llmguard.collect.user import UserError, mistake

__all__ = ["collated", "one_by_one"]


def collated(
    collate: Callable[[list[Any]], Any], features: Sequence[Any], size: int, folder: Path, key: str
) -> tuple[list[Any], dict[str, Any]]:
    """Batches of `size` rows, and nothing more; or, where a batch fails, batches of one row and what failed.

    Raises:
        UserError: a single row fails too.
    """
    batches = []
    for start in range(0, len(features), size):
        chosen = features[start : start + size]
        try:
            batches.append(collate(_copied(chosen)))
        except Exception as fault:
            if len(chosen) == 1:
                raise UserError(mistake(fault, folder, key)) from None
            told = {
                **mistake(fault, folder, key),
                "rows": [start, start + len(chosen)],
                "lengths": _lengths(chosen),
            }
            return one_by_one(collate, features, folder, key), {"failed": told}
    return batches, {}


def one_by_one(
    collate: Callable[[list[Any]], Any], features: Sequence[Any], folder: Path, key: str
) -> list[Any]:
    """Every row as a batch of its own.

    Raises:
        UserError: a row fails.
    """
    try:
        return [collate(_copied([feature])) for feature in features]
    except Exception as fault:
        raise UserError(mistake(fault, folder, key)) from None


def _copied(features: Sequence[Any]) -> list[Any]:
    """Rows of their own for every call: some collators write into those that they are given."""
    return [{k: f[k] for k in f.keys()} if hasattr(f, "keys") else f for f in features]  # noqa: SIM118  # BatchEncoding iterates over other things


def _lengths(features: Sequence[Any]) -> list[int]:
    try:
        return [len(plain_row(f)["input_ids"]) for f in features]
    except BadRow:
        return []
