"""Shared by the checks that judge tokens of encoded rows: from token masks to tallies, and the words of their findings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmguard.alignment import Alignment, align, window
from llmguard.encoded import Encoded, as_encoded
from llmguard.findings import Where
from llmguard.formats import Kind
from llmguard.ragged import Ints
from llmguard.rows import Rows, as_rows
from llmguard.tally import FIRST, Hits, Tally

__all__ = [
    "aligned",
    "evidence_of",
    "first_where",
    "hits",
    "last_turn",
    "masks_tally",
    "names_of",
    "of_trained_turns",
    "per_token",
    "row_hits",
]


def hits(
    encoded: Encoded, rows: Rows | None, wrong: NDArray[np.bool_], alignment: Alignment | None = None
) -> Hits:
    """Rows with tokens where the flat mask `wrong` holds: counts, and a window of tokens around the first place of the first rows."""
    per_row = encoded.input_ids.count(wrong)
    bad = np.flatnonzero(per_row)
    examples = []
    for row in bad[:FIRST].tolist():
        start = int(encoded.input_ids.offsets[row])
        token = int(np.argmax(wrong[start : int(encoded.input_ids.offsets[row + 1])]))
        examples.append(
            _example(
                encoded,
                rows,
                row,
                token=token,
                wrong=int(per_row[row]),
                tokens=window(encoded, alignment, row, token),
            )
        )
    return Hits(len(bad), int(per_row.sum()), tuple(examples))


def row_hits(
    encoded: Encoded,
    rows: Rows | None,
    bad: NDArray[np.bool_],
    alignment: Alignment | None = None,
    **more: Ints,
) -> Hits:
    """Rows where the row mask `bad` holds; `more`: int64 [rows] arrays whose values the examples carry. Windows show the row's end."""
    found = np.flatnonzero(bad)
    examples = []
    for row in found[:FIRST].tolist():
        last = len(encoded.input_ids[row]) - 1
        shown = {name: int(values[row]) for name, values in more.items()}
        examples.append(
            _example(
                encoded,
                rows,
                row,
                tokens=window(encoded, alignment, row, last, around=10) if last >= 0 else [],
                **shown,
            )
        )
    return Hits(len(found), len(found), tuple(examples))


def _example(encoded: Encoded, rows: Rows | None, row: int, **more: Any) -> dict[str, Any]:
    source = int(encoded.source[row])
    if rows is not None and source >= 0:
        return rows.example(source, **more)
    return {"file": encoded.name, "row": source if source >= 0 else row, **more}


def masks_tally(encoded: Encoded, looked_at: int, **kinds: Hits) -> Tally:
    """A tally that remembers what the rows are called."""
    return Tally(looked_at, kinds, {"tokens": len(encoded.input_ids.values), "rows": len(encoded)})


def first_where(found: Hits) -> Where:
    """Where the first example is."""
    if not found.examples:
        return Where()
    first = found.examples[0]
    token = first.get("token")
    span = (token, token) if isinstance(token, int) else None
    return Where(file=first.get("file"), line=first.get("line"), row=first.get("row"), tokens=span)


def names_of(found: Hits) -> str:
    """`rows 3, 7, 12 and 11 more`."""
    shown = [str(e.get("row")) for e in found.examples]
    more = found.rows - len(shown)
    return f"row{'s' if found.rows != 1 else ''} {', '.join(shown)}" + (
        f" and {more:,} more" if more > 0 else ""
    )


def evidence_of(found: Hits) -> dict[str, Any]:
    """The first rows and the tokens around the first place, for reports."""
    rows = [{k: v for k, v in e.items() if k != "tokens"} for e in found.examples]
    tokens = found.examples[0].get("tokens", []) if found.examples else []
    return {"rows": rows, "tokens": tokens, "count": found.rows}


def aligned(encoded: Any, rows: Any, tokenizer: Any, template: Any) -> tuple[Encoded, Rows, Alignment]:
    """Encoded rows, their source rows, and what every token is for."""
    found, source = as_encoded(encoded), as_rows(rows)
    return found, source, align(found, source, tokenizer, template)


def per_token(encoded: Encoded, of_rows: Any) -> Any:
    """An array of [rows] repeated for every token: [tokens]."""
    return np.repeat(of_rows, encoded.input_ids.lengths)


def last_turn(encoded: Encoded, alignment: Alignment) -> Any:
    """Tokens of the last response of their row: bool [tokens]."""
    return alignment.turn == per_token(encoded, (alignment.responses - 1).astype(alignment.turn.dtype))


def of_trained_turns(tokens: NDArray[np.bool_], encoded: Encoded, alignment: Alignment) -> NDArray[np.bool_]:
    """Those of some tokens that lie in a turn of which some response token is trained: bool [tokens]."""
    found = np.zeros(len(tokens), dtype=bool)
    for rows, part in encoded.input_ids.parts():
        if not tokens[part].any():  # the usual answer
            continue
        turn = alignment.turn[part].astype(np.int64)
        width = int(turn.max(initial=0)) + 2
        row = np.repeat(np.arange(rows.stop - rows.start), encoded.input_ids.lengths[rows])
        key, kind = row * width + turn + 1, alignment.kind[part]
        counts = encoded.trained[part] & ((kind == Kind.RESPONSE) | (kind == Kind.STRADDLE))
        counted = np.bincount(key[counts], minlength=(rows.stop - rows.start) * width)
        found[part] = tokens[part] & (counted[key] > 0) & (turn >= 0)
    return found
