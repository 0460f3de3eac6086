"""What of a row is compared between splits: what is asked and what is answered, turn by turn; system prompts are left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmguard.rows import Columns, Rows, turns_of

__all__ = ["ANSWERED", "ASKED", "COMPANIONS", "Parts", "companions_of", "part_blocks", "texts_of"]

ASKED, ANSWERED = 0, 1
COMPANIONS = frozenset(
    "input context passage document article sentence premise hypothesis choices options".split()
)
"""Columns that belong to the prompt by custom, though the project maps only one: Alpaca's `input`."""


@dataclass(frozen=True)
class Parts:
    """Texts of some rows: `texts[i]` is asked or answered (`kinds[i]`) in row `rows[i]`. `rows` never falls."""

    texts: list[str]
    rows: list[int]
    kinds: list[int]

    def __len__(self) -> int:
        return len(self.texts)


def part_blocks(rows: Rows, which: Iterable[int], size: int) -> Iterator[Parts]:
    """The compared texts of the rows `which`, in blocks of whole rows of about `size` characters."""
    block, held = Parts([], [], []), 0
    plain = None if rows.columns.preference else (rows.columns.prompt, rows.columns.response)
    for row in which:
        for kind, text in _texts(rows.records[row], rows.columns, plain):
            block.texts.append(text)
            block.rows.append(row)
            block.kinds.append(kind)
            held += len(text) + 1
        if held >= size:
            yield block
            block, held = Parts([], [], []), 0
    if len(block):
        yield block


def texts_of(record: Mapping[str, Any], columns: Columns) -> Sequence[tuple[int, str]]:
    """What a row asks and answers, as (ASKED or ANSWERED, text); a row of plain text (`text`) asks it."""
    return _texts(record, columns, None if columns.preference else (columns.prompt, columns.response))


def _texts(
    record: Mapping[str, Any], columns: Columns, plain: tuple[str | None, str | None] | None
) -> Sequence[tuple[int, str]]:
    """As `texts_of`; `plain`: the columns of prompt and response, None for preference pairs."""
    asked = record.get(plain[0]) if plain and plain[0] else None
    if isinstance(asked, str):
        answered = record.get(plain[1]) if plain and plain[1] else None
        if isinstance(answered, str):
            return [(ASKED, asked), *_beside(record, columns), (ANSWERED, answered)]
    turns = turns_of(record, columns)
    if turns is not None:
        said = [(ANSWERED if t.role == "assistant" else ASKED, t) for t in turns]
        return [(kind, t.content) for kind, t in said if t.role not in ("system", "developer")]
    alone = asked if columns.prompt else record.get("text")
    return [(ASKED, alone), *_beside(record, columns)] if isinstance(alone, str) else []


def _beside(record: Mapping[str, Any], columns: Columns) -> list[tuple[int, str]]:
    if COMPANIONS.isdisjoint(record):
        return []
    return [(ASKED, text) for text in companions_of(record, columns).values()]


def companions_of(record: Mapping[str, Any], columns: Columns) -> dict[str, str]:
    """Texts beside the mapped columns that belong to the prompt: column -> text."""
    mapped = set(columns.named.values())
    found = {
        name: _as_text(value) for name, value in record.items() if name in COMPANIONS and name not in mapped
    }
    return {name: found[name] for name in sorted(found) if found[name]}


def _as_text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(str(each) for each in value)
    return value if isinstance(value, str) else ""
