"""Partial results of row checks: counts and first examples by kind; adding two gives the tally of both shards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Hits", "Tally"]

FIRST = 5
"""How many example rows a finding shows; the count and the rate cover all of them."""


@dataclass(frozen=True)
class Hits:
    """Rows of one kind: how many, how many things in them, and the first few (by row, JSON-safe)."""

    rows: int = 0
    things: int = 0
    examples: tuple[Mapping[str, Any], ...] = ()

    def __add__(self, other: Hits) -> Hits:
        both = sorted(
            (*self.examples, *other.examples), key=lambda e: (str(e.get("file", "")), e.get("row", 0))
        )
        return Hits(self.rows + other.rows, self.things + other.things, tuple(both[:FIRST]))


@dataclass(frozen=True)
class Tally:
    """What one shard says: rows looked at and hits by kind. `facts` holds numbers that add up."""

    looked_at: int = 0
    hits: Mapping[str, Hits] = field(default_factory=dict)
    facts: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: Tally) -> Tally:
        kinds = {**dict.fromkeys(self.hits), **dict.fromkeys(other.hits)}
        hits = {k: self.hits.get(k, Hits()) + other.hits.get(k, Hits()) for k in kinds}
        names = {**dict.fromkeys(self.facts), **dict.fromkeys(other.facts)}
        facts = {n: self.facts.get(n, 0) + other.facts.get(n, 0) for n in names}
        return Tally(self.looked_at + other.looked_at, hits, facts)

    @staticmethod
    def sum(tallies: Iterable[Tally]) -> Tally:
        """The tally of all shards together."""
        total = Tally()
        for tally in tallies:
            total = total + tally
        return total

    def __getitem__(self, kind: str) -> Hits:
        return self.hits.get(kind, Hits())

    def rate(self, kind: str) -> str:
        """`14 of 200 rows (7.0 %)`."""
        share = 100.0 * self[kind].rows / self.looked_at if self.looked_at else 0.0
        return f"{self[kind].rows:,} of {self.looked_at:,} rows ({share:.1f} %)"
