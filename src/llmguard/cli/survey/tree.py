"""The files of a folder, without what is never part of a project."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

__all__ = ["Tree", "walk"]

SKIPPED = frozenset(
    {
        "__pycache__",
        "node_modules",
        "site-packages",
        "venv",
        "env",
        "build",
        "dist",
        "wandb",
        "mlruns",
        "logs",
        "tests",
        "docs",
    }
)
"""Folders not looked into, beside hidden ones and virtual environments."""
DEEPEST = 5
MOST = 20_000
"""Entries looked at; a folder with more is told to be seen in part."""


@dataclass(frozen=True)
class Tree:
    """Files and folders as paths relative to `root`, with forward slashes, sorted."""

    root: Path
    files: tuple[str, ...]
    folders: tuple[str, ...]
    complete: bool = True

    def named(self, *names: str) -> list[str]:
        """Files of some names."""
        return [f for f in self.files if PurePosixPath(f).name in names]

    def ending(self, *suffixes: str) -> list[str]:
        """Files that end so."""
        return [f for f in self.files if f.lower().endswith(suffixes)]

    def beside(self, folder: str) -> set[str]:
        """The names of the files of a folder ('.' for the root)."""
        return self._by_folder.get(folder, set())

    @cached_property
    def _by_folder(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for file in self.files:
            path = PurePosixPath(file)
            found.setdefault(str(path.parent), set()).add(path.name)
        return found

    def without(self, folders: Iterable[str]) -> Tree:
        """The tree without some folders and all that is in them; the root itself only loses its own files."""
        gone = set(folders)

        def kept(file: str) -> bool:
            path = PurePosixPath(file)
            return not gone.intersection(map(str, path.parents[:-1] or ())) and str(path.parent) not in gone

        return replace(self, files=tuple(f for f in self.files if kept(f)))


def walk(root: Path) -> Tree:
    """All files of a folder down to `DEEPEST`; links to folders are not followed."""
    files: list[str] = []
    folders: list[str] = []
    for place, names, found in os.walk(root):
        here = Path(place).relative_to(root)
        names[:] = (
            sorted(n for n in names if _wanted(Path(place, n), here)) if len(here.parts) < DEEPEST else []
        )
        folders += [(here / n).as_posix() for n in names]
        files += [(here / f).as_posix() for f in found if not f.startswith(".") and f.isprintable()]
        if len(files) + len(folders) > MOST:
            return Tree(root, tuple(sorted(files)), tuple(sorted(folders)), complete=False)
    return Tree(root, tuple(sorted(files)), tuple(sorted(folders)))


def _wanted(folder: Path, parent: Path) -> bool:
    name = folder.name
    if name.startswith(".") or not name.isprintable() or name.endswith(".egg-info"):
        return False
    return name not in SKIPPED and not (folder / "pyvenv.cfg").exists()
