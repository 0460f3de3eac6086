"""Align the tokens of encoded rows with the text that they came from, a whole shard at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmguard.alignment.blocks import Block, blocks
from llmguard.alignment.place import Cut, end_of_terminator, ended_otherwise, runs_on
from llmguard.alignment.placing import Endings, Placer
from llmguard.alignment.proof import Proved, Prover
from llmguard.alignment.targets import Targets
from llmguard.alignment.tokens import Tokens, Turns
from llmguard.encoded import Encoded
from llmguard.formats import Kind
from llmguard.ragged import Ints
from llmguard.rows import Rows
from llmguard.vocabulary import Vocabulary, vocabulary_of

__all__ = ["Alignment", "Status", "align"]

Status = Cut


@dataclass(frozen=True)
class Alignment:
    """What every token is for.

    `kind`: uint8 [tokens], of `Kind`; `turn`: int8 or int16 [tokens], the assistant turn or -1; `status`: uint8 [rows], of `Status`;
    `responses`: int16 [rows], assistant turns in the source row; `lost`: for each row the contents that are not in its ids;
    `runs_on`, `ended_otherwise`: bool [rows], see `Placed`. `proved`: bool [rows], rows that hold exactly their rendered text and
    were compared at once; other rows may do so too, and were searched one by one.
    """

    kind: NDArray[np.uint8]
    turn: Turns
    status: NDArray[np.uint8]
    responses: NDArray[np.int16]
    lost: Sequence[tuple[int, ...]]
    runs_on: NDArray[np.bool_]
    ended_otherwise: NDArray[np.bool_]
    vocabulary: Vocabulary
    terminator: bytes
    proved: NDArray[np.bool_]

    @property
    def matched(self) -> NDArray[np.bool_]:
        """Rows whose responses were found (wholly or cut): bool [rows]."""
        return self.status < Cut.UNMATCHED

    def of(self, *kinds: Kind) -> NDArray[np.bool_]:
        """Tokens of some kinds: bool [tokens]."""
        found = np.zeros(len(self.kind), dtype=bool)
        for kind in kinds:
            found |= self.kind == kind
        return found


def align(encoded: Encoded, rows: Rows, tokenizer: Any, template: Any = None) -> Alignment:
    """Align encoded rows with their source rows (`encoded.source`); remembered for the same objects."""
    memory: dict[Any, Any] = encoded.__dict__.setdefault("_alignments", {})
    key = (id(rows), id(tokenizer), id(template))
    if key not in memory:
        memory[key] = (_align(encoded, rows, tokenizer, template), rows, tokenizer, template)
    found: Alignment = memory[key][0]
    return found


def _align(encoded: Encoded, rows: Rows, tokenizer: Any, template: Any) -> Alignment:
    vocabulary = vocabulary_of(tokenizer)
    targets = Targets(rows, tokenizer, template, vocabulary)
    prover, placer = Prover(targets, encoded.source), Placer(targets, encoded.source)
    tokens, endings = Tokens.of(encoded), Endings()
    proved: dict[int, list[Proved]] = {}
    for block in blocks(encoded, vocabulary):
        proved[block.first] = parts = list(prover.block(block))
        placer.see(block, _left(block, parts))
        tokens.write(block, parts, placer, targets.ends)
    placer.tell(endings)
    for part in itertools.chain.from_iterable(proved.values()):
        _tell(part, endings, targets.ends)
    terminator = endings.common
    ends = [terminator, *targets.ends] if terminator else targets.ends
    if terminator:  # looked for again, since it ends the earlier responses of a conversation too
        placer = _again(encoded, placer, terminator)
    doubtful = placer.doubtful
    _doubts(encoded, placer, doubtful)
    again = np.arange(len(encoded), dtype=np.int64) if terminator else doubtful
    for block, _ in _blocks_of(encoded, vocabulary, again):
        tokens.write(block, proved[block.first], placer, ends)
    return _assembled(tokens, list(itertools.chain.from_iterable(proved.values())), placer, terminator)


def _left(block: Block, proved: Sequence[Proved]) -> Ints:
    """The rows of a block that are not proved, numbered within it."""
    left = np.ones(block.stop - block.first, dtype=bool)
    for part in proved:
        left[part.rows - block.first] = False
    return np.flatnonzero(left)


def _tell(part: Proved, endings: Endings, ends: Sequence[bytes]) -> None:
    """What follows the last response of proved rows."""
    inner = any(kind is Kind.TERMINATOR and text for kind, _, text in part.recipe.body)
    for index, count in zip(*np.unique(part.around, return_counts=True), strict=True):
        rest = part.arounds[index].rest
        endings.see(rest, int(count), terminated=inner or bool(end_of_terminator(rest, ends)))


def _again(encoded: Encoded, placer: Placer, terminator: bytes) -> Placer:
    """The same rows placed with one more terminator."""
    found = placer.ended_by(terminator)
    rows = np.array(sorted(placer.placed), dtype=np.int64)
    for block, here in _blocks_of(encoded, placer.targets.vocabulary, rows):
        found.see(block, here)
    return found


def _doubts(encoded: Encoded, placer: Placer, doubtful: Ints) -> None:
    longest = int(encoded.input_ids.lengths.max(initial=0))
    for block, here in _blocks_of(encoded, placer.targets.vocabulary, doubtful):
        placer.see_again(block, here, longest)


def _blocks_of(encoded: Encoded, vocabulary: Vocabulary, rows: Ints) -> Iterator[tuple[Block, Ints]]:
    """The blocks that some of the rows (ascending) lie in, with those rows, numbered within."""
    for block in blocks(encoded, vocabulary) if len(rows) else ():
        low, high = np.searchsorted(rows, (block.first, block.stop))
        if low < high:
            yield block, rows[low:high] - block.first


def _assembled(tokens: Tokens, proved: Sequence[Proved], placer: Placer, terminator: bytes) -> Alignment:
    count = len(tokens.encoded)
    status, responses = np.zeros(count, dtype=np.uint8), np.zeros(count, dtype=np.int16)
    on, otherwise, at_once = np.zeros((3, count), dtype=bool)
    lost: list[tuple[int, ...]] = [()] * count
    ends = [terminator, *placer.targets.ends] if terminator else placer.targets.ends
    for part in proved:
        responses[part.rows], at_once[part.rows] = part.recipe.answers, True
        found, which = np.unique(part.around, return_inverse=True)
        rests = [part.arounds[i].rest for i in found.tolist()]
        on[part.rows] = np.array([runs_on(r, ends) for r in rests], dtype=bool)[which]
        other = [ended_otherwise(r, part.recipe.behind, ends) for r in rests]
        otherwise[part.rows] = np.array(other, dtype=bool)[which]
    for row, here in placer.placed.items():
        status[row], responses[row], lost[row] = here.cut, placer.answers[row], here.lost
        on[row], otherwise[row] = here.runs_on, here.ended_otherwise
    kind, turn = tokens.told()
    vocabulary = placer.targets.vocabulary
    return Alignment(kind, turn, status, responses, lost, on, otherwise, vocabulary, terminator, at_once)
