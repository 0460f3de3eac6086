"""The nearest known name to a misspelt one, strict enough that two different words are not taken for one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["distance", "nearest", "typo_of"]

_SHORT, _LONG = 6, 10


def distance(a: str, b: str, most: int = 3) -> int:
    """Insertions, deletions, replacements and swaps of neighbours that make one word the other; `most` when there are more."""
    if abs(len(a) - len(b)) >= most:
        return most
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, last, row = row, before, [i]
        for j, y in enumerate(b, 1):
            cost = min(row[j - 1] + 1, before[j] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return min(row[-1], most)


def typo_of(name: str, known: Iterable[str]) -> str | None:
    """The known name that a name is a slip of: one edit away, two in a long name; short names are never guessed."""
    lower = name.lower().replace("-", "_")
    if len(lower) < _SHORT:
        return None
    allowed = 2 if len(lower) >= _LONG else 1
    found = [(distance(lower, other.lower(), allowed + 1), other) for other in known if len(other) >= _SHORT]
    best = min(found, default=(allowed + 1, ""))
    return best[1] if best[0] <= allowed else None


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name most like a name, for a hint."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return found[0] if found else None
