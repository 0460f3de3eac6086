"""Kind and turn of all tokens, written block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from llmguard.alignment.blocks import Block
from llmguard.alignment.kinds import Stretches, kinds_of
from llmguard.alignment.place import end_of_terminator
from llmguard.alignment.placing import Placer
from llmguard.alignment.proof import Proved
from llmguard.encoded import Encoded
from llmguard.formats import Kind

__all__ = ["Tokens", "Turns"]

Turns: TypeAlias = "NDArray[np.int8] | NDArray[np.int16]"


@dataclass
class Tokens:
    """`kind`: uint8 [tokens]; `turn`: int8 [tokens], int16 where a conversation has more responses than that counts."""

    encoded: Encoded
    kind: NDArray[np.uint8]
    turn: Turns

    @classmethod
    def of(cls, encoded: Encoded) -> Tokens:
        """Nothing written yet."""
        count = len(encoded.input_ids.values)
        return cls(encoded, np.zeros(count, dtype=np.uint8), np.zeros(count, dtype=np.int8))

    def write(self, block: Block, proved: Sequence[Proved], placer: Placer, ends: Sequence[bytes]) -> None:
        """The tokens of a block; its rows are proved or placed. `ends`: what may end a response."""
        counts = np.zeros(block.stop - block.first, dtype=np.int64)
        for part in proved:
            counts[part.rows - block.first] = part.starts.shape[1] + 3
        left = (np.flatnonzero(counts == 0) + block.first).tolist()
        counts[counts == 0] = [len(placer.placed[row].stretches) for row in left]
        stretches = Stretches.room(counts)
        for part in proved:
            _put(part, block, ends, stretches)
        for row in left:
            stretches.put_one(row - block.first, placer.placed[row].stretches)
        if stretches.turns.max(initial=0) > np.iinfo(self.turn.dtype).max:
            self.turn = self.turn.astype(np.int16)
        offsets = self.encoded.input_ids.offsets
        here = slice(int(offsets[block.first]), int(offsets[block.stop]))
        kinds_of(block, stretches, self.kind[here], self.turn[here])

    def told(self) -> tuple[NDArray[np.uint8], Turns]:
        """Kind and turn, once all blocks are written."""
        mask = self.encoded.columns.get("attention_mask")
        if mask is not None and mask.same_shape(self.encoded.input_ids):
            padding = mask.values == 0
            self.kind[padding], self.turn[padding] = Kind.PAD, -1
        return self.kind, self.turn


def _put(part: Proved, block: Block, ends: Sequence[bytes], into: Stretches) -> None:
    """The stretches of proved rows: what stands before the text, its pieces, what ends it and what follows."""
    found, which = np.unique(part.around, return_inverse=True)
    stop = np.array([end_of_terminator(part.arounds[i].rest, ends) for i in found.tolist()], dtype=np.int32)[
        which
    ]
    none = np.zeros((len(part.rows), 1), dtype=np.int32)
    starts = np.hstack((none, part.starts, part.ends[:, None], part.ends[:, None] + stop[:, None]))
    last = int(part.recipe.turns[-1])
    kinds = (
        Kind.PROMPT,
        *part.recipe.kinds,
        Kind.TERMINATOR,
        Kind.TAIL,
    )  # a terminator of no bytes is nowhere
    into.put(part.rows - block.first, starts, kinds, (-1, *part.recipe.turns, last, last))
