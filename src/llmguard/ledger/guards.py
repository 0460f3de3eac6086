"""Guards that are no checks: dotted names of what stops a bug while code runs, looked up in sources; nothing is imported."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

__all__ = ["guard_exists"]


def guard_exists(name: str) -> bool:
    """Whether an installed module defines `package.module.name`, or imports it for others to use.

    A method is told by its class alone: what follows a name that was found is not looked up.
    """
    package, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(package)  # of a package without dots: it is looked up, not imported
    except ValueError:  # a module made by hand, without a specification
        return False
    return bool(rest) and spec is not None and spec.origin is not None and _defined(Path(spec.origin), rest)


def _defined(file: Path, rest: list[str]) -> bool:
    head = rest[0]
    if head in set(_names(file)):
        return True
    if file.name != "__init__.py":
        return False
    inner = next(
        (each for each in (file.parent / f"{head}.py", file.parent / head / "__init__.py") if each.is_file()),
        None,
    )
    return inner is not None and (len(rest) == 1 or _defined(inner, rest[1:]))


def _names(file: Path) -> Iterator[str]:
    """What a module defines or imports outside of functions and classes, under `if` and `try` too."""
    try:
        nodes: list[ast.AST] = [*ast.parse(file.read_text("utf-8")).body]
    except (OSError, SyntaxError, ValueError):
        return
    while nodes:
        node = nodes.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.ImportFrom, ast.Import)):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        else:
            nodes += ast.iter_child_nodes(node)
