"""What stands around the contents of rows in a format that nobody told: learnt from the rows where all contents are found.

With it a row whose contents are not all there can be held against what it would be: if it is a part of that, it was cut.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from llmguard.alignment.place import Cut, Placed, Stretch, Target, cut, end_of_terminator
from llmguard.formats import Kind

__all__ = ["Skeletons", "judged_again"]

Piece = tuple[Kind, int, bytes]


@dataclass(frozen=True)
class _Skeleton:
    """`head`: before the first content; `gaps`: between a content and the next, by whether each is a response; `ending`: behind all."""

    head: bytes
    gaps: dict[tuple[bool, bool], bytes]
    ending: bytes

    def target(self, target: Target) -> Target | None:
        """What a row would be, in pieces; None where it has neighbours that no whole row has."""
        pieces: list[Piece] = [(Kind.PROMPT, -1, self.head)]
        answers = [answer for answer, _ in target.contents]
        turn = -1
        for index, (answer, text) in enumerate(target.contents):
            turn += answer
            pieces.append((Kind.RESPONSE if answer else Kind.PROMPT, turn if answer else -1, text))
            last = index == len(answers) - 1
            gap = self.ending if last else self.gaps.get((answer, answers[index + 1]))
            if gap is None:
                return None
            stop = end_of_terminator(gap, target.ends) if answer else 0
            pieces += [(Kind.TERMINATOR, turn, gap[:stop]), (Kind.PROMPT, -1, gap[stop:])]
        return replace(target, pieces=pieces)


class Skeletons:
    """What whole rows have around their contents, gathered row by row: the most frequent text at each place counts."""

    def __init__(self) -> None:
        self.heads: Counter[bytes] = Counter()
        self.gaps: dict[tuple[bool, bool], Counter[bytes]] = {}
        self.endings: Counter[bytes] = Counter()

    def see(self, row: bytes, target: Target | None, found: Placed) -> None:
        """A row, which teaches something if all its contents were found in another text than its format's."""
        if target is None or found.cut is not Cut.LOCATED or found.lost or not found.spans:
            return
        self.heads[row[: found.spans[0][0]]] += 1
        self.endings[row[found.spans[-1][1] :]] += 1
        answers = [answer for answer, _ in target.contents]
        for index in range(len(answers) - 1):
            gap = row[found.spans[index][1] : found.spans[index + 1][0]]
            self.gaps.setdefault((answers[index], answers[index + 1]), Counter())[gap] += 1

    def learnt(self) -> _Skeleton | None:
        """The most frequent text before, between and behind contents; None where no row is whole or none needs it."""
        if not self.heads:
            return None
        gaps = {pair: _usual(counted) for pair, counted in self.gaps.items()}
        return _Skeleton(_usual(self.heads), gaps, _usual(self.endings))


def judged_again(
    row: bytes, target: Target, was: Placed, skeleton: _Skeleton | None, *, full: bool
) -> Placed:
    """A row whose contents are not all there, as a cut where it is one; else as it was.

    `full`: it is as long as the longest, and may have been cut and given its end again.
    """
    wholes = [w for w in (target if target.pieces else None, skeleton and skeleton.target(target)) if w]
    end = next((e for e in target.ends if row.endswith(e)), b"") if full else b""
    for whole in wholes:
        found = cut(row, whole)
        if found and found.cut in (Cut.CUT_LEFT, Cut.CUT_RIGHT):
            return found
        found = cut(row[: -len(end)], whole) if end else None
        if found and found.cut is Cut.CUT_RIGHT:
            ended = Stretch(len(row) - len(end), Kind.TERMINATOR, found.stretches[-1].turn)
            return replace(found, stretches=[*found.stretches, ended])
    return was


def _usual(counted: Counter[bytes]) -> bytes:
    return counted.most_common(1)[0][0]
