"""Align the tokens of encoded rows with the text that they came from, a whole shard at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmguard.alignment.blocks import Block, blocks
from llmguard.alignment.kinds import Stretches, kinds_of
from llmguard.alignment.place import Cut, end_of_terminator, ended_otherwise, runs_on
from llmguard.alignment.placing import Endings, Placer
from llmguard.alignment.proof import Proved, Prover
from llmguard.alignment.targets import Targets
from llmguard.encoded import Encoded
from llmguard.formats import Kind
from llmguard.ragged import Ints
from llmguard.rows import Rows
from llmguard.vocabulary import Vocabulary, vocabulary_of

__all__ = ["Alignment", "Status", "align"]

Status = Cut
Turns = NDArray[np.int8] | NDArray[np.int16]


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
    proved, placer = _first_look(encoded, targets)
    endings = Endings()
    placer.tell(endings)
    for part in proved:
        _tell(part, endings, targets.ends)
    terminator = endings.common
    if terminator:  # looked for again, since it ends the earlier responses of a conversation too
        placer = _again(encoded, placer, terminator)
    _doubts(encoded, placer)
    return _assembled(encoded, proved, placer, terminator)


def _first_look(encoded: Encoded, targets: Targets) -> tuple[list[Proved], Placer]:
    """Rows proved at once, and the others placed one by one."""
    prover, placer = Prover(targets, encoded.source), Placer(targets, encoded.source)
    proved: list[Proved] = []
    for block in blocks(encoded, targets.vocabulary):
        left = np.ones(block.stop - block.first, dtype=bool)
        for part in prover.block(block):
            left[part.rows - block.first] = False
            proved.append(part)
        placer.see(block, np.flatnonzero(left))
    return proved, placer


def _tell(part: Proved, endings: Endings, ends: Sequence[bytes]) -> None:
    """What follows the last response of proved rows."""
    inner = any(kind is Kind.TERMINATOR and text for kind, _, text in part.recipe.body)
    for index, count in enumerate(np.bincount(part.around, minlength=len(part.arounds)).tolist()):
        if count:
            rest = part.arounds[index].rest
            endings.see(rest, count, terminated=inner or bool(end_of_terminator(rest, ends)))


def _again(encoded: Encoded, placer: Placer, terminator: bytes) -> Placer:
    """The same rows placed with one more terminator."""
    found = placer.ended_by(terminator)
    rows = np.array(sorted(placer.placed), dtype=np.int64)
    for block, here in _blocks_of(encoded, placer.targets.vocabulary, rows):
        found.see(block, here)
    return found


def _doubts(encoded: Encoded, placer: Placer) -> None:
    longest = int(encoded.input_ids.lengths.max(initial=0))
    for block, here in _blocks_of(encoded, placer.targets.vocabulary, placer.doubtful):
        placer.see_again(block, here, longest)


def _blocks_of(encoded: Encoded, vocabulary: Vocabulary, rows: Ints) -> Iterator[tuple[Block, Ints]]:
    """The blocks that some of the rows (ascending) lie in, with those rows, numbered within."""
    for block in blocks(encoded, vocabulary) if len(rows) else ():
        low, high = np.searchsorted(rows, (block.first, block.stop))
        if low < high:
            yield block, rows[low:high] - block.first


def _assembled(encoded: Encoded, proved: Sequence[Proved], placer: Placer, terminator: bytes) -> Alignment:
    count = len(encoded)
    status, responses = np.zeros(count, dtype=np.uint8), np.zeros(count, dtype=np.int16)
    on, otherwise, at_once = np.zeros((3, count), dtype=bool)
    lost: list[tuple[int, ...]] = [()] * count
    lengths = np.zeros(count, dtype=np.int64)
    for part in proved:
        lengths[part.rows] = part.starts.shape[1] + 3
    for row, found in placer.placed.items():
        lengths[row] = len(found.stretches)
        status[row], responses[row], lost[row] = found.cut, placer.answers[row], found.lost
        on[row], otherwise[row] = found.runs_on, found.ended_otherwise
    stretches = Stretches.room(lengths)
    ends = [terminator, *placer.targets.ends] if terminator else placer.targets.ends
    for part in proved:
        responses[part.rows], at_once[part.rows] = part.recipe.answers, True
        on[part.rows], otherwise[part.rows] = _proved(part, ends, stretches)
    for row, found in placer.placed.items():
        stretches.put_one(row, found.stretches)
    vocabulary = placer.targets.vocabulary
    kind, turn = _kinds(encoded, vocabulary, stretches)
    return Alignment(kind, turn, status, responses, lost, on, otherwise, vocabulary, terminator, at_once)


def _proved(
    part: Proved, ends: Sequence[bytes], into: Stretches
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Put the stretches of proved rows to the others; which of them run on, which end otherwise than their format."""
    recipe, rests = part.recipe, [a.rest for a in part.arounds]
    stop = np.array([end_of_terminator(r, ends) for r in rests], dtype=np.int32)[part.around]
    none = np.zeros((len(part.rows), 1), dtype=np.int32)
    starts = np.hstack((none, part.starts, part.ends[:, None], part.ends[:, None] + stop[:, None]))
    last = int(recipe.turns[-1])
    kinds = (Kind.PROMPT, *recipe.kinds, Kind.TERMINATOR, Kind.TAIL)  # a terminator of no bytes is nowhere
    into.put(part.rows, starts, kinds, (-1, *recipe.turns, last, last))
    on = np.array([runs_on(r, ends) for r in rests], dtype=bool)
    otherwise = np.array([ended_otherwise(r, recipe.behind, ends) for r in rests], dtype=bool)
    return on[part.around], otherwise[part.around]


def _kinds(encoded: Encoded, vocabulary: Vocabulary, stretches: Stretches) -> tuple[NDArray[np.uint8], Turns]:
    ids = encoded.input_ids
    narrow = stretches.turns.max(initial=0) <= np.iinfo(np.int8).max
    kind = np.zeros(len(ids.values), dtype=np.uint8)
    turn: Turns = np.zeros(len(ids.values), dtype=np.int8 if narrow else np.int16)
    for block in blocks(encoded, vocabulary):
        part = slice(int(ids.offsets[block.first]), int(ids.offsets[block.stop]))
        kinds_of(block, stretches, kind[part], turn[part])
    mask = encoded.columns.get("attention_mask")
    if mask is not None and mask.same_shape(ids):
        padding = mask.values == 0
        kind[padding], turn[padding] = Kind.PAD, -1
    return kind, turn
