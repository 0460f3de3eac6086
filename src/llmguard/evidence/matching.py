"""Find the source row of encoded rows whose order is not known: by their text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from llmguard.encoded import Encoded
from llmguard.rows import Rows
from llmguard.vocabulary import Vocabulary, vocabulary_of

__all__ = ["matched"]

KEY = 24
"""Bytes of a content that rows are looked up by before they are compared whole."""


def matched(encoded: Encoded, rows: Rows, tokenizer: Any, template: Any) -> Encoded:
    """The encoded rows with `source` set to the row whose contents they hold; -1 where none does."""
    vocabulary = vocabulary_of(tokenizer)
    contents = [_contents(rows, r, vocabulary) for r in range(len(rows))]
    index: dict[bytes, list[int]] = {}
    for row, parts in enumerate(contents):
        for part in parts[:2]:
            index.setdefault(part[:KEY], []).append(row)
    sizes = sorted({len(k) for k in index if k}, reverse=True)
    source = [_find(vocabulary.bytes_of(ids), contents, index, sizes) for ids in encoded.input_ids]
    return replace(encoded, source=np.asarray(source, dtype=np.int64))


def _contents(rows: Rows, row: int, vocabulary: Vocabulary) -> list[bytes]:
    return [vocabulary.text_as_bytes(t.content.strip()) for t in rows.turns[row] or () if t.content.strip()]


def _find(text: bytes, contents: list[list[bytes]], index: dict[bytes, list[int]], sizes: list[int]) -> int:
    """The row with the most of its contents in the text; a row counts only if its first content (or a cut of it) is there."""
    best, found = 0, -1
    for size in sizes:
        for at in range(len(text) - size + 1):
            for row in index.get(text[at : at + size], ()):
                held = sum(len(c) for c in contents[row] if c in text)
                if held > best:
                    best, found = held, row
        if found >= 0 and size >= KEY:
            break
    return found
