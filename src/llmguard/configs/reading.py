"""A config file from disk: found, decoded, parsed; whatever goes wrong is a problem with its place and its remedy."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from llmguard.configs.document import Document, Problem

__all__ = ["SYNTAXES", "has_yaml", "read_document"]

SYNTAXES = {".yaml": "yaml", ".yml": "yaml", ".json": "json", ".toml": "toml"}
_LARGEST = 2_000_000
"""Bytes; a larger file is data, no config."""


def has_yaml() -> bool:
    """Whether PyYAML is installed."""
    return importlib.util.find_spec("yaml") is not None


def read_document(path: Path) -> Document:
    """A config file as items; a file without a known ending is tried as JSON, then as YAML."""
    syntax = SYNTAXES.get(path.suffix.lower())
    if path.suffix == ".py":
        remedy = 'name it in `[environment] sources = ["…"]` instead: Python files are checked there'
        return Document(problem=Problem("it is a Python file, not a config in YAML, JSON or TOML", remedy))
    text = _text(path)
    if isinstance(text, Problem):
        return Document(problem=text, syntax=syntax or "")
    if syntax:
        return _reader(syntax)(text)
    document = _reader("json")(text)
    return document if document.problem is None else _reader("yaml")(text)


def _reader(syntax: str) -> Callable[[str], Document]:
    if syntax == "json":
        from llmguard.configs.json_text import read_json

        return read_json
    if syntax == "toml":
        from llmguard.configs.toml_text import read_toml

        return read_toml
    from llmguard.configs.yaml_text import read_yaml

    return read_yaml


def _text(path: Path) -> str | Problem:
    try:
        if path.stat().st_size > _LARGEST:
            size = path.stat().st_size / 1e6
            return Problem(
                f"it has {size:,.1f} MB, more than any config", "name data files under `[data]` instead"
            )
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as bad:
        before = path.read_bytes()[: bad.start]
        line, column = before.count(b"\n") + 1, bad.start - (before.rfind(b"\n") + 1) + 1
        return Problem(f"it is not UTF-8: byte {bad.start}", "save it as UTF-8", line, column)
    except IsADirectoryError:
        return Problem("it is a folder", "name the files in it")
    except OSError as bad:
        return Problem(
            f"it cannot be read: {bad.strerror or bad}", "give the user who trains the right to read it"
        )
