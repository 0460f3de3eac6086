"""Role markers of chat templates and role scaffolding in plain words, where plain text should be."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from llmguard.checks.data_tally import place, shortened, tallied
from llmguard.contract import row_check
from llmguard.control import CONTROL, ENDS, ROLE_WORDS
from llmguard.findings import Finding, warning
from llmguard.rows import as_rows, texts_in
from llmguard.tally import Tally

__all__ = ["role_markers_are_not_in_the_text"]

MARKERS = tuple(dict.fromkeys((*CONTROL, *ENDS)))
EVERYWHERE, AT_EDGES, LEAST = 0.5, 0.05, 3
"""Markers inside of texts count from this share of the rows; role words at the edges from AT_EDGES, and from LEAST rows."""
ENDS_WITH_ROLE = re.compile(ROLE_WORDS.pattern + r"\s*$")


@row_check
def role_markers_are_not_in_the_text(rows: Any) -> Tally:
    """Prompts and responses are plain: they neither start nor end with role markers (`<|im_start|>`, `### Response:`, `Assistant:`).

    Inside of texts markers count only where most rows have them: text may speak of them.
    """
    source = as_rows(rows)

    def look(record: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, side, text in texts_in(record, source.columns):
            if side != "system":
                for kind, marker in _markers(text.strip()):
                    yield (
                        kind,
                        {
                            "column": name,
                            "marker": marker,
                            "text": shortened(text.strip(), 0 if kind.endswith("start") else len(text) - 100),
                        },
                    )

    return tallied(source, look)


def _markers(text: str) -> Iterator[tuple[str, str]]:
    """(kind, marker): control strings and role words, at the start, the end, or inside."""
    if any(c in text for c in "<[") or "｜" in text:
        found = [m for m in MARKERS if m in text]
        for marker in found:
            if text.startswith(marker):
                yield "control start", marker
            elif text.endswith(marker):
                yield "control end", marker
            else:
                yield "control inside", marker
    if ":" in text:
        start, end = ROLE_WORDS.match(text), ENDS_WITH_ROLE.search(text)
        if start:
            yield "words start", start[0].strip()
        if end:
            yield "words end", end[0].strip()


@role_markers_are_not_in_the_text.explain
def _(tally: Tally) -> Iterator[Finding]:
    for kind, hits in tally.hits.items():
        sort, _, where = kind.partition(" ")
        least = {"inside": EVERYWHERE * tally.looked_at}.get(
            where, AT_EDGES * tally.looked_at if sort == "words" else 0
        )
        if hits.rows < least or (sort == "words" and hits.rows < LEAST):
            continue
        first = hits.examples[0]
        placed = {"start": "start with", "end": "end with", "inside": "hold"}[where]
        yield warning(
            place(first),
            what=f"in {tally.rate(kind)} texts {placed} a role marker: {first['marker']!r} in {first['column']}: {first['text']!r}",
            why="the format adds its own markers: the model sees them twice, and learns to write the user's turn as well",
            cause="data that were rendered with a template before they were stored, or answers copied with the next turn's marker",
            remedy="store plain prompts and responses and let one format add the markers; accept this finding if yours adds none",
            evidence={"rows": list(hits.examples)},
        )
