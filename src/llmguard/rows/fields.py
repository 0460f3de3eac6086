"""The fields of a row that hold what is said: column or message, who says it, and the value as it is in the file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from llmguard.rows.columns import Columns
from llmguard.rows.turns import ROLES

__all__ = ["Field", "Text", "fields_of", "is_metadata", "messages_of", "texts_in"]

PROMPT, RESPONSE, SYSTEM, OTHER = "prompt", "response", "system", "other"
SIDES = {"user": PROMPT, "tool": OTHER, "assistant": RESPONSE, "system": SYSTEM, "developer": SYSTEM}
BESIDE = ("input", "context")
"""Columns that prompts are built from although the project need not map them (Alpaca)."""
METADATA = re.compile(
    r"(?:.*[_-])?(?:id|ids|uuid|guid|idx|index|hash|key|split|source|src|url|uri|path|file|filename|date|time|timestamp|dataset|license|author"
    r"|category|type|topic|lang|language|level|difficulty|version|score)",
    re.IGNORECASE,
)


class Field(NamedTuple):
    """`name`: where in the row, such as `output` or `messages[2]`; `side`: prompt, response, system or other; `value`: of any type;
    `message`: the message that it is the content of, if it is one."""

    name: str
    side: str
    value: Any
    message: Mapping[str, Any] | None = None


class Text(NamedTuple):
    """A field that is text, or a text part of one."""

    name: str
    side: str
    text: str


def fields_of(row: Mapping[str, Any], columns: Columns) -> Iterator[Field]:
    """What the mapped columns hold, message by message; where none is mapped, every column that is text."""
    if not columns.named:
        yield from (Field(name, OTHER, value) for name, value in row.items() if isinstance(value, str))
    for meaning, column in columns.named.items():
        if column in row:
            side = PROMPT if meaning == "prompt" else RESPONSE
            value = row[column]
            if isinstance(value, (list, tuple)) and (meaning == "messages" or _are_messages(value)):
                yield from _messages(value, column)
            elif meaning != "messages":
                yield Field(column, side, value)
    for column in BESIDE:
        if columns.prompt and column in row and column not in columns.named.values():
            yield Field(column, PROMPT, row[column])


def messages_of(row: Mapping[str, Any], columns: Columns) -> Iterator[tuple[str, Any]]:
    """The columns of a row that hold messages: (column, value), whatever the value is where `messages` is mapped."""
    for meaning, column in columns.named.items():
        if column in row and (meaning == "messages" or _are_messages(row[column])):
            yield column, row[column]


def _are_messages(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and any(
        isinstance(m, Mapping) and ("role" in m or "from" in m) for m in value
    )


def _messages(messages: Any, column: str) -> Iterator[Field]:
    for i, message in enumerate(messages):
        if isinstance(message, Mapping):
            role = message.get("role", message.get("from"))
            side = SIDES.get(ROLES.get(role.strip().lower(), ""), OTHER) if isinstance(role, str) else OTHER
            yield Field(f"{column}[{i}]", side, message.get("content", message.get("value")), message)
        else:
            yield Field(f"{column}[{i}]", OTHER, message)


def texts_in(row: Mapping[str, Any], columns: Columns) -> Iterator[Text]:
    """Every field that is text, parts of a content one by one."""
    for name, side, value, _ in fields_of(row, columns):
        if isinstance(value, str):
            yield Text(name, side, value)
        elif isinstance(value, (list, tuple)):
            for k, part in enumerate(value):
                if isinstance(part, Mapping) and isinstance(part.get("text"), str):
                    yield Text(f"{name}[{k}]", side, part["text"])


def is_metadata(column: str) -> bool:
    """Whether a column, by its name, says something about a row and is no part of what the row says."""
    return METADATA.fullmatch(column) is not None
