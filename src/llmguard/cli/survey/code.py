"""Python files: read, never imported; functions that look like the pipeline's are suggestions and no more."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from llmguard.cli.survey.tree import Tree

__all__ = ["Found", "functions_in", "requirements_in", "sources_in"]

LOOKS: dict[str, tuple[re.Pattern[str], int]] = {
    "build": (
        re.compile(r"^((build|make|format|get|create|to|render)_)?prompt$|^prompt_(for|of)$|^build$"),
        1,
    ),
    "encode": (re.compile(r"^(encode|tokeni[sz]e|preprocess)(_(row|example|sample|function|fn))?$"), 1),
    "collate": (re.compile(r"^((build|make|get|create)_)?(data_)?(collate|collator)(_fn)?$|Collator$"), -1),
    "trainer": (re.compile(r"^(build|make|get|create)_(\w+_)?trainer$|^trainer$|^build$"), 0),
    "generate": (
        re.compile(r"^(generate|complete|predict|run_model)(_(batch|texts|completions|responses|answers))?$"),
        1,
    ),
}
"""Key of the project file -> how the names of such functions look, and how many arguments they need (-1: any number)."""
LARGEST = 256 << 10
MOST = 300


@dataclass(frozen=True)
class Found:
    """A function that may be the value of a key: `module:name`, and where it stands."""

    key: str
    reference: str
    file: str
    line: int


def requirements_in(tree: Tree) -> list[str]:
    """Files that pin what the project needs."""
    return [
        f
        for f in tree.ending(".txt")
        if PurePosixPath(f).name.startswith("requirements") or PurePosixPath(f).parent.name == "requirements"
    ]


def sources_in(tree: Tree) -> list[str]:
    """Packages, and scripts that lie at the top; without set-up files and tests."""
    packages = {str(PurePosixPath(f).parent) for f in tree.named("__init__.py")}
    tops = [p for p in sorted(packages) if str(PurePosixPath(p).parent) not in packages and p != "."]
    scripts = [f for f in tree.ending(".py") if "/" not in f and not _is_support(f)]
    folders = {f.split("/")[0] for f in tree.ending(".py") if "/" in f}
    covered = {p.split("/")[0] for p in tops}
    return [*tops, *sorted(f for f in folders if f not in covered), *scripts]


def _is_support(file: str) -> bool:
    name = PurePosixPath(file).name
    return (
        name in ("setup.py", "conftest.py", "noxfile.py")
        or name.startswith("test_")
        or name.endswith("_test.py")
    )


def functions_in(tree: Tree) -> list[Found]:
    """Functions and classes whose names and arguments are those of a pipeline's, in the order of the files."""
    files = [f for f in tree.ending(".py") if not _is_support(f)][:MOST]
    return [found for file in files for found in _in_file(tree, file)]


def _in_file(tree: Tree, file: str) -> Iterator[Found]:
    module = _module(tree, file)
    path = tree.root / file
    try:
        if not module or path.stat().st_size > LARGEST:
            return
        text = path.read_text("utf-8")
        parsed = ast.parse(text)
    except (OSError, ValueError, SyntaxError, RecursionError):
        return
    for node in parsed.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield from (
                Found(key, f"{module}:{node.name}", file, node.lineno)
                for key in LOOKS
                if _looks_like(key, node, text)
            )


def _looks_like(key: str, node: ast.FunctionDef | ast.ClassDef, text: str) -> bool:
    pattern, wanted = LOOKS[key]
    if not pattern.search(node.name):
        return False
    if isinstance(node, ast.ClassDef):
        return key == "collate"
    needed = len(node.args.args) - len(node.args.defaults)
    if wanted not in (-1, needed):
        return False
    said = {"trainer": "Trainer", "build": "prompt"}.get(key, "")
    return said in (ast.get_source_segment(text, node) or "") + node.name


def _module(tree: Tree, file: str) -> str:
    """The dotted name under which a file is imported with the folder on sys.path; '' where it has none."""
    parts = list(PurePosixPath(file).with_suffix("").parts)
    if parts[0] == "src" and "__init__.py" not in tree.beside("src"):
        parts = parts[1:]
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts) if parts and all(p.isidentifier() for p in parts) else ""
