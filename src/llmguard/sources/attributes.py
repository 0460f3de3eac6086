"""Attributes that nothing has: found by mypy (its rule attr-defined), kept where the syntax tree leaves no other reading."""

from __future__ import annotations

import ast
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmguard.configs.nearest import nearest
from llmguard.errors import EvidenceError
from llmguard.sources.read import SourceFile, Sources

__all__ = ["Absent", "absent_attributes", "find_mypy"]

_SECONDS, _MOST = 60, 150
"""What mypy may take; files beyond that number are not looked at: it would take minutes."""
_RUNS = 6
"""Folders of scripts, and of packages, that are looked at: the fullest ones."""
_REFUSALS, _FATAL = 4, 2
"""How often files are left out that mypy refuses; the exit status with which it does."""
_LINE = re.compile(r"^(?P<file>.+?):(?P<line>\d+):(?P<column>\d+): error: (?P<text>.*)  \[attr-defined\]$")
_MODULE = re.compile(r'^Module(?: "(?P<module>[\w.]+)")? has no attribute "(?P<name>\w+)"')
_OBJECT = re.compile(r'^"(?P<type>[\w.\[\]]+)" has no attribute "(?P<name>\w+)"')
_HANDLED = ("AttributeError", "ImportError", "ModuleNotFoundError", "Exception")


@dataclass(frozen=True)
class Absent:
    """One use of an attribute that its owner (a module or a class) does not have; `near`: one that it has, spelt alike."""

    file: str
    line: int
    column: int
    owner: str
    name: str
    of_module: bool
    near: str | None


def find_mypy() -> list[str] | None:
    """How mypy is called: with this interpreter, else the one of the PATH; None where there is none."""
    if importlib.util.find_spec("mypy") is not None:
        return [sys.executable, "-m", "mypy"]
    found = shutil.which("mypy")
    return [found] if found else None


def absent_attributes(sources: Sources, mypy: Sequence[str]) -> Iterator[Absent]:
    """Every attribute of a module or of a class of the sources that is not there, in file order of each run.

    Raises:
        EvidenceError: mypy looks at none of them, or not in time.
    """
    everything = _Everything(sources)
    for files in _runs(sources.parsed):
        for place in _told(mypy, files):
            file = files.get(place["file"])
            found = everything.confirmed(file, place) if file is not None else None
            if found is not None:
                yield found


def _runs(parsed: Sequence[SourceFile]) -> Iterator[dict[str, SourceFile]]:
    """Files by the place of their copy, those together that import one another: packages and scripts of one folder."""
    packages = {file.path.parent for file in parsed if file.path.name == "__init__.py"}
    runs: dict[Path, dict[str, SourceFile]] = {}
    for file in parsed[:_MOST]:
        root = file.path.parent
        while root in packages and root != root.parent:
            root = root.parent
        runs.setdefault(root, {})[str(Path("sources", file.path.relative_to(root)))] = file
    yield from sorted(runs.values(), key=len, reverse=True)[:_RUNS]


def _told(mypy: Sequence[str], files: Mapping[str, SourceFile]) -> Iterator[dict[str, str]]:
    """What mypy says of these files, everything that is not theirs being anything: packages, and what cannot be found.

    Files that mypy refuses to look at (one that is named like a module of Python's own, say) are left out.
    """
    for _ in range(_REFUSALS):
        status, lines = _run(mypy, files)
        if status != _FATAL or not files:
            yield from (found.groupdict() for line in lines if (found := _LINE.match(line)))
            return
        refused = [file for file in files if any(line.startswith(f"{file}:") for line in lines)]
        files = {place: file for place, file in files.items() if place not in refused}
        if not refused:
            break
    raise EvidenceError("sources", f"mypy does not look at them: {(lines or ['it says nothing'])[0]}")


