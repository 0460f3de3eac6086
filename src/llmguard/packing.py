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
    if "seq_lengths" in encoded.columns:
        lengths = encoded.columns["seq_lengths"]
        if np.array_equal(lengths.count(np.ones(len(lengths.values), bool)) > 0, ids.lengths > 0):
            within = np.cumsum(lengths.values) - lengths.values
            first = within - np.repeat(
                within[lengths.offsets[:-1].clip(0, max(len(within) - 1, 0))], lengths.lengths
            )
            return np.asarray(np.repeat(ids.offsets[:-1], lengths.lengths) + first)
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
