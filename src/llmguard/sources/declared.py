"""What a project declares that it needs: requirements files, pyproject.toml, setup.cfg, setup.py, a conda environment."""

from __future__ import annotations

import ast
import configparser
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:  # the parser came into the standard library with 3.11
    import tomli as tomllib

__all__ = ["Declared", "declared_by", "normal", "wanted_by"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_EGG = re.compile(r"[#&]egg=([A-Za-z0-9._-]+)")
_REPOSITORY = re.compile(r"/([A-Za-z0-9._-]+?)(?:\.git)?(?:@[^/]*)?(?:#.*)?$")
_CONDA = {
    "pytorch": "torch",
    "pytorch-cpu": "torch",
    "pytorch-gpu": "torch",
    "py-opencv": "opencv-python",
    "huggingface-hub": "huggingface-hub",
}
_LYING_THERE = ("pyproject.toml", "setup.cfg", "setup.py", "environment.yml", "environment.yaml", "Pipfile")


@dataclass(frozen=True)
class Declared:
    """The distributions that are declared (normalised names), the files that say so, and those that could not be read."""

    names: frozenset[str]
    files: tuple[str, ...]
    problems: tuple[tuple[str, str], ...] = ()


def normal(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared_by(root: Path, named: tuple[str, ...]) -> Declared:
    """What the files named declare, or, where none is named, those that lie in the project's folder."""
    files = [Path(root, name) for name in named] or _lying_in(root)
    names: set[str] = set()
    told: list[str] = []
    problems: list[tuple[str, str]] = []
    for file in files:
        try:
            found = set(_names_in(file))
        except OSError as bad:
            problems.append((_shown(file, root), f"it cannot be read: {bad.strerror or bad}"))
            continue
        except (ValueError, SyntaxError, configparser.Error) as bad:
            problems.append((_shown(file, root), f"it cannot be parsed: {bad}"))
            continue
        if found or named:
            told.append(_shown(file, root))
        names |= {normal(name) for name in found}
    return Declared(frozenset(names), tuple(told), tuple(problems))


def _shown(file: Path, root: Path) -> str:
    return str(file.relative_to(root)) if file.is_relative_to(root) else str(file)


def _lying_in(root: Path) -> list[Path]:
    texts = [*sorted(root.glob("requirements*.txt")), *sorted(root.glob("requirements/*.txt"))]
    return [*texts, *(root / name for name in _LYING_THERE if (root / name).is_file())]


def _names_in(file: Path) -> Iterator[str]:
    if file.name == "setup.cfg":
        return _setup_cfg(file)
    readers = {".toml": _toml, ".py": _setup_py, ".yml": _conda, ".yaml": _conda}
    if file.name == "Pipfile":
        return _toml(file)
    return readers.get(file.suffix, _text)(file)


def wanted_by(root: Path, named: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """The requirement lines, and the file each is in, that a run needs: no extras, groups or files of other purposes.

    Of the files named, or else of requirements.txt and pyproject.toml in the project's folder. What cannot be read is told by
    `declared_by`.
    """
    files = [Path(root, name) for name in named] or [root / "requirements.txt", root / "pyproject.toml"]
    for file in files:
        try:
            lines = list(_lines_wanted(file))
        except (OSError, ValueError):
            continue
        yield from ((line, _shown(file, root)) for line in lines)


def _lines_wanted(file: Path) -> Iterator[str]:
    if file.suffix == ".toml":
        project = tomllib.loads(file.read_text("utf-8-sig")).get("project", {})
        yield from (line for line in project.get("dependencies", []) if isinstance(line, str))
    elif file.suffix not in (".py", ".yml", ".yaml", ".cfg"):
        yield from (line for line, _ in _lines(file))


def _text(file: Path) -> Iterator[str]:
    for line, folder in _lines(file):
        name = _name_of(line, folder)
        if name:
            yield name


def _lines(file: Path, seen: frozenset[Path] = frozenset()) -> Iterator[tuple[str, Path]]:
    """The requirements of a file and its folder: continuation lines, comments, `-r`, `-e` as pip reads them."""
    text = file.read_text("utf-8-sig").replace("\\\n", " ")
    for raw in text.splitlines():
        line = re.sub(r"(^|\s)#.*$", "", raw).strip()
        option, _, rest = line.partition(" ") if line.startswith("-") else ("", "", line)
        if option.startswith(("-r", "--requirement")):
            other = (
                file.parent
                / (rest or option.removeprefix("-r").partition("=")[2] or option.removeprefix("-r")).strip()
            )
            if other not in seen and other != file:
                yield from _lines(other, seen | {file})
        elif (not option or option in ("-e", "--editable")) and rest.strip():
            yield rest.strip(), file.parent


def _name_of(line: str, folder: Path) -> str | None:
    egg = _EGG.search(line)
    if egg:
        return egg[1]
    if " @ " in line or re.match(r"[\w.-]+(\[[^]]*\])?@\s*\w+:", line):
        name = _NAME.match(line)
        return name[0] if name else None
    if "://" in line or line.startswith("git+"):
        repository = _REPOSITORY.search(line)
        return repository[1] if repository else None
    if line.endswith((".whl", ".tar.gz")):
        return Path(line).name.partition("-")[0]
    if line.startswith((".", "/")):
        return _project_name(folder / line.partition("[")[0])
    name = _NAME.match(line)
    return name[0] if name else None


def _project_name(folder: Path) -> str:
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8")).get("project", {})
    except (OSError, ValueError):
        project = {}
    return str(project.get("name") or folder.resolve().name)


def _toml(file: Path) -> Iterator[str]:
    said: dict[str, Any] = tomllib.loads(file.read_text("utf-8-sig"))
    project, tool = said.get("project", {}), said.get("tool", {})
    groups = [project.get("dependencies", []), *project.get("optional-dependencies", {}).values()]
    groups += said.get("dependency-groups", {}).values()
    groups += [
        tool.get("uv", {}).get("dev-dependencies", []),
        *tool.get("pdm", {}).get("dev-dependencies", {}).values(),
    ]
    for group in groups:
        for line in group:
            if isinstance(line, str) and (name := _name_of(line, file.parent)):
                yield name
    poetry = tool.get("poetry", {})
    tables = [
        poetry.get("dependencies", {}),
        poetry.get("dev-dependencies", {}),
        said.get("packages", {}),
        said.get("dev-packages", {}),
    ]
    for table in [*tables, *(group.get("dependencies", {}) for group in poetry.get("group", {}).values())]:
        yield from (name for name in table if name != "python")


def _setup_cfg(file: Path) -> Iterator[str]:
    parser = configparser.ConfigParser()
    parser.read_string(file.read_text("utf-8-sig"))
    texts = [parser.get("options", "install_requires", fallback="")]
    if parser.has_section("options.extras_require"):
        texts += [value for _, value in parser.items("options.extras_require")]
    for line in "\n".join(texts).splitlines():
        name = _name_of(line.strip(), file.parent) if line.strip() else None
        if name:
            yield name


def _setup_py(file: Path) -> Iterator[str]:
    """The literal lists of `install_requires` and `extras_require`; what is computed is not seen."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.keyword) and node.arg in (
            "install_requires",
            "extras_require",
            "tests_require",
        ):
            for text in (n.value for n in ast.walk(node.value) if isinstance(n, ast.Constant)):
                name = _name_of(text, file.parent) if isinstance(text, str) else None
                if name:
                    yield name


def _conda(file: Path) -> Iterator[str]:
    from llmguard.configs.reading import read_document

    document = read_document(file)
    if document.problem is not None:
        raise ValueError(document.problem.reason)
    for item in document.items:
        if item.path == ("dependencies",) and isinstance(item.value, list):
            for line in item.value:
                yield from _conda_line(line, file.parent)


def _conda_line(line: object, folder: Path) -> Iterator[str]:
    if isinstance(line, str):
        name = _NAME.match(line.rpartition("::")[2])
        if name:
            yield _CONDA.get(name[0], name[0])
    elif isinstance(line, dict):
        for text in line.get("pip", []) or []:
            found = _name_of(str(text), folder)
            if found:
                yield found
