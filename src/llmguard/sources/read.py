"""Python files of a project: found, decoded and parsed without running them."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llmguard.configs.nearest import nearest
from llmguard.errors import UsageError
from llmguard.findings import Where

__all__ = ["SourceFile", "SourceProblem", "Sources", "as_sources", "read_sources"]

_SKIPPED = frozenset(
    {"__pycache__", "node_modules", "site-packages", "build", "dist", "venv", "env", "wandb", "outputs"}
)
_MOST = 5_000
_LARGEST = 2_000_000


@dataclass(frozen=True)
class SourceProblem:
    """Why a source file cannot be used: a missing file, or the line where its syntax ends."""

    file: str
    reason: str
    remedy: str
    line: int | None = None
    column: int | None = None

    @property
    def where(self) -> Where:
        """The place, for a finding."""
        return Where(self.file, line=self.line, column=self.column)


@dataclass(frozen=True)
class SourceFile:
    """One Python file: `name` as reports show it, `path` on disk; `tree` is None where `problem` says why."""

    path: Path
    name: str
    tree: ast.Module | None = None
    problem: SourceProblem | None = None

    @property
    def is_test(self) -> bool:
        """Whether it is a test, which has needs of its own."""
        folders = Path(self.name).parts[:-1]
        return self.path.name.startswith("test_") or self.path.name == "conftest.py" or "tests" in folders


@dataclass(frozen=True)
class Sources:
    """The Python files of a project, and what is named but not there.

    `root`: the folder that names are relative to; `requirements`: the files that declare what the project needs, as the
    project names them (empty: those that lie in `root`).
    """

    files: tuple[SourceFile, ...]
    root: Path
    missing: tuple[SourceProblem, ...] = ()
    requirements: tuple[str, ...] = ()

    @cached_property
    def parsed(self) -> tuple[SourceFile, ...]:
        """The files that could be parsed."""
        return tuple(file for file in self.files if file.tree is not None)

    @property
    def problems(self) -> list[SourceProblem]:
        """Everything that could not be read."""
        return [*self.missing, *(file.problem for file in self.files if file.problem is not None)]


def read_sources(root: Path, names: Iterable[str], requirements: Iterable[str] = ()) -> Sources:
    """The Python files that names lead to, folders walked (hidden ones, environments and build folders left out)."""
    found: dict[Path, SourceFile] = {}
    missing: list[SourceProblem] = []
    for name in names:
        path = Path(root, Path(name).expanduser())
        if not path.exists():
            missing.append(_missing(path, name))
        elif path.is_file() and path.suffix not in (".py", ".pyw"):
            missing.append(
                SourceProblem(name, "it is no Python file", "name .py files, or the folders they lie in")
            )
        for file in _walk(path):
            found.setdefault(file, _read(file, _relative(file, root)))
    return Sources(tuple(found.values()), root, tuple(missing), tuple(requirements))


def as_sources(value: Any) -> Sources:
    """Sources, or the path of a file or folder.

    Raises:
        UsageError: something else.
    """
    if isinstance(value, Sources):
        return value
    if isinstance(value, (str, Path)):
        path = Path(value)
        return read_sources(path if path.is_dir() else path.parent, ["." if path.is_dir() else path.name])
    raise UsageError("sources", value, "Sources, or the path of a Python file or folder")


def _missing(path: Path, name: str) -> SourceProblem:
    try:
        near = nearest(path.name, [entry.name for entry in path.parent.iterdir()])
    except OSError:
        near = None
    remedy = f"write {near!r}" if near else "correct the path"
    return SourceProblem(name, f"there is no such file: tried {path}", f"{remedy} in `[environment] sources`")


def _walk(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield from [path] if path.suffix in (".py", ".pyw") else []
        return
    if not path.is_dir():
        return
    count, folders = 0, [path]
    while folders and count < _MOST:
        folder = folders.pop(0)
        for entry in sorted(_entries(folder)):
            if entry.is_dir() and not entry.is_symlink() and not _is_foreign(entry):
                folders.append(entry)
            elif entry.suffix == ".py" and entry.is_file():
                count += 1
                yield entry


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _is_foreign(folder: Path) -> bool:
    return folder.name.startswith(".") or folder.name in _SKIPPED or (folder / "pyvenv.cfg").is_file()


def _relative(path: Path, root: Path) -> str:
    try:
        return str(path.resolve().relative_to(root.resolve()))
    except ValueError:
        return str(path)


def _read(path: Path, name: str) -> SourceFile:
    try:
        if path.stat().st_size > _LARGEST:
            problem = SourceProblem(
                name,
                "it is larger than any source file",
                "leave generated files out of `[environment] sources`",
            )
            return SourceFile(path, name, problem=problem)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the user's invalid escapes are not this check's business
            return SourceFile(path, name, ast.parse(path.read_bytes(), str(path)))
    except SyntaxError as bad:
        reason = f"it is no valid Python: {bad.msg}"
        remedy = "correct the line, or the one before it" if bad.lineno else "save it as UTF-8 text"
        return SourceFile(path, name, problem=SourceProblem(name, reason, remedy, bad.lineno, bad.offset))
    except (ValueError, RecursionError, MemoryError) as bad:
        return SourceFile(
            path,
            name,
            problem=SourceProblem(name, f"it cannot be parsed: {bad}", "save it as plain Python text"),
        )
    except OSError as bad:
        reason = f"it cannot be read: {bad.strerror or bad}"
        return SourceFile(
            path, name, problem=SourceProblem(name, reason, "give the user who trains the right to read it")
        )
