"""The checkout as data: its tracked files and its parsed sources, read once."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

ROOMS = ("src/llmguard", "src/llmguard_core", "pytest_llmguard")


class Source(NamedTuple):
    """One shipped module: where it is, its text, its tree, and its dotted name."""

    file: str
    text: str
    tree: ast.Module
    module: str

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        """All functions and methods, nested ones too."""
        for node in ast.walk(self.tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield node


@pytest.fixture(scope="session")
def tracked(root: Path) -> list[str]:
    """Every file that git tracks, or would: what a clone gets once it is committed."""
    if not (root / ".git").exists():
        pytest.skip("this is no git checkout: nothing says which files belong to it")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return sorted(each for each in set(done.stdout.splitlines()) if (root / each).is_file())


@pytest.fixture(scope="session")
def sources(root: Path) -> list[Source]:
    """Every module of the three packages."""
    found = []
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            parts = path.relative_to(root / room).with_suffix("").parts
            module = ".".join([Path(room).name, *(part for part in parts if part != "__init__")])
            found.append(Source(path.relative_to(root).as_posix(), text, ast.parse(text), module))
    return found


@pytest.fixture(scope="session")
def script(root: Path) -> ModuleType:
    """`ci/layers.py`, loaded as a module."""
    spec = importlib.util.spec_from_file_location("ci_layers", root / "ci" / "layers.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
