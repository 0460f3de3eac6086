"""A config file as it is written: every key with its value, its place, and how the value was spelt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["OPAQUE", "Document", "Duplicate", "Item", "Problem", "dotted"]


class _Opaque:
    """A value that only the project's own loader can read (`!include x.yaml`, `!ENV X`): never judged."""

    def __repr__(self) -> str:
        return "<a value of a custom tag>"


OPAQUE = _Opaque()

Path = tuple["str | int", ...]


def dotted(path: Path) -> str:
    """`("stages", 0, "lr")` as `stages[0].lr`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


@dataclass(frozen=True)
class Item:
    """One key of a config and its value.

    `line` and `column` count from 1 and are those of the key; `text` is the value as it is written, `quoted` whether it
    stands in quotes. Containers are items too, their value plain lists and dicts.
    """

    path: Path
    value: Any
    line: int | None = None
    column: int | None = None
    text: str = ""
    quoted: bool = False

    @property
    def name(self) -> str:
        """The key itself, without the path to it."""
        return next((p for p in reversed(self.path) if isinstance(p, str)), "")

    @property
    def key(self) -> str:
        """The key with the path to it."""
        return dotted(self.path)

    @property
    def section(self) -> Path:
        """The path of the mapping that holds the key."""
        return self.path[:-1]

    @property
    def is_scalar(self) -> bool:
        """Whether the value is one value: no list, no mapping."""
        return not isinstance(self.value, (list, dict))


@dataclass(frozen=True)
class Duplicate:
    """A key that stands twice in one mapping: the second silently wins."""

    key: str
    first: int
    second: int
    column: int
    values: tuple[Any, Any]


@dataclass(frozen=True)
class Problem:
    """Why a file could not be read, with the place where one is known and what to do."""

    reason: str
    remedy: str
    line: int | None = None
    column: int | None = None


@dataclass(frozen=True)
class Document:
    """What a config file says: its items in file order, keys given twice, or the problem that kept it from being read."""

    items: tuple[Item, ...] = ()
    duplicates: tuple[Duplicate, ...] = ()
    problem: Problem | None = None
    syntax: str = ""

    def mappings(self) -> dict[Path, list[Item]]:
        """Every mapping of the file by its path (`()` is the whole file), each with the items directly in it."""
        found: dict[Path, list[Item]] = {(): []}
        for item in self.items:
            found.setdefault(item.section, []).append(item)
        return found
