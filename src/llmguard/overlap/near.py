"""Candidates that share rare grams to matches: texts that are contained, or near, in the words that are no boilerplate."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from llmguard.overlap.compare import Run, Words, in_common, longest_run, same_but_for_writing
from llmguard.overlap.hashing import GRAM
from llmguard.overlap.index import Index
from llmguard.overlap.match import Match
from llmguard.overlap.partial import Partial
from llmguard.overlap.texts import ANSWERED, ASKED, texts_of
from llmguard.rows import Rows

__all__ = ["Near"]

SHORT, PROMPT, ANSWER = 5, 8, 20
"""Words of a text that is contained as a whole: a prompt from PROMPT on is contained, a shorter one near; an answer from ANSWER on."""
LEAST_WORDS, LEAST_RUN, LEAST_SHARE = 13, 13, 0.5
"""Words (no boilerplate) of a text that can be near; it is with a shared run of LEAST_RUN of them, or LEAST_SHARE in the same order."""
LONG_RUN, RUN_SHARE = 25, 0.05
"""A run counts when it is long, or a good part of its text."""
GOOD = 0.8
"""A share from which further candidates are not looked at."""
BOILERPLATE, OFTEN = 10, 50
"""A gram in more than BOILERPLATE training rows, and in more than one in OFTEN, is boilerplate: a template, a fixed instruction."""


@dataclass
class Near:
    """Looks at the texts behind the hashes."""

    index: Index
    partial: Partial
    train: Rows
    _known: dict[int, list[Words]] = field(default_factory=dict)

    def matches(self, known: Collection[int] = ()) -> Iterator[Match]:
        """For each indexed text (control rows too) its best match; `row` is the entry of the index. Entries that are `known`
        to be equal to a training row are left out."""
        found = self.index.candidates(self.partial)
        rows: dict[int, list[int]] = {}
        for part, row in zip(found.part.tolist(), found.row.tolist(), strict=True):
            if int(self.index.entry[part]) not in known:
                rows.setdefault(part, []).append(row)
        for part, some in rows.items():
            match = self._best(part, some)
            if match:
                yield match

    def _best(self, part: int, rows: Sequence[int]) -> Match | None:
        """The best match of a text among its candidates; the first that leaves little to be found better ends the search."""
        text = Words(self.index.parts.texts[part])
        told, best = self._telling(text), list[Match]()
        for row in rows:
            compared = (self._compare(part, row, text, told, other) for other in self._train_words(row))
            best = sorted([*best, *(m for m in compared if m)], key=lambda m: m.order)[:1]
            if best and best[0].share >= GOOD:
                break
        return best[0] if best else None

    def _compare(
        self, part: int, row: int, text: Words, told: NDArray[np.bool_], other: Words
    ) -> Match | None:
        run = longest_run(text.words, other.words)
        asked = self.index.parts.kinds[part]
        kind, share = self._kind(asked, text, told, other, run) if run.words else ("", 0.0)
        if not kind:
            return None
        side = "prompt" if asked == ASKED else "response"
        written = text.written(run.first, run.first + run.words)
        return Match(int(self.index.entry[part]), row, kind, side, share, written, run.words)

    def _kind(
        self, asked: int, text: Words, told: NDArray[np.bool_], other: Words, run: Run
    ) -> tuple[str, float]:
        if run.words == len(text) and self._same_writing(text, other, run):
            if run.words >= (ANSWER if asked == ANSWERED else PROMPT):
                return "contained", 1.0
            return ("near", 1.0) if asked == ASKED and run.words >= SHORT else ("", 0.0)
        own = int(told.sum())
        if own < LEAST_WORDS:
            return "", 0.0
        reach = len(text) // 5 + 3
        start = run.second - run.first
        window = other.words[max(0, start - reach) : start + len(text) + reach]
        share = in_common([w for w, t in zip(text.words, told, strict=True) if t], window) / own
        in_run = int(told[run.first : run.first + run.words].sum())
        runs = in_run >= LEAST_RUN and (run.words >= LONG_RUN or run.words >= RUN_SHARE * len(text))
        return ("near", round(share, 3)) if runs or share >= LEAST_SHARE else ("", 0.0)

    def _same_writing(self, text: Words, other: Words, run: Run) -> bool:
        theirs = other.written(run.second, run.second + run.words)
        return same_but_for_writing(text.written(0, len(text)), theirs)

    def _telling(self, text: Words) -> NDArray[np.bool_]:
        """Whether each word of an indexed text is no boilerplate: bool [words]."""
        often = self.index.gram_counts(self.partial, text.text) > max(BOILERPLATE, self.partial.rows // OFTEN)
        told = np.ones(len(text), np.bool_)
        for at in np.flatnonzero(often):
            told[at : at + GRAM] = False
        return told

    def _train_words(self, row: int) -> list[Words]:
        if row not in self._known:
            self._known[row] = [
                Words(text) for _, text in texts_of(self.train.records[row], self.train.columns)
            ]
        return self._known[row]
