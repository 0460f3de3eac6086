"""The settings a training library knows, read from its installed sources without importing it.

Only the field lines of the classes are parsed, so that TrainingArguments costs milliseconds where importing it costs seconds.
"""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import importlib.util
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = [
    "Field",
    "Library",
    "folder_of",
    "read_class_fields",
    "read_enum",
    "scan_class_fields",
    "version_of",
]

_KINDS = {"int": "int", "float": "float", "bool": "bool", "str": "text", "dict": "mapping", "list": "list"}
_CONTAINERS = {
    "list": "list",
    "List": "list",
    "Sequence": "list",
    "tuple": "list",
    "dict": "mapping",
    "Dict": "mapping",
}
_MISSING = object()
_WORDS = {"None": None, "True": True, "False": False}
_CLASS = re.compile(r"^class (\w+)[^\n]*\n", re.MULTILINE)
_METHOD = re.compile(r"^(?:    (?:@|def )|class |@|def )", re.MULTILINE)
_DOCSTRING = re.compile(r'^\s*[rR]?"""(?:.|\n)*?"""')
_FIELD = re.compile(r"^    ([a-z]\w*): ([^\n=]+?) = (.*)$", re.MULTILINE)
_DEFAULT = re.compile(r"""\bdefault=("[^"\n]*"|'[^'\n]*'|[\w.+-]+)""")


@dataclass(frozen=True)
class Field:
    """One setting of a library: what its annotation admits (`int`, `float`, `bool`, `text`, `list`, `mapping`, `other`)."""

    name: str
    kinds: frozenset[str]
    optional: bool = False
    default: Any = None

    @property
    def is_number(self) -> bool:
        """Whether only numbers are admitted."""
        return bool(self.kinds) and self.kinds <= {"int", "float"}

    @property
    def is_bool(self) -> bool:
        """Whether only true and false are admitted."""
        return self.kinds == {"bool"}


@dataclass(frozen=True)
class Library:
    """The settings of one library in one version; `installed` tells whether they were read here or come from a table."""

    name: str
    version: str
    fields: dict[str, Field]
    installed: bool = True
    removed: frozenset[str] = frozenset()
    choices: dict[str, frozenset[str]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """`transformers 5.23.0 (installed here)`."""
        return f"{self.name} {self.version} ({'installed here' if self.installed else 'our table: it is not installed here'})"


@functools.cache
def folder_of(package: str) -> Path | None:
    """The folder of an installed package, found without importing it (nor anything of it)."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    places = list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0]) if places else None


def version_of(distribution: str) -> str:
    """The installed version of a distribution; `unknown` where it has no metadata."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def read_class_fields(file: Path, classes: Iterable[str] | None = None) -> dict[str, Field]:
    """The annotated fields of classes of a Python file (all its classes by default); empty where there is no such file."""
    wanted = None if classes is None else set(classes)
    found: dict[str, Field] = {}
    for node in _parsed(_source(file)):
        if isinstance(node, ast.ClassDef) and (wanted is None or node.name in wanted):
            found.update(_fields(node))
    return found


def scan_class_fields(file: Path, *classes: str) -> dict[str, Field]:
    """As `read_class_fields`, for sources that keep each field's annotation on one line: by pattern, a tenth of the time."""
    source = _source(file)
    found: dict[str, Field] = {}
    for head in _CLASS.finditer(source):
        if not classes or head[1] in classes:
            method = _METHOD.search(source, head.end())
            body = source[head.end() : method.start() if method else len(source)]
            found.update(_scan(_DOCSTRING.sub("", body, count=1)))
    return found


def _scan(body: str) -> dict[str, Field]:
    lines = list(_FIELD.finditer(body))
    found: dict[str, Field] = {}
    for n, line in enumerate(lines):
        end = lines[n + 1].start() if n + 1 < len(lines) else len(body)
        given = _DEFAULT.search(body, line.start(3), end) if line[3].startswith("field(") else None
        default = _literal(given[1] if given else "" if line[3].startswith("field(") else line[3])
        kinds = _kinds_of_text(line[2])
        found[line[1]] = _field(line[1], kinds, default)
    return found


def _field(name: str, kinds: frozenset[str], default: Any) -> Field:
    optional = "none" in kinds or default is None
    return Field(name, kinds - {"none"}, optional, None if default is _MISSING else default)


def _literal(text: str) -> Any:
    """A default that is written out; the plain ones without the parser, which would be most of the time spent here."""
    if not text:
        return _MISSING
    if text in _WORDS:
        return _WORDS[text]
    if text[0] in "\"'" and text[-1] == text[0] and "\\" not in text and text.count(text[0]) == 2:
        return text[1:-1]
    try:
        return int(text) if text.isdigit() else ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError):
        return _MISSING


def read_enum(file: Path, name: str) -> frozenset[str]:
    """The string values of an Enum class of a Python file."""
    body = re.search(rf"^class {name}\b[^\n]*\n((?:[ \t][^\n]*\n|\n)*)", _source(file), re.MULTILINE)
    return frozenset(
        re.findall(r"^    [A-Z][A-Z0-9_]*\s*=\s*[\"']([^\"']+)[\"']", body[1] if body else "", re.MULTILINE)
    )


@functools.lru_cache(maxsize=8)
def _source(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _parsed(source: str) -> list[ast.stmt]:
    try:
        return ast.parse(source).body
    except (SyntaxError, ValueError):
        return []


def _fields(body: ast.ClassDef) -> dict[str, Field]:
    found: dict[str, Field] = {}
    for line in body.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.target.id[0] != "_":
            name = line.target.id
            found[name] = _field(name, frozenset(_kinds(line.annotation)), _default(line.value))
    return found


def _kinds(node: ast.expr) -> set[str]:
    if isinstance(node, ast.BinOp):
        return _kinds(node.left) | _kinds(node.right)
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return set(_kinds_of_text(node.value))
        return {"none"} if node.value is None else {"other"}
    if isinstance(node, ast.Name):
        return {_KINDS.get(node.id, _CONTAINERS.get(node.id, "other"))}
    return _subscripted(node) if isinstance(node, ast.Subscript) else {"other"}


@functools.cache
def _kinds_of_text(annotation: str) -> frozenset[str]:
    try:
        return frozenset(_kinds(ast.parse(annotation, mode="eval").body))
    except SyntaxError:
        return frozenset({"other"})


def _subscripted(node: ast.Subscript) -> set[str]:
    outer = node.value.id if isinstance(node.value, ast.Name) else getattr(node.value, "attr", "")
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if outer == "Optional":
        return _kinds(inner[0]) | {"none"}
    if outer == "Union":
        return set().union(*(_kinds(part) for part in inner))
    if outer == "Annotated":
        return _kinds(inner[0])
    if outer == "Literal":
        values = [getattr(part, "value", None) for part in inner]
        return {"bool" if isinstance(v, bool) else "text" if isinstance(v, str) else "other" for v in values}
    return {_CONTAINERS.get(outer, "other")}


def _default(node: ast.expr | None) -> Any:
    if isinstance(node, ast.Call):
        node = next((k.value for k in node.keywords if k.arg == "default"), None)
    try:
        return _MISSING if node is None else ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        return _MISSING
