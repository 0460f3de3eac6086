"""Rows that were not proved at once, one by one: their bytes are searched for their text, block by block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from llmguard.alignment.blocks import Block, rows_of_bytes
from llmguard.alignment.place import Cut, Placed, Stretch, Target, place
from llmguard.alignment.skeleton import Skeletons, judged_again
from llmguard.alignment.targets import Targets
from llmguard.formats import Kind
from llmguard.ragged import Ints

__all__ = ["Endings", "Placer"]

ENOUGH = 0.8
"""Share of rows that must end alike for their common ending to be taken as the project's terminator."""


class Endings:
    """What follows the last response of whole rows, counted."""

    def __init__(self) -> None:
        self.rows, self.terminated, self.counted = 0, False, Counter[bytes]()

    def see(self, rest: bytes, rows: int = 1, *, terminated: bool) -> None:
        """Rows with the same rest; whether a token in them ends a response."""
        self.rows += rows
        self.terminated |= terminated
        if rest.strip():
            self.counted[rest] += rows

    @property
    def common(self) -> bytes:
        """The text that most rows end with, where none of them ends with a control token (`\\nEND` and its like)."""
        if self.terminated or not self.counted or self.rows < 3:
            return b""
        ending, count = self.counted.most_common(1)[0]
        return ending if count >= ENOUGH * self.rows else b""


class Placer:
    """Places single rows. `placed`: row -> where everything of it is."""

    def __init__(self, targets: Targets, source: Ints) -> None:
        self.targets, self.source = targets, source
        self.placed: dict[int, Placed] = {}
        self.answers: dict[int, int] = {}
        self.skeletons = Skeletons()

    def see(self, block: Block, rows: Ints) -> None:
        """Place some rows of a block, numbered within it."""
        for row, text, target in self._targets(block, rows):
            found = place(text, target) if target else Placed(Cut.NO_TURNS, [Stretch(0, Kind.UNKNOWN)])
            self.placed[row] = found
            self.answers[row] = sum(answer for answer, _ in target.contents) if target else 0
            self.skeletons.see(text, target, found)

    def _targets(self, block: Block, rows: Ints) -> Iterator[tuple[int, bytes, Target | None]]:
        sources = self.source[block.first + rows].tolist()
        texts = rows_of_bytes(block, rows)
        for row, source, text in zip((block.first + rows).tolist(), sources, texts, strict=True):
            yield row, text, self.targets.of(source, text)

    def tell(self, endings: Endings) -> None:
        """Count what follows the last response of whole rows."""
        for found in self.placed.values():
            if found.cut in (Cut.EXACT, Cut.LOCATED):
                pairs = zip(found.stretches, found.stretches[1:], strict=False)
                terminated = any(s.kind is Kind.TERMINATOR and t.start > s.start for s, t in pairs)
                endings.see(found.remainder, terminated=terminated)

    def ended_by(self, terminator: bytes) -> Placer:
        """A placer that knows one more terminator, and no rows yet."""
        return Placer(replace(self.targets, more=(terminator,)), self.source)

    @property
    def doubtful(self) -> Ints:
        """Rows whose contents are not all there: int64, ascending."""
        found = [row for row, was in self.placed.items() if was.lost or was.cut is Cut.UNMATCHED]
        return np.array(sorted(found), dtype=np.int64)

    def see_again(self, block: Block, rows: Ints, longest: int) -> None:
        """Doubtful rows of a block, numbered within it: some of them are cut."""
        skeleton = self.skeletons.learnt()
        for row, text, target in self._targets(block, rows):
            if target:
                here = row - block.first
                full = int(block.offsets[here + 1] - block.offsets[here]) == longest
                self.placed[row] = judged_again(text, target, self.placed[row], skeleton, full=full)