def _run(mypy: Sequence[str], files: Mapping[str, SourceFile]) -> tuple[int, list[str]]:
    """Exit status and lines of mypy on copies: so it finds no configuration, and nothing that lies beside the files."""
    with tempfile.TemporaryDirectory(prefix="llmguard-") as folder:
        for place, file in files.items():
            copy = Path(folder, place)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.path, copy)
        command = [
            *mypy, "--config-file=", "--cache-dir=/dev/null", "--no-incremental", "--no-site-packages", "--ignore-missing-imports",
            "--follow-imports=silent", "--check-untyped-defs", "--show-column-numbers", "--no-error-summary", "--hide-error-context",
            "--no-color-output", "--no-pretty", "--scripts-are-modules", "--", *files,
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                timeout=_SECONDS,
                check=False,
                stdin=subprocess.DEVNULL,
                cwd=folder,
            )
        except subprocess.TimeoutExpired:
            raise EvidenceError(
                "sources", f"mypy was not done with {len(files)} files in {_SECONDS} s"
            ) from None
    return done.returncode, (done.stdout or done.stderr).decode("utf-8", "replace").splitlines()


class _Everything:
    """What all sources together say of a name."""

    def __init__(self, sources: Sources) -> None:
        nodes = [node for file in sources.parsed if file.tree is not None for node in ast.walk(file.tree)]
        self.classes = {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}
        self.bases = {_last(base) for node in self.classes.values() for base in node.bases}
        self.spoken_for = {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        self.spoken_for |= {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}  # fmt: skip
        self.folders = {file.path.parent for file in sources.parsed}
        self.modules = {file.path.stem: file.tree for file in sources.parsed}

    def confirmed(self, file: SourceFile, place: Mapping[str, str]) -> Absent | None:
        """The finding, where nothing in the sources speaks for the attribute: no text of its name, nothing that sets it from outside.

        Not kept: what a handler waits for; mixins and bases, which use what others bring; what mypy only thinks a variable to be.
        """
        line, column = int(place["line"]), int(place["column"])
        module, of = _MODULE.match(place["text"]), _OBJECT.match(place["text"])
        found = module or of
        if not found or file.tree is None or found["name"] in self.spoken_for or _is_handled(file.tree, line):
            return None
        name = found["name"]
        if module:
            if _asks_for_the_platform(file.tree):
                return None
            owner = module["module"] or _module_at(file.tree, line, name)
            if not owner or self._lies_beside(name) or _is_module(f"{owner}.{name}"):
                return None
            return Absent(
                file.name, line, column, owner, name, True, nearest(name, self._names_in(owner), 0.7)
            )
        owner = _last(found["type"])
        if owner not in self.classes or owner in self.bases:
            return None
        return Absent(file.name, line, column, owner, name, False, nearest(name, self._names_of(owner), 0.7))

    def _lies_beside(self, name: str) -> bool:
        """Whether some module or folder of that name lies in a folder of the sources, compiled ones and those not looked at included."""
        return any((folder / name).is_dir() or any(folder.glob(f"{name}.*")) for folder in self.folders)

    def _names_in(self, module: str) -> set[str]:
        tree = self.modules.get(_last(module))
        if tree is not None:
            return {str(n.name) for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
        return {*dir(sys.modules.get(module))} if module in sys.modules else set()

    def _names_of(self, owner: str) -> set[str]:
        nodes = [*ast.walk(self.classes[owner])]
        own = {n.name for n in nodes if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))}
        fields = {
            n.target.id for n in nodes if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
        }
        return (
            own
            | fields
            | {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}
        )


def _last(owner: ast.expr | str) -> str:
    text = owner if isinstance(owner, str) else ast.unparse(owner)
    return text.partition("[")[0].rpartition(".")[2]


def _is_handled(tree: ast.Module, line: int) -> bool:
    """Whether the line stands in a `try` that waits for such a fault."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Try) and any(n.lineno <= line <= (n.end_lineno or 0) for n in node.body):
            waits = [ast.unparse(h.type) if h.type else "Exception" for h in node.handlers]
            if any(word in text for word in _HANDLED for text in waits):
                return True
    return False


def _asks_for_the_platform(tree: ast.Module) -> bool:
    """Whether modules are asked for what they have on one system alone."""
    asked = {ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    return bool(asked & {"os.name", "sys.platform", "platform.system"})


def _module_at(tree: ast.Module, line: int, name: str) -> str | None:
    """The module whose attribute a line asks for, by the name that it was imported under."""
    imported = {
        alias.asname or alias.name: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and node.attr == name
            and node.lineno <= line <= (node.end_lineno or 0)
        ):
            module = imported.get(ast.unparse(node.value))
            if module:
                return module
    return None


def _is_module(name: str) -> bool:
    """Whether it is a part of a package, which is there as soon as anybody imports it."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, AttributeError, ValueError):
        return False
