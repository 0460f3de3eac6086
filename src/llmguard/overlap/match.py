"""What of a split stands in the training split, as plain records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["KINDS", "SIDES", "Match", "Overlap"]

KINDS = ("exact", "normalised", "contained", "near")
SIDES = ("row", "prompt", "response")


@dataclass(frozen=True)
class Match:
    """A row of a split that stands in the training split.

    `kind` and `side`: how, and what of it. `share`: of its words that are no boilerplate, how many stand in the training row
    in the same order (1.0: all). `run`: the longest shared run as it is written in this row, `run_words` words long.
    `others`: in how many further training rows it stands.
    """

    row: int
    train_row: int
    kind: str
    side: str
    share: float
    run: str
    run_words: int
    others: int = 0

    @property
    def order(self) -> tuple[int, int, int, float, int]:
        """Worst first: equal, contained, near; then whole rows, prompts, responses."""
        kind = KINDS.index(self.kind)
        return max(1, kind), SIDES.index(self.side), kind, -self.share, -self.run_words


@dataclass(frozen=True)
class Overlap:
    """The worst match of each row of a split that stands in the training split, by row.

    `control`: of each training row of a sample, how near its nearest fellow is (0.0: not near).
    """

    rows: int
    train_rows: int
    matches: Sequence[Match] = ()
    control: Sequence[float] = ()

    def of(self, *kinds: str) -> list[Match]:
        """Matches of some kinds, by row."""
        return [m for m in self.matches if m.kind in kinds]

    @property
    def usual(self) -> float:
        """The share of training rows that are near to another training row."""
        return sum(c > 0 for c in self.control) / len(self.control) if self.control else 0.0
