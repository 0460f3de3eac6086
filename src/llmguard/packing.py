"""Take packed rows apart into the documents that they were packed from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from llmguard.encoded import Encoded
from llmguard.ragged import Ints, Ragged

__all__ = ["document_starts", "unpacked"]


def document_starts(encoded: Encoded) -> Ints | None:
    """Where documents start inside rows, as flat token positions: int64; None if nothing tells.

    From `seq_lengths`, or from `position_ids` that start again.
    """
    ids = encoded.input_ids
    lengths = encoded.columns.get("seq_lengths")
    if lengths is not None and len(lengths) == len(ids):
        ends = np.cumsum(lengths.values)
        upto = np.concatenate(([0], ends))[lengths.offsets]
        if np.array_equal(np.diff(upto), ids.lengths):  # else they are of other rows, or were cut
            return np.asarray(ends - lengths.values)
    positions = encoded.columns.get("position_ids")
    if positions is not None and positions.same_shape(ids):
        return np.flatnonzero(positions.values == 0)
    return None


def unpacked(encoded: Encoded) -> Encoded:
    """The documents of packed rows as rows of their own (source unknown); rows that are not packed as they are."""
    starts = document_starts(encoded)
    if starts is None or len(starts) <= len(encoded):
        return encoded
    offsets = np.unique(np.concatenate((starts, encoded.input_ids.offsets)))
    shape = encoded.input_ids
    columns = {n: Ragged(c.values, offsets) for n, c in encoded.columns.items() if c.same_shape(shape)}
    return replace(encoded, columns=columns, source=np.full(len(offsets) - 1, -1, dtype=np.int64))
