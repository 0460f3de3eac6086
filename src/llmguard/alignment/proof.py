"""Rows whose ids hold exactly their rendered text, proved many at once: every byte of every token is compared.

A row's bytes are what stands before its text (nothing, a BOS), the text, and what follows it (EOS, the rest of a template). What may
stand around is learnt from the rows; which of it a row has is told by its length. Whatever is not proved here is left to `place`,
which says the same of a row that is proved here, and more of others.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmguard.alignment.blocks import Block, rows_of_bytes
from llmguard.alignment.recipes import FEWEST, Recipe, Shape, asked_about, recipe_of, shape_of, unsuited
from llmguard.alignment.targets import Targets
from llmguard.formats.questions import Questions
from llmguard.ragged import Ints
from llmguard.rows import Turn

__all__ = ["Around", "Proved", "Prover"]

SAMPLES = 32
"""Rows of a shape, at most, that are rendered in full to confirm its recipe."""
PATIENCE = 64
"""Rows of a shape, at most, that are looked through in vain for what may stand around their text."""


class Around(NamedTuple):
    """What stands before and behind the text of a row."""

    before: bytes
    rest: bytes


@dataclass(frozen=True)
class Proved:
    """Rows of one recipe. `rows`: int64 [rows]; `starts`: int32 [rows, pieces], `ends`: int32 [rows], where pieces start and the text
    ends, in bytes of the row; `around`: int64 [rows], indices into `arounds`.
    """

    recipe: Recipe
    rows: Ints
    starts: NDArray[np.int32]
    ends: NDArray[np.int32]
    around: Ints
    arounds: Sequence[Around]


@dataclass
class _Known:
    """A recipe with what was seen around its texts, by length and first token. `begun`: something stands before some of them."""

    recipe: Recipe
    arounds: list[Around] = field(default_factory=list)
    by_key: dict[int, int] = field(default_factory=dict)
    failures: int = 0
    begun: bool = False

    def index(self, key: int, row: Callable[[], bytes], text: bytes) -> int:
        """What stands around a text in a row of this key, learnt from its bytes if need be; -1 where that is not known."""
        if key not in self.by_key and self.failures < PATIENCE:
            before, found, rest = row().partition(text)
            if found:
                self.arounds.append(Around(before, rest))
                self.by_key[key] = len(self.arounds) - 1
                self.begun |= bool(before)
            self.failures += not found
        return self.by_key.get(key, -1)


class Prover:
    """Proves rows block by block. `source`: int64 [rows], the source row of each."""

    def __init__(self, targets: Targets, source: Ints) -> None:
        self.targets, self.source = targets, source
        self.asked = asked_about(targets) if targets.template is not None else None
        self.shapes: list[Shape | None] = []
        self.known: dict[Shape, _Known] = {}
        if self.asked is not None:
            self._prepare()

    def _prepare(self) -> None:
        turns, count = self.targets.rows.turns, len(self.targets.rows)
        self.shapes = [shape_of(turns[s]) if 0 <= s < count else None for s in self.source.tolist()]
        for shape, number in Counter(self.shapes).items():
            if shape is None or number < FEWEST:
                continue
            samples = self._samples(shape, number)
            recipe = recipe_of(shape, self.targets, samples)
            if recipe is not None:
                self.known[shape] = _Known(recipe)

    def _samples(self, shape: Shape, number: int) -> list[tuple[Turn, ...]]:
        """Rows of a shape, spread over the data, whose contents fit."""
        every = max(number // min(SAMPLES, 2 + number // 16), 1)
        rows = (self.source[i] for i, s in enumerate(self.shapes) if s == shape)
        chosen = [self.targets.rows.turns[int(s)] or () for s in itertools.islice(rows, 0, None, every)]
        asked = self.asked or Questions()
        return [turns for turns in chosen if not unsuited([t.content for t in turns], asked)]

    def block(self, block: Block) -> Iterator[Proved]:
        """The proved rows of a block, recipe by recipe."""
        members: dict[Shape, list[int]] = defaultdict(list)
        for row, shape in enumerate(self.shapes[block.first : block.stop]):
            if shape in self.known and block.filled[row]:
                members[shape].append(row)
        if not members:
            return
        expected: list[bytes | None] = [None] * (block.stop - block.first)
        found = [
            self._filled(self.known[shape], shape, rows, block, expected) for shape, rows in members.items()
        ]
        wrong = _differing(block, expected)
        for proved in found:
            kept = ~wrong[proved.rows - block.first]
            yield Proved(
                proved.recipe, proved.rows[kept], proved.starts[kept], proved.ends[kept], proved.around[kept], proved.arounds
            )  # fmt: skip

    def _filled(
        self, known: _Known, shape: Shape, rows: list[int], block: Block, expected: list[bytes | None]
    ) -> Proved:
        """Candidates of a shape; `expected` is told what their bytes should be."""
        turns = [self.targets.rows.turns[s] or () for s in self.source[block.first :][rows].tolist()]
        columns = [[t[i].content for t in turns] for i in range(len(shape))]
        bad = set().union(*(unsuited(column, self.asked or Questions()) for column in columns))
        contents = [self.targets.vocabulary.texts_as_bytes(column) for column in columns]
        parts = known.recipe.parts
        filled = [contents[p] if isinstance(p, int) else itertools.repeat(p, len(rows)) for p in parts]
        texts = list(map(b"".join, zip(*filled, strict=True)))
        around = self._around(known, block, rows, texts, bad)
        kept = np.flatnonzero(around >= 0)
        for i in kept.tolist():
            here = known.arounds[around[i]]
            expected[rows[i]] = b"".join((here.before, texts[i], here.rest))
        sizes = np.array(
            [list(map(len, contents[p])) if isinstance(p, int) else [len(p)] * len(rows) for p in parts],
            dtype=np.int32,
        )[:, kept].T
        before = np.array([len(known.arounds[i].before) for i in around[kept].tolist()], dtype=np.int32)
        ends = before[:, None] + np.cumsum(sizes, axis=1, dtype=np.int32)
        starts = (ends - sizes)[:, list(known.recipe.firsts)]
        return Proved(
            known.recipe, np.array(rows)[kept] + block.first, starts, ends[:, -1], around[kept], known.arounds
        )

    def _around(
        self, known: _Known, block: Block, rows: list[int], texts: list[bytes], bad: set[int]
    ) -> Ints:
        """What stands around each text, as an index; -1 where that is not known: int64 [rows]."""
        starts, ends = block.bounds
        extra = (ends - starts)[rows] - np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
        bos = getattr(self.targets.tokenizer, "bos_token_id", None)
        begins = block.ids[block.offsets[:-1][rows]] == (-1 if bos is None else bos)
        keys, which = np.unique(extra * 2 + begins, return_inverse=True)
        found = np.array([known.by_key.get(k, -1) for k in keys.tolist()], dtype=np.int64)[which]
        found[list(bad)] = -2
        for i in np.flatnonzero((found == -1) & (extra >= 0)).tolist():
            found[i] = known.index(int(keys[which[i]]), partial(_row, block, rows[i]), texts[i])
        for i in np.flatnonzero(found >= 0).tolist() if known.begun else ():
            before = known.arounds[found[i]].before
            if before and (before + texts[i]).find(texts[i], 0, len(before) + len(texts[i]) - 1) >= 0:
                found[
                    i
                ] = -2  # its text stands there twice, one over the other, and the first is what `place` finds
        return found


def _row(block: Block, row: int) -> bytes:
    return rows_of_bytes(block, np.array([row]))[0]


def _differing(block: Block, expected: Sequence[bytes | None]) -> NDArray[np.bool_]:
    """Rows whose tokens do not hold the bytes expected, or of which nothing is: bool [rows]."""
    starts, ends = block.bounds
    sizes = (ends - starts).tolist()
    texts = [e if e is not None else bytes(sizes[i]) for i, e in enumerate(expected) if block.filled[i]]
    tokens = block.vocabulary.differing(block.ids, block.starts, b"\0" + b"\0".join(texts))
    wrong = np.array([e is None for e in expected])
    wrong[np.searchsorted(block.offsets, tokens, side="right") - 1] = True
    return wrong
