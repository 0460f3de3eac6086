"""The host's memory before anything is tokenised: whether the rows fit into it once they are token ids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from llmguard.contract import Yields, check
from llmguard.estimates.interval import Interval, size_text
from llmguard.estimates.machine import host_memory
from llmguard.findings import Finding, Where, note, warning
from llmguard.rows import as_rows, texts_in

if TYPE_CHECKING:
    from llmguard.probe.environment import Environment

__all__ = ["tokenised_rows_fit_in_memory"]

SAMPLE = 200
"""Rows whose tokens are counted."""
ARROW, LISTS = 9, 52
"""Bytes a token takes: ids and labels of 32 bits and a mask of 8 in Arrow; three lists of Python, whose entries are pointers of 8 bytes
and whose ids are objects of 28."""
BYTES_A_TOKEN = Interval(2.0, 6.0)
"""Where no tokenizer is there to count: from scripts that a vocabulary hardly knows to its own English."""


@check
def tokenised_rows_fit_in_memory(
    rows: Any, environment: Environment, tokenizer: Any = None, max_length: int | None = None
) -> Yields:
    """The rows fit into the memory that the container leaves once they are token ids, also where they are kept as Python lists.

    An estimate with an interval: from Arrow's columns to lists of Python. Not even as Arrow: a warning; only as Arrow: a note.
    """
    source, memory = as_rows(rows), host_memory(environment.host)
    if memory is None or not len(source):
        return 0
    tokens = _tokens(source, tokenizer, max_length)
    needed = Interval(tokens.low * ARROW, tokens.high * LISTS)
    if needed.high > memory.free:
        yield from _too_many(len(source), tokens, needed, memory.free, memory.text)
    return len(source)


def _tokens(source: Any, tokenizer: Any, max_length: int | None) -> Interval:
    """The tokens of all rows, by a sample spread over the file."""
    chosen = np.unique(np.linspace(0, len(source) - 1, SAMPLE).astype(int)).tolist()
    texts = ["\n".join(t.text for t in texts_in(source.records[row], source.columns)) for row in chosen]
    if tokenizer is None:
        sizes = np.array([len(text.encode("utf-8", "surrogatepass")) for text in texts])
        counts = [sizes / BYTES_A_TOKEN.high, sizes / BYTES_A_TOKEN.low]
    else:
        whole = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        counts = [np.array([len(ids) for ids in tokenizer(whole)["input_ids"]], dtype=float)] * 2
    low, high = (float(np.minimum(c, max_length or np.inf).mean()) * len(source) for c in counts)
    return Interval(low, high)


def _too_many(rows: int, tokens: Interval, needed: Interval, free: int, text: str) -> Iterator[Finding]:
    counted = f"{tokens.low / 1e6:,.0f}" + (
        f" to {tokens.high / 1e6:,.0f}" if tokens.low < tokens.high else ""
    )
    verdict = "will not fit" if needed.low > free else "tight"
    takes = (
        f"{rows:,} rows make about {counted} million tokens, which take {needed.text} (Arrow to Python lists)"
    )
    what = f"{takes}; there is {text}: {verdict}"
    remedy = "stream the rows, or let `datasets` write them to disk as they are tokenised (`Dataset.map` does, a list does not)"
    evidence = {"verdict": verdict, "low": int(needed.low), "high": int(needed.high), "free": free}
    if verdict == "tight":
        yield note(Where(what="memory"), what=what, remedy=remedy, evidence=evidence)
        return
    yield warning(
        Where(what="memory"),
        what=what,
        why="the kernel kills the run while it tokenises, with SIGKILL and no traceback, after minutes",
        cause="all rows held at once, by a container that may use less than its machine has",
        remedy=remedy,
        expected=f"up to {size_text(free)}",
        actual=needed.text,
        evidence=evidence,
    )
