"""TOML with places: read by the standard parser, and keys looked up in the text for their line."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

from llmguard.configs.document import Document, Item, Path, Problem

if sys.version_info >= (3, 11):
    import tomllib
else:  # the parser came into the standard library with 3.11
    import tomli as tomllib

__all__ = ["read_toml"]

_PART = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
_HEADER = re.compile(rf"\s*\[(\[?)\s*({_PART}(?:\s*\.\s*{_PART})*)\s*\]")
_KEY = re.compile(rf"(\s*)({_PART}(?:\s*\.\s*{_PART})*)\s*=\s*(.*)")
_AT = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)")


def read_toml(text: str) -> Document:
    """A TOML text as items; what the parser refuses (a key given twice, too) is the document's problem."""
    try:
        root = tomllib.loads(text)
    except tomllib.TOMLDecodeError as bad:
        return Document(problem=_problem(str(bad), text), syntax="toml")
    if not root:
        return Document(
            problem=Problem("it is empty", "write the settings of the run into it"), syntax="toml"
        )
    return Document(tuple(_items(root, (), dict(_places(text)))), syntax="toml")


def _problem(message: str, text: str) -> Problem:
    at = _AT.search(message)
    line, column = (
        (int(at[1]), int(at[2]))
        if at and at[1]
        else _second(text)
        if "overwrite" in message
        else (None, None)
    )
    reason = f"the TOML parser stops there: {_AT.sub('', message)}"
    twice = "overwrite" in message or "twice" in message
    remedy = "keep one of the two lines" if twice else "correct the line: a missing quote, bracket or value"
    return Problem(reason, remedy, line, column)


def _second(text: str) -> tuple[int | None, int | None]:
    """The place of the first key that stands twice, which the parser does not tell."""
    seen: set[Path] = set()
    for path, (line, column, _) in _places(text):
        if path in seen:
            return line, column
        seen.add(path)
    return None, None


def _items(value: Any, path: Path, places: dict[Path, tuple[int, int, str]]) -> Iterator[Item]:
    if isinstance(value, dict):
        for name, child in value.items():
            here = (*path, name)
            line, column, text = places.get(here, (None, None, ""))
            yield Item(here, child, line, column, text.strip("\"'"), text.startswith(('"', "'")))
            yield from _items(child, here, places)
    elif isinstance(value, list):
        for n, child in enumerate(value):
            yield from _items(child, (*path, n), places)


def _places(text: str) -> Iterator[tuple[Path, tuple[int, int, str]]]:
    table: Path = ()
    arrays: dict[Path, int] = {}
    closing = ""
    for number, line in enumerate(text.splitlines(), 1):
        if closing:
            closing = "" if closing in line else closing
        elif header := _HEADER.match(line):
            table = _table(header, arrays)
            yield table, (number, line.index("[") + 1, "")
        elif key := _KEY.match(line):
            written = key[3].partition(" #")[0].strip()
            yield (*table, *_parts(key[2])), (number, len(key[1]) + 1, written)
            closing = next((q for q in ('"""', "'''") if written.count(q) == 1), "")


def _table(header: re.Match[str], arrays: dict[Path, int]) -> Path:
    path: Path = _parts(header[2])
    if header[1]:
        arrays[path] = arrays.get(path, -1) + 1
    longest = max((p for p in arrays if path[: len(p)] == p), key=len, default=None)
    return path if longest is None else (*longest, arrays[longest], *path[len(longest) :])


def _parts(dotted: str) -> Path:
    return tuple(part.strip("\"'") for part in re.findall(_PART, dotted))
