"""Names that are used before they are set, or never set: found by ruff, confirmed on the syntax tree."""

from __future__ import annotations

import ast
import importlib
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmguard.configs.nearest import nearest
from llmguard.sources.read import SourceFile, Sources

__all__ = ["Undefined", "find_ruff", "undefined_names"]

_SECONDS = 60
_AT_ONCE = 400
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_INJECTED = '["get_ipython", "display", "dbutils", "spark", "reveal_type"]'
"""Names that notebooks and type checkers put there."""


@dataclass(frozen=True)
class Undefined:
    """One use of a name that has no value there.

    `set_at`: the line where the same scope sets it later; `certain` is False where a guard, a loop or `globals()` may save it;
    `in_annotation`: only a type hint names it; `near`: a name that is set and spelt alike; `rule`: ruff's code.
    """

    file: str
    line: int
    column: int
    name: str
    set_at: int | None
    certain: bool
    in_annotation: bool
    near: str | None
    rule: str = ""


def find_ruff() -> str | None:
    """The ruff executable of this environment, else of the PATH; None where there is none."""
    beside = Path(sys.executable).with_name("ruff")
    if beside.is_file():
        return str(beside)
    try:
        return str(importlib.import_module("ruff").find_ruff_bin())
    except (ImportError, AttributeError, FileNotFoundError):
        return shutil.which("ruff")


def undefined_names(sources: Sources, ruff: str) -> Iterator[Undefined]:
    """Every use of an undefined name in the parsed files, in file order."""
    files = {str(file.path.resolve()): file for file in sources.parsed}
    paths = list(files)
    for start in range(0, len(paths), _AT_ONCE):
        for found in _run(ruff, paths[start : start + _AT_ONCE]):
            file = files.get(str(Path(found["filename"]).resolve()))
            name = _quoted(str(found["message"]))
            if file is not None and name:
                place = found["location"]
                confirmed = _confirm(file, name, int(place["row"]), int(place["column"]))
                if confirmed is not None:
                    yield replace(confirmed, rule=str(found["code"]))


def _run(ruff: str, paths: Sequence[str]) -> list[dict[str, Any]]:
    version = min(sys.version_info[:2], (3, 13))
    command = [
        ruff, "check", "--isolated", "--no-cache", "--exit-zero", "--output-format", "json", "--select", "F821,F823",
        "--target-version", f"py{version[0]}{version[1]}", "--config", f"builtins={_INJECTED}", "--", *paths,
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, timeout=_SECONDS, check=False, stdin=subprocess.DEVNULL
    )
    return [found for found in json.loads(done.stdout or b"[]") if found.get("code") in ("F821", "F823")]


def _quoted(message: str) -> str | None:
    parts = message.split("`")
    return parts[1] if len(parts) > 2 else None


def _confirm(file: SourceFile, name: str, line: int, column: int) -> Undefined | None:
    """The finding with what the syntax tree says of it; None for names that stand only in a text (a quoted annotation)."""
    tree = file.tree
    chain = _chain_to(tree, name, line, column) if tree is not None else []
    if not chain or tree is None:
        return None
    scope = next(
        (n for n in reversed(chain) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))),
        tree,
    )
    later = _set_at(scope, name)
    loops = [n for n in chain if isinstance(n, (ast.For, ast.While, ast.AsyncFor))]
    saved = (
        any(_set_at(loop, name) is not None for loop in loops) or _is_guarded(chain) or _writes_globals(tree)
    )
    others = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    later = later if later is not None and later > line else None
    return Undefined(
        file.name,
        line,
        column,
        name,
        later,
        not saved,
        _in_annotation(chain),
        nearest(name, others - {name}, 0.75),
    )


def _chain_to(tree: ast.AST, name: str, line: int, column: int) -> list[ast.AST]:
    """The nodes from the module down to the use of the name; empty where no such name stands there."""
    for child in ast.iter_child_nodes(tree):
        if (
            isinstance(child, ast.Name)
            and child.id == name
            and child.lineno == line
            and _columns(child, column)
        ):
            return [tree, child]
        end = getattr(child, "end_lineno", None)
        if end is None or getattr(child, "lineno", 0) - _decorators(child) <= line <= end:
            below = _chain_to(child, name, line, column)
            if below:
                return [tree, *below]
    return []


def _columns(node: ast.Name, column: int) -> bool:
    """Ruff counts characters from 1, the tree counts bytes from 0: wide characters before the name move it to the right."""
    return node.col_offset >= column - 1


def _decorators(node: ast.AST) -> int:
    lines = [d.lineno for d in getattr(node, "decorator_list", [])]
    return getattr(node, "lineno", 0) - min(lines) if lines else 0


def _set_at(scope: ast.AST, name: str) -> int | None:
    """The first line of a scope that sets a name; what functions inside it set is theirs."""
    for node in _own_nodes(scope):
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store):
            return node.lineno
        if isinstance(node, _SCOPES) and getattr(node, "name", "") == name:
            return node.lineno
    return None


def _own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(scope):
        yield child
        if not isinstance(child, _SCOPES):
            yield from _own_nodes(child)


def _is_guarded(chain: list[ast.AST]) -> bool:
    """Whether the use stands in a `try` that handles a NameError."""
    for node in chain:
        if isinstance(node, ast.Try):
            for handler in node.handlers:
                caught = ast.unparse(handler.type) if handler.type is not None else "Exception"
                if any(word in caught for word in ("NameError", "Exception")):
                    return True
    return False


def _writes_globals(tree: ast.AST) -> bool:
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("globals", "exec", "locals", "vars")
        for node in ast.walk(tree)
    )


def _in_annotation(chain: list[ast.AST]) -> bool:
    for above, node in itertools.pairwise(chain):
        if isinstance(above, (ast.AnnAssign, ast.arg)) and node is above.annotation:
            return True
        if isinstance(above, (ast.FunctionDef, ast.AsyncFunctionDef)) and node is above.returns:
            return True
    return False
