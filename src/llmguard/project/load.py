"""Find and read the project file; every problem of it at once, each with its key and what to write instead."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llmguard.errors import ProjectError
from llmguard.project.project import Project
from llmguard.project.schema import Schema, fields_of

if sys.version_info >= (3, 11):
    import tomllib
else:  # the parser came into the standard library with 3.11
    import tomli as tomllib

__all__ = ["FILE_NAME", "find_project", "load_project"]

FILE_NAME = "llmguard.toml"


def find_project(folder: Path) -> Path | None:
    """The project file of a folder: `llmguard.toml`, or a pyproject.toml with `[tool.llmguard]`."""
    if (folder / FILE_NAME).is_file():
        return folder / FILE_NAME
    pyproject = folder / "pyproject.toml"
    return pyproject if pyproject.is_file() and is_project_file(pyproject) else None


def is_project_file(path: Path) -> bool:
    """Whether a file is ours: by its name, or by its `[tool.llmguard]` table (read as text: no parser is loaded)."""
    if path.name != "pyproject.toml":
        return path.name == FILE_NAME
    try:
        return any(
            line.lstrip().startswith("[tool.llmguard") for line in path.read_text("utf-8").splitlines()
        )
    except (OSError, UnicodeDecodeError):
        return False


def load_project(path: Path | str, *, environ: Mapping[str, str] | None = None) -> Project:
    """Read a project file, or that of a folder; `MODEL_PATH` in the environment wins over `[model] path`.

    Raises:
        ProjectError: a folder without one, unreadable, no TOML, unknown keys, wrong types: all problems at once.
    """
    file = Path(path)
    if file.is_dir():
        file = find_project(file) or file / FILE_NAME
    tables = _read(file)
    try:
        schema = Schema.model_validate(tables)
    except ValidationError as bad:
        raise ProjectError(str(file), [_problem(e) for e in bad.errors()]) from None
    environ = os.environ if environ is None else environ
    return Project(file=file.resolve(), schema=schema, model_override=environ.get("MODEL_PATH") or None)


def _read(file: Path) -> dict[str, Any]:
    try:
        tables = tomllib.loads(file.read_bytes().decode("utf-8-sig"))
    except OSError as bad:
        raise ProjectError(str(file), [f"cannot be read: {bad.strerror or bad}"]) from None
    except UnicodeDecodeError as bad:
        raise ProjectError(str(file), [f"is not UTF-8: byte {bad.start}"]) from None
    except tomllib.TOMLDecodeError as bad:
        raise ProjectError(str(file), [f"is not TOML: {bad}"]) from None
    if file.name == "pyproject.toml":
        tables = tables.get("tool", {}).get("llmguard", {})
    return tables


def _problem(problem: Any) -> str:
    path = tuple(
        p for p in problem["loc"] if p not in ("FormatTable", "function-before[_one_or_many(), list[str]]")
    )
    key = ".".join(str(p) for p in path)
    if problem["type"] == "extra_forbidden":
        return f"unknown key `{key}`{_did_you_mean(path)}"
    value = problem.get("input")
    shown = f" (is {value!r})" if isinstance(value, (str, int, float, bool)) else ""
    return f"`{key}`: {problem['msg'].removeprefix('Value error, ')}{shown}"


def _did_you_mean(path: tuple[Any, ...]) -> str:
    known = fields_of(path[:-1])
    near = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.6)
    if near:
        return f": did you mean `{'.'.join([*map(str, path[:-1]), near[0]])}`?"
    return f": known here are {', '.join(known)}" if known else ""
