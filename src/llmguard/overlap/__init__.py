"""Overlap of splits: what of one stands in another, exactly, but for its writing, inside of a longer text, or edited.

    overlap = find_overlap(test, train)
    overlap.of("exact", "normalised", "contained")

Map and merge: an `Index` of the small split, `Partial`s of shards of the large one, summed in any order.
"""

from __future__ import annotations

from llmguard.overlap.equal import Equal
from llmguard.overlap.index import Candidates, Index
from llmguard.overlap.match import Match, Overlap
from llmguard.overlap.near import Near
from llmguard.overlap.partial import Partial
from llmguard.rows import Rows

__all__ = ["Candidates", "Index", "Match", "Overlap", "Overlaps", "Partial", "find_overlap", "judged"]


def find_overlap(rows: Rows, train: Rows, *, threads: int | None = None) -> Overlap:
    """What of `rows` stands in `train`, in this process."""
    index = Index.of(rows, control=train)
    return judged(index, index.scan(train, threads=threads), rows, train)


def judged(index: Index, partial: Partial, rows: Rows, train: Rows) -> Overlap:
    """From the sum of all shards to matches: the texts themselves are looked at, the worst match of each row is kept."""
    equal = list(Equal(index, partial, rows, train).matches())
    near = list(Near(index, partial, train).matches({match.row for match in equal}))
    worst: dict[int, Match] = {}
    for match in (*equal, *near):
        if match.row < index.rows and (match.row not in worst or match.order < worst[match.row].order):
            worst[match.row] = match
    control = dict.fromkeys(range(index.rows, index.rows + len(index.control)), 0.0)
    for match in near:
        if match.row in control and match.kind == "near":
            control[match.row] = max(control[match.row], match.share)
    return Overlap(index.rows, partial.rows, [worst[row] for row in sorted(worst)], list(control.values()))


class Overlaps:
    """Overlaps found once and kept: several checks read the same."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int], tuple[Rows, Rows, Overlap]] = {}

    def between(self, rows: Rows, train: Rows) -> Overlap:
        """What of `rows` stands in `train`; the rows are kept, so that their identity stays theirs."""
        key = id(rows), id(train)
        if key not in self._kept:
            self._kept[key] = rows, train, find_overlap(rows, train)
        return self._kept[key][2]
