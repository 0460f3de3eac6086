"""The law of the three rooms, as plain Python: the first thing that runs, with nothing installed.

    src/llmguard_core/  ──►  src/llmguard/  ◄──  pytest_llmguard/
    "trusts nothing"         "knows nothing"     "does nothing until asked"

A plugin that cannot be imported takes pytest down with it, so no test could ever report the import that broke it: this script can.
It reads the sources (no line of them runs), and then asks one child process what `import llmguard` really loaded.

    python ci/layers.py [ROOT]     exit 0: the law holds; 1: one line a breach, with file, line and remedy
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HEAVY = frozenset(
    "accelerate bitsandbytes datasets deepspeed huggingface_hub peft ray safetensors sentencepiece tiktoken tokenizers torch"
    " torchvision transformers trl unsloth vllm".split()
)
"""Seconds to import, or gigabytes to install: only ever inside a function."""
EXTRAS = HEAVY | frozenset({"filelock", "pandas", "platformdirs", "pyarrow", "scipy", "statsmodels"})
"""What a plain `pip install pytest-llmguard` does not bring."""
PYTEST = frozenset({"pytest", "_pytest", "pluggy", "xdist"})
START = "pytest_llmguard.plugin"
"""What pytest imports at every start, whether or not it is used."""
AT_START = frozenset({"pytest", "_pytest", "pluggy", "pytest_llmguard"}) | sys.stdlib_module_names
"""What that may load: xdist is not among them, for it need not be installed."""
ROOMS = {
    "llmguard": "src/llmguard",
    "llmguard_core": "src/llmguard_core",
    "pytest_llmguard": "pytest_llmguard",
}


class Import(NamedTuple):
    """One import: the dotted name, its line, whether importing the module runs it, and the names taken from it."""

    name: str
    line: int
    at_top: bool
    for_types: bool
    taken: tuple[str, ...]

    @property
    def root(self) -> str:
        """The package that it belongs to."""
        return self.name.partition(".")[0]


class Breach(NamedTuple):
    """One breach of the law: where it is, what it says, and what to do instead."""

    file: str
    line: int
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}\n    remedy: {self.remedy}"


class Module(NamedTuple):
    """One source file: its dotted name, its path from the root, and all its imports."""

    name: str
    file: str
    imports: tuple[Import, ...]


class _Reader(ast.NodeVisitor):
    """Collects imports; knows whether it stands inside a function or under `if TYPE_CHECKING:`."""

    def __init__(self, module: str, is_package: bool) -> None:
        self.found: list[Import] = []
        self._depth = 0
        self._types = False
        self._package = module if is_package else module.rpartition(".")[0]

    def _add(self, name: str, line: int, taken: tuple[str, ...] = ()) -> None:
        self.found.append(Import(name, line, self._depth == 0 and not self._types, self._types, taken))

    def visit_Import(self, node: ast.Import) -> None:
        for each in node.names:
            self._add(each.name, node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            above = self._package.split(".")[: len(self._package.split(".")) - node.level + 1]
            base = ".".join([*above, base] if base else above)
        self._add(base, node.lineno, tuple(each.name for each in node.names))

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        first = node.args[0] if node.args else None
        if (
            called in ("import_module", "__import__")
            and isinstance(first, ast.Constant)
            and isinstance(first.value, str)
        ):
            self._add(first.value, node.lineno)
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" not in ast.unparse(node.test):
            self.generic_visit(node)
            return
        before, self._types = self._types, True
        for each in node.body:
            self.visit(each)
        self._types = before
        for each in node.orelse:
            self.visit(each)

    def _deeper(self, node: ast.AST) -> None:
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for each in (*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)):
            self.visit(each)  # these run when the module is imported
        self._deeper(ast.Module([*node.body], []))

    visit_AsyncFunctionDef = visit_FunctionDef  # type: ignore[assignment]  # the same fields
    visit_Lambda = _deeper


def read(root: Path) -> dict[str, Module]:
    """Every module of the three rooms by its dotted name.

    Raises:
        SyntaxError: a file that is no Python, with its name.
    """
    found = {}
    for room, folder in ROOMS.items():
        for path in sorted((root / folder).rglob("*.py")):
            parts = [room, *path.relative_to(root / folder).with_suffix("").parts]
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            reader = _Reader(name, is_package)
            reader.visit(ast.parse(path.read_text(encoding="utf-8"), filename=str(path)))
            found[name] = Module(name, path.relative_to(root).as_posix(), tuple(reader.found))
    return found


def breaches(root: Path) -> list[Breach]:
    """Every breach under `root`, in the order of the files."""
    modules = read(root)
    found = [breach for module in modules.values() for breach in _of(module)]
    return sorted({*found, *_loaded_by_llmguard(modules), *_loaded_at_start(modules)})


def _of(module: Module) -> Iterator[Breach]:
    room = module.name.partition(".")[0]
    for each in module.imports:
        rule = {"llmguard": _of_checks, "llmguard_core": _of_core, "pytest_llmguard": _of_plugin}[room]
        told = rule(each)
        if told:
            yield Breach(module.file, each.line, *told)


def _of_checks(each: Import) -> tuple[str, str] | None:
    if each.root in PYTEST:
        return (
            f"llmguard imports {each.name}",
            "the checks know nothing of what runs them: put it into pytest_llmguard/, or raise llmguard's own error",
        )
    if each.root in ("llmguard_core", "pytest_llmguard"):
        return (
            f"llmguard imports {each.name}",
            "the checks stand below the core and the plugin: hand it in as an argument, or move it into src/llmguard/",
        )
    if each.root in EXTRAS and each.at_top:
        return (
            f"llmguard imports {each.name} at the top of a module",
            "import it inside the function that needs it, or under `if TYPE_CHECKING:`",
        )
    return None


def _of_core(each: Import) -> tuple[str, str] | None:
    if each.root in PYTEST or each.root == "pytest_llmguard":
        return (
            f"llmguard_core imports {each.name}",
            "the core trains without pytest: put what needs it into pytest_llmguard/",
        )
    private = [
        name
        for name in (*each.name.split("."), *each.taken)
        if name.startswith("_") and name != "__version__"
    ]
    if each.root == "llmguard" and private:
        return (
            f"llmguard_core takes the private name {private[0]} from {each.name}",
            "the core uses the public names any user has: make it public, or do without",
        )
    return None


def _of_plugin(each: Import) -> tuple[str, str] | None:
    if each.root == "llmguard_core" and each.at_top:
        return (
            f"pytest_llmguard imports {each.name} at the top of a module",
            "import it inside the fixture that hands out models: it pulls torch in",
        )
    if each.root in EXTRAS and each.at_top:
        return (
            f"pytest_llmguard imports {each.name} at the top of a module",
            "import it inside the function that needs it, or under `if TYPE_CHECKING:`",
        )
    return None


def _reached(modules: dict[str, Module], first: str) -> Iterator[tuple[Module, Import]]:
    """All imports that run when `first` is imported, through our own modules."""
    seen: set[str] = set()
    todo = [first]
    while todo:
        name = todo.pop()
        if name in seen or name not in modules:
            continue
        seen.add(name)
        todo.append(name.rpartition(".")[0])  # a package's __init__ runs before its modules
        for each in modules[name].imports:
            if each.at_top:
                yield modules[name], each
                todo += [each.name, *(f"{each.name}.{taken}" for taken in each.taken)]


def _loaded_by_llmguard(modules: dict[str, Module]) -> Iterator[Breach]:
    for module, each in _reached(modules, "llmguard"):
        if each.root != "llmguard" and each.root not in sys.stdlib_module_names:
            yield Breach(
                module.file,
                each.line,
                f"`import llmguard` loads {each.name}",
                "keep llmguard/__init__.py lazy: import it where it is used",
            )


def _loaded_at_start(modules: dict[str, Module]) -> Iterator[Breach]:
    for module, each in _reached(modules, START):
        if each.root not in AT_START:
            yield Breach(
                module.file, each.line, f"every pytest start loads {each.name}, by way of {START}",
                "import it inside the hook or fixture that needs it: an installed plugin costs nothing until it is asked",
            )  # fmt: skip


def loaded(root: Path) -> list[Breach]:
    """What `import llmguard` really loads beyond the standard library, told by `sys.modules` of a fresh interpreter."""
    code = "import sys; had = set(sys.modules); import llmguard; print(*sorted({m.partition('.')[0] for m in set(sys.modules) - had}))"
    env = {**os.environ, "PYTHONPATH": str(root / "src"), "PYTHONSAFEPATH": "1"}
    child = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    where = ("src/llmguard/__init__.py", 1)
    if child.returncode:
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        return [
            Breach(
                *where,
                f"`import llmguard` fails: {last}",
                "it must work with nothing but the standard library",
            )
        ]
    foreign = [
        name for name in child.stdout.split() if name != "llmguard" and name not in sys.stdlib_module_names
    ]
    return [
        Breach(*where, f"`import llmguard` loads {name}", "import it where it is used") for name in foreign
    ]


def main(arguments: list[str]) -> int:
    """Print every breach under the root; 1 if there is one."""
    root = Path(arguments[0] if arguments else Path(__file__).parent.parent).resolve()
    missing = [folder for folder in ROOMS.values() if not (root / folder).is_dir()]
    if missing:
        print(f"{root}: no {', '.join(missing)} here; usage: python ci/layers.py [ROOT]", file=sys.stderr)
        return 2
    found = [*breaches(root), *loaded(root)]
    for each in found:
        print(each, file=sys.stderr)
    print(f"layers: {len(read(root))} modules, {len(found)} breaches of the law", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
