"""YAML with places: read as `yaml.safe_load` reads it, and every key remembered with line, column and spelling."""

from __future__ import annotations

from typing import Any

import yaml

from llmguard.configs.document import OPAQUE, Document, Duplicate, Item, Path, Problem, dotted

__all__ = ["read_yaml"]

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MOST = 50_000
"""Nodes in one file, aliases expanded; more is an alias bomb and no config."""
_MERGE = "tag:yaml.org,2002:merge"


class _TooLarge(Exception):
    """The file refers to itself, or expands to more than a config can hold."""


def read_yaml(text: str) -> Document:
    """A YAML text as items; what the parser refuses is the document's problem."""
    try:
        root = yaml.compose(text, Loader=_LOADER)
        return _Reader().read(root)
    except yaml.MarkedYAMLError as bad:
        return Document(problem=_problem(bad, text), syntax="yaml")
    except yaml.YAMLError as bad:  # a character that YAML does not allow: no mark, but a position
        return Document(problem=_position(text, bad), syntax="yaml")
    except (_TooLarge, RecursionError):
        reason = f"it refers to itself by an alias, or expands to more than {_MOST:,} values"
        return Document(
            problem=Problem(reason, "write the values out instead of using aliases"), syntax="yaml"
        )


class _Reader:
    """One pass over the node tree of one file."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.duplicates: list[Duplicate] = []
        self.construct = yaml.constructor.SafeConstructor()
        self.seen = 0

    def read(self, root: Any) -> Document:
        if root is None:
            return Document(
                problem=Problem("it is empty", "write the settings of the run into it"), syntax="yaml"
            )
        if not isinstance(root, yaml.MappingNode):
            reason = "it holds a list" if isinstance(root, yaml.SequenceNode) else "it holds one value"
            problem = Problem(
                f"{reason} where keys with values are expected", "write `key: value` lines", 1, 1
            )
            return Document(problem=problem, syntax="yaml")
        self.mapping(root, ())
        return Document(tuple(self.items), tuple(self.duplicates), syntax="yaml")

    def mapping(self, node: Any, path: Path) -> dict[str, Any]:
        pairs = self.pairs(node, path)
        return {str(name): self.entry(name, key, value, path) for name, (key, value) in pairs.items()}

    def pairs(self, node: Any, path: Path) -> dict[str, tuple[Any, Any]]:
        """The pairs of a mapping, what it merges by `<<` first; a key given twice is remembered."""
        own: dict[str, tuple[Any, Any]] = {}
        merged: dict[str, tuple[Any, Any]] = {}
        for key, value in node.value:
            if key.tag == _MERGE:
                for base in [value] if isinstance(value, yaml.MappingNode) else reversed(value.value):
                    self.count()
                    merged.update(self.pairs(base, path))
                continue
            name = str(self.scalar(key)) if isinstance(key, yaml.ScalarNode) else "?"
            if name in own:
                self.duplicate(name, own[name], (key, value), path)
            own[name] = (key, value)
        return {**merged, **own}

    def duplicate(self, name: str, first: tuple[Any, Any], second: tuple[Any, Any], path: Path) -> None:
        values = (_spelt(first[1]), _spelt(second[1]))
        start, again = first[0].start_mark, second[0].start_mark
        found = Duplicate(dotted((*path, name)), start.line + 1, again.line + 1, again.column + 1, values)
        if found not in self.duplicates:
            self.duplicates.append(found)

    def entry(self, name: str, key: Any, value: Any, path: Path) -> Any:
        here = (*path, name)
        place = len(self.items)
        found = self.value(value, here)
        mark, text = key.start_mark, value.value if isinstance(value, yaml.ScalarNode) else ""
        quoted = isinstance(value, yaml.ScalarNode) and value.style in ("'", '"')
        self.items.insert(place, Item(here, found, mark.line + 1, mark.column + 1, text, quoted))
        return found

    def value(self, node: Any, path: Path) -> Any:
        self.count()
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*path, n)) for n, child in enumerate(node.value)]
        return self.scalar(node)

    def scalar(self, node: Any) -> Any:
        try:
            return self.construct.construct_object(node)
        except (yaml.YAMLError, ValueError, OverflowError):
            return OPAQUE

    def count(self) -> None:
        self.seen += 1
        if self.seen > _MOST:
            raise _TooLarge


def _spelt(node: Any) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else "…"


def _problem(bad: yaml.MarkedYAMLError, text: str) -> Problem:
    mark = bad.problem_mark or bad.context_mark
    parts = [part for part in (bad.context, bad.problem) if part]
    reason = f"the YAML parser stops there: {', '.join(parts)}"
    line = text.splitlines()[mark.line] if mark and mark.line < len(text.splitlines()) else ""
    remedy = _remedy(bad.problem or "", line)
    return Problem(reason, remedy, mark.line + 1 if mark else None, mark.column + 1 if mark else None)


def _remedy(problem: str, line: str) -> str:
    if line.startswith("\t"):
        return "indent with spaces: YAML allows no tab there"
    if "another document" in problem:
        return "keep one document in the file: remove the second `---`"
    return "correct the line, or the one before it: a missing colon, quote or bracket, or another indentation"


def _position(text: str, bad: yaml.YAMLError) -> Problem:
    at = getattr(bad, "position", None)
    line = text.count("\n", 0, at) + 1 if isinstance(at, int) else None
    column = at - (text.rfind("\n", 0, at) + 1) + 1 if isinstance(at, int) else None
    return Problem("it holds a character that YAML does not allow", "remove the character", line, column)
