"""Row by row over a split: what each row shows is counted by kind, with the first rows of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from llmguard.findings import Where
from llmguard.rows import Rows
from llmguard.tally import FIRST, Hits, Tally

__all__ = ["Look", "place", "shortened", "tallied"]

Look = Callable[[Mapping[str, Any]], Iterator[tuple[str, dict[str, Any]]]]
"""A row to what it shows: (kind, what to tell about it)."""
SHOWN = 120


def tallied(rows: Rows, look: Look) -> Tally:
    """Look at every row; a row counts once for each kind."""
    counts: dict[str, tuple[int, int, list[dict[str, Any]]]] = {}
    for row, record in enumerate(rows.records):
        shown: dict[str, list[dict[str, Any]]] = {}
        for kind, more in look(record):
            shown.setdefault(kind, []).append(more)
        for kind, things in shown.items():
            hit, found, examples = counts.get(kind, (0, 0, []))
            if len(examples) < FIRST:
                examples.append(rows.example(row, **things[0]))
            counts[kind] = hit + 1, found + len(things), examples
    return Tally(
        len(rows), {kind: Hits(n, things, tuple(first)) for kind, (n, things, first) in counts.items()}
    )


def place(example: Mapping[str, Any]) -> Where:
    """Where an example of a tally is."""
    file = example.get("file")
    return Where(
        file=file,
        line=example.get("line"),
        row=example.get("row"),
        column=example.get("column"),
        what=None if file else "rows",
    )


def shortened(text: str, start: int = 0, stop: int | None = None) -> str:
    """A piece of text around `start` to `stop`, short enough for a message and without control characters."""
    stop = len(text) if stop is None else stop
    lo = max(0, start - SHOWN // 4)
    hi = max(min(len(text), lo + SHOWN), min(stop, lo + 2 * SHOWN))
    piece = f"{'…' if lo else ''}{text[lo:hi]}{'…' if hi < len(text) else ''}"
    return "".join(c if c.isprintable() or c == " " else " " if c in "\n\t\r" else "\ufffd" for c in piece)
