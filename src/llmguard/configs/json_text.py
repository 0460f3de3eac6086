"""JSON with places: read as `json.loads` reads it, and every key remembered with line and column."""

from __future__ import annotations

import bisect
import json
import re
from typing import Any

from llmguard.configs.document import Document, Duplicate, Item, Path, Problem, dotted

__all__ = ["read_json"]

_SPACE = re.compile(r"[ \t\n\r]*")


def read_json(text: str) -> Document:
    """A JSON text as items; what the parser refuses is the document's problem."""
    try:
        root = json.loads(text)
    except json.JSONDecodeError as bad:
        problem = Problem(
            f"the JSON parser stops there: {bad.msg}", _remedy(text, bad), bad.lineno, bad.colno
        )
        return Document(problem=problem, syntax="json")
    except RecursionError:
        return Document(problem=Problem("it is nested too deeply", "write a flat config"), syntax="json")
    if not isinstance(root, dict):
        problem = Problem("it holds no object", 'write an object: {"key": value, …}', 1, 1)
        return Document(problem=problem, syntax="json")
    return _Walker(text).read()


class _Walker:
    """A walk over a text that is known to be valid JSON."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.decode = json.JSONDecoder().raw_decode
        self.starts = [0, *(m.end() for m in re.finditer("\n", text))]
        self.items: list[Item] = []
        self.duplicates: list[Duplicate] = []

    def read(self) -> Document:
        self.value(self.skip(0), ())
        return Document(tuple(self.items), tuple(self.duplicates), syntax="json")

    def skip(self, at: int) -> int:
        found = _SPACE.match(self.text, at)
        return found.end() if found else at

    def value(self, at: int, path: Path) -> tuple[Any, int]:
        if self.text[at] == "{":
            return self.object(at, path)
        if self.text[at] == "[":
            return self.array(at, path)
        return self.decode(self.text, at)

    def object(self, at: int, path: Path) -> tuple[dict[str, Any], int]:
        found: dict[str, Any] = {}
        lines: dict[str, int] = {}
        at = self.skip(at + 1)
        while self.text[at] != "}":
            line, column = self.place(at)
            name, at = self.decode(self.text, at)
            here, slot, start = (*path, name), len(self.items), self.skip(self.skip(at) + 1)
            value, at = self.value(start, here)
            written = self.text[start:at] if not isinstance(value, (dict, list)) else ""
            self.items.insert(
                slot, Item(here, value, line, column, written.strip('"'), written.startswith('"'))
            )
            if name in found:
                self.duplicates.append(
                    Duplicate(dotted(here), lines[name], line, column, (found[name], value))
                )
                self.items = [i for n, i in enumerate(self.items) if n >= slot or i.path[: len(here)] != here]
            found[name], lines[name] = value, line
            at = self.skip(at)
            at = self.skip(at + 1) if self.text[at] == "," else at
        return found, at + 1

    def array(self, at: int, path: Path) -> tuple[list[Any], int]:
        found: list[Any] = []
        at = self.skip(at + 1)
        while self.text[at] != "]":
            value, at = self.value(at, (*path, len(found)))
            found.append(value)
            at = self.skip(at)
            at = self.skip(at + 1) if self.text[at] == "," else at
        return found, at + 1

    def place(self, at: int) -> tuple[int, int]:
        line = bisect.bisect_right(self.starts, at)
        return line, at - self.starts[line - 1] + 1


def _remedy(text: str, bad: json.JSONDecodeError) -> str:
    rest = text[bad.pos : bad.pos + 2]
    if rest.startswith(("//", "/*", "#")):
        return "remove the comment: JSON has none"
    if bad.msg.startswith(("Expecting property name", "Illegal trailing comma")) and rest[:1] in (
        "}",
        ",",
        "'",
    ):
        return "remove the comma before the closing bracket, and write keys in double quotes"
    if bad.msg.startswith("Extra data"):
        return "keep one object in the file (a data file with one object a line belongs under `[data]`)"
    return "correct the line, or the one before it: a missing comma, quote or bracket"
