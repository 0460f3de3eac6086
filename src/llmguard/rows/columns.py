"""Which columns hold what: as the project says, else by the names that the field uses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["Columns", "guess_columns"]

USUAL: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation"),
    "chosen": ("chosen",),
    "rejected": ("rejected",),
    "prompt": ("prompt", "instruction", "question", "query"),
    "response": ("response", "completion", "output", "answer"),
}


@dataclass(frozen=True)
class Columns:
    """Column names; `guessed` when the project file does not name them."""

    prompt: str | None = None
    response: str | None = None
    messages: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    group: str | None = None
    guessed: bool = False

    @property
    def named(self) -> dict[str, str]:
        """What is mapped: meaning -> column."""
        found = {n: getattr(self, n) for n in ("messages", "prompt", "response", "chosen", "rejected")}
        return {meaning: column for meaning, column in found.items() if column}

    @property
    def preference(self) -> bool:
        """Whether the rows are preference pairs."""
        return bool(self.chosen and self.rejected)


def guess_columns(rows: Iterable[Mapping[str, Any]], told: Columns) -> Columns:
    """The columns told, or, where none is, the usual names that most of the first rows have."""
    if told.named:
        return told
    first = [set(row) for _, row in zip(range(20), rows, strict=False)]
    common = {name for keys in first for name in keys if sum(name in k for k in first) * 2 > len(first)}
    found = {meaning: next((n for n in names if n in common), None) for meaning, names in USUAL.items()}
    if found["messages"] or found["chosen"]:
        found["response"] = None
    if found["messages"]:
        found["prompt"] = None
    return replace(told, **found, guessed=True)
