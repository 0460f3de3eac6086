"""Spaces of responses: ids are compared with their text without U+0020 everywhere else, since tokenizers add and drop it at edges."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmguard.alignment import Alignment, Status
from llmguard.encoded import Encoded
from llmguard.formats import Kind
from llmguard.rows import Rows

__all__ = ["other_spaces"]

SAMPLE = 256
"""Rows whose last response is decoded, spread evenly."""
RARE = 20
"""One in so many may differ without a word."""


def other_spaces(encoded: Encoded, rows: Rows, tokenizer: Any, alignment: Alignment) -> Any:
    """Rows whose last response has other spaces in its ids than its own text has once it is encoded: bool [rows]; none if they are rare.

    Edges are not compared, nor responses that a template rewrites (thinking, tool calls) or that hold special tokens.
    """
    bad = np.zeros(len(encoded), dtype=bool)
    whole = np.flatnonzero(np.isin(alignment.status, (Status.EXACT, Status.LOCATED)))
    chosen = whole[:: max(-(-len(whole) // SAMPLE), 1)].tolist()
    looked = 0
    for row in chosen:
        turns = rows.turns[int(encoded.source[row])] or ()
        if (
            not turns
            or turns[-1].role != "assistant"
            or turns[-1].said
            or " " not in turns[-1].content.strip()
        ):
            continue
        ids = _response(encoded, alignment, row)
        own = tokenizer(turns[-1].content.strip(), add_special_tokens=False)["input_ids"]
        trained, text = (_decoded(tokenizer, i) for i in (ids, own))
        same = "".join(trained.split()) == "".join(text.split())
        looked += same
        bad[row] = same and _inner(trained) != _inner(text)
    return bad if bad.sum() * RARE > looked else np.zeros_like(bad)


def _response(encoded: Encoded, alignment: Alignment, row: int) -> list[int]:
    part = slice(int(encoded.input_ids.offsets[row]), int(encoded.input_ids.offsets[row + 1]))
    last = alignment.turn[part] == alignment.responses[row] - 1
    kept = last & np.isin(alignment.kind[part], (Kind.RESPONSE, Kind.STRADDLE))
    ids = encoded.input_ids.values[part][kept]
    return (
        ids.tolist()
        if not alignment.vocabulary.special[np.clip(ids, 0, len(alignment.vocabulary) - 1)].any()
        else []
    )


def _decoded(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)) if ids else ""


def _inner(text: str) -> list[int]:
    """The lengths of the runs of spaces inside a text."""
    return [len(run) for run in _runs(text.strip())]


def _runs(text: str) -> list[str]:
    return [run for run in "".join(c if c == " " else "x" for c in text).split("x") if run]
