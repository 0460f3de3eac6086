"""All checks there are: the catalogue, the `llmguard.checks` entry-point group, and what a pytest hook hands in."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from importlib.metadata import entry_points

from llmguard.catalogue import CHECKS, FAMILIES, TIERS, Entry
from llmguard.errors import UsageError

__all__ = ["GROUP", "Registry"]

GROUP = "llmguard.checks"
"""Entry-point group: each entry point names an `Entry`, or an iterable of them."""


class Registry:
    """Checks by name, in catalogue order, third-party ones last."""

    def __init__(self, extra: Iterable[Entry] = (), *, installed: bool = True) -> None:
        self._entries: dict[str, Entry] = {}
        for entry in (*CHECKS, *(_from_entry_points() if installed else ()), *extra):
            self._add(entry)

    def _add(self, entry: object) -> None:
        if not isinstance(entry, Entry):
            raise UsageError("check", entry, "an llmguard.catalogue.Entry")
        if not entry.name.isidentifier():
            raise UsageError("check", entry.name, "a name that is a valid identifier")
        if entry.family not in FAMILIES or entry.tier not in TIERS:
            raise UsageError(
                "family, tier",
                (entry.family, entry.tier),
                f"a family of {', '.join(FAMILIES)} and a tier of {', '.join(TIERS)}",
            )
        if self._entries.get(entry.name, entry) != entry:
            raise UsageError("check", entry.name, "a name that no other check has")
        self._entries[entry.name] = entry

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def get(self, name: str) -> Entry:
        """The entry of a check.

        Raises:
            UsageError: no check of that name; says the nearest ones.
        """
        if name not in self._entries:
            near = difflib.get_close_matches(name, self._entries, n=3, cutoff=0.5)
            raise UsageError(
                "check", name, f"one of {', '.join(near)}" if near else "a check of `llmguard explain`"
            )
        return self._entries[name]


def _from_entry_points() -> list[Entry]:
    found: list[Entry] = []
    for point in entry_points(group=GROUP):
        loaded = point.load()
        found += [loaded] if isinstance(loaded, Entry) else list(loaded)
    return found
