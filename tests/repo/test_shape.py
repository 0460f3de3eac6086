"""Modules and functions one can read in one sitting; what is public is documented, listed and real; what is ignored says why."""

from __future__ import annotations

import ast
import importlib
import re
import tokenize
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

Source = Any  # see conftest.py
LONGEST_MODULE = 400  # lines; 300 is the aim
LONGEST_FUNCTION = 80  # lines, from its first line to its last; 12 is the aim
IGNORE = re.compile(
    r"#\s*(?:type:\s*ignore(?:\[[^\]]*\])?|noqa(?::\s*[A-Z]+\d+(?:,\s*[A-Z]+\d+)*)?|pragma:\s*no cover)(?P<rest>.*)$"
)
REASON = re.compile(r"[a-z]{2,}.*[a-z]{2,}")


def public(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Functions and classes of a module, and methods of its classes, without a leading underscore."""
    for node in body:
        if isinstance(
            node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        ) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body)


def importable(module: str) -> bool:
    """Whether what the module takes is installed: the core needs torch and its friends."""
    return not module.startswith("llmguard_core") or all(
        find_spec(name) for name in ("torch", "transformers", "peft")
    )


def test_modules_are_short(sources: list[Source]) -> None:
    """No module over 400 lines."""
    long = {each.file: lines for each in sources if (lines := each.text.count("\n")) > LONGEST_MODULE}
    assert not long, f"split by what their parts are about: {long}"


def test_functions_are_short(sources: list[Source]) -> None:
    """No function over 80 lines."""
    long = {
        f"{each.file}:{node.lineno} {node.name}": lines
        for each in sources
        for node in each.functions()
        if (lines := int(node.end_lineno or node.lineno) - node.lineno + 1) > LONGEST_FUNCTION
    }
    assert not long, f"take steps out of them, each named after what it does: {long}"


def test_modules_and_what_is_public_in_them_are_documented(sources: list[Source]) -> None:
    """Each module, and each public class, function and method, says its promise in a docstring."""
    mute = [f"{each.file}:1" for each in sources if each.text.strip() and not ast.get_docstring(each.tree)]
    mute += [
        f"{each.file}:{node.lineno} {node.name}"
        for each in sources
        for node in public(each.tree.body)
        if not ast.get_docstring(node) and not node.name.startswith("visit_") and not is_signature(node)
    ]
    assert not mute, f"no docstring: {', '.join(mute)}"


def is_signature(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    """Whether it only declares a signature: of an overload, or of a protocol."""
    return len(node.body) == 1 and ast.unparse(node.body[0]) == "..."


def test_all_is_sorted_and_real(sources: list[Source]) -> None:
    """Every name in `__all__` can be imported, once, in the order that ruff sorts them."""
    wrong = []
    for each in sources:
        if "__all__" not in each.text or not importable(each.module):
            continue
        module = importlib.import_module(each.module)
        names = list(module.__all__)
        wrong += [
            f"{each.module} lists {name}, which is not there" for name in names if not hasattr(module, name)
        ]
        wrong += [f"{each.module} lists {name} twice" for name in set(names) if names.count(name) > 1]
        wrong += [
            f"{each.module} lists {name}, which is no text" for name in names if not isinstance(name, str)
        ]
    assert not wrong, "; ".join(wrong)


def test_other_packages_take_public_names_alone(sources: list[Source]) -> None:
    """The core and the plugin use of the checks what any user may: names that their module lists in `__all__`."""
    offered = {each.module: names for each in sources if (names := _listed(each.tree))}
    modules = {each.module for each in sources}
    wrong = [
        f"{each.file}:{node.lineno} takes {alias.name} from {node.module}"
        for each in sources
        for node in ast.walk(each.tree)
        if isinstance(node, ast.ImportFrom) and not node.level and node.module in offered
        if node.module.partition(".")[0] != each.module.partition(".")[0]
        for alias in node.names
        if alias.name not in offered[node.module] and f"{node.module}.{alias.name}" not in modules
    ]
    assert not wrong, f"add it to __all__ there, or do without: {'; '.join(wrong)}"


def _listed(tree: ast.Module) -> set[str]:
    for node in tree.body:
        if (
            isinstance(node, ast.Assign)
            and ast.unparse(node.targets[0]) == "__all__"
            and isinstance(node.value, ast.List)
        ):
            return set(ast.literal_eval(node.value))
    return set()


def comments(path: Path) -> Iterator[tokenize.TokenInfo]:
    """The comments of a file, and nothing that only looks like one inside a text."""
    with path.open("rb") as file:
        yield from (token for token in tokenize.tokenize(file.readline) if token.type == tokenize.COMMENT)


def test_every_ignore_says_why(root: Path, tracked: list[str]) -> None:
    """An ignore without its reason on the line is one nobody dares to remove."""
    mute = [
        f"{file}:{comment.start[0]}"
        for file in tracked
        if file.endswith(".py")
        for comment in comments(root / file)
        if (found := IGNORE.search(comment.string)) and not REASON.search(found["rest"])
    ]
    assert not mute, f"write the reason behind it, on the same line: {', '.join(mute)}"


@pytest.mark.parametrize(("line", "explained"), [
    ("x = f()  # type: ignore[arg-type]", False),
    ("x = f()  # type: ignore[arg-type]  # the stub is wrong", True),
    ("x = f()  # noqa: S301", False),
    ("x = f()  # noqa: S301  # our own file", True),
    ("x = f()  # noqa: S301, S102 - our own file", True),
    ("x = f()  # type: ignore[no-untyped-def, misc]", False),
])  # fmt: skip
def test_the_pattern_sees_what_it_should(line: str, explained: bool) -> None:
    """A reason is words behind the codes."""
    found = IGNORE.search(line)
    assert found
    assert bool(REASON.search(found["rest"])) is explained
