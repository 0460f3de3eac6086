"""What sources import that is neither theirs, nor Python's, nor declared: by deptry where it is installed, confirmed here."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmguard.sources.declared import Declared, normal
from llmguard.sources.read import SourceFile, Sources

__all__ = ["Import", "Undeclared", "imports_of", "undeclared_imports"]

_SECONDS = 60
_OTHER_NAMES = {
    "PIL": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn", "cv2": "opencv-python opencv-python-headless opencv-contrib-python",
    "bs4": "beautifulsoup4", "dotenv": "python-dotenv", "dateutil": "python-dateutil", "skimage": "scikit-image",
    "Crypto": "pycryptodome", "git": "gitpython", "docx": "python-docx", "pptx": "python-pptx", "fitz": "pymupdf",
    "faiss": "faiss-cpu faiss-gpu", "attr": "attrs", "jwt": "pyjwt", "magic": "python-magic", "zmq": "pyzmq", "serial": "pyserial",
    "sentence_transformers": "sentence-transformers", "flash_attn": "flash-attn", "google": "protobuf",
    "pynvml": "nvidia-ml-py",
    "mpl_toolkits": "matplotlib", "pkg_resources": "setuptools", "tensorflow": "tensorflow-cpu tensorflow-gpu", "slugify": "python-slugify",
    "Levenshtein": "levenshtein python-levenshtein", "rouge_score": "rouge-score", "psycopg2": "psycopg2-binary",
    "lightning": "lightning pytorch-lightning", "pytorch_lightning": "pytorch-lightning lightning",
}  # fmt: skip
"""Module -> distributions that bring it under another name, for where they are not installed."""
_COMES_WITH = {
    "transformers": "huggingface-hub tokenizers safetensors numpy packaging pyyaml regex requests tqdm filelock",
    "datasets": "pandas pyarrow numpy dill fsspec huggingface-hub requests tqdm multiprocess xxhash",
    "accelerate": "torch numpy psutil huggingface-hub safetensors packaging pyyaml",
    "peft": "torch transformers accelerate numpy huggingface-hub safetensors",
    "trl": "accelerate datasets transformers torch peft", "torch": "numpy sympy networkx jinja2 fsspec typing-extensions",
    "unsloth": "torch transformers trl peft datasets accelerate bitsandbytes", "deepspeed": "torch pydantic psutil",
}  # fmt: skip
"""What comes with a distribution, for where it is not installed here."""
_SHARED = frozenset({"google", "azure", "opentelemetry", "nvidia", "ruamel", "jaraco", "zope", "backports"})


@dataclass(frozen=True)
class Import:
    """One import statement: the module's first name, its place, and whether its failure is handled."""

    module: str
    file: str
    line: int
    optional: bool


@dataclass(frozen=True)
class Undeclared:
    """A module that no requirement declares: where it is imported, and the declared distribution that brings it all the same."""

    module: str
    imports: tuple[Import, ...]
    brought_by: str | None

    @property
    def optional(self) -> bool:
        """Whether every import of it handles its absence."""
        return all(found.optional for found in self.imports)


def imports_of(file: SourceFile) -> Iterator[Import]:
    """The absolute imports of a file, those for type checkers left out."""
    if file.tree is not None:
        yield from _imports(file.tree, file.name, optional=False)


def _imports(node: ast.AST, name: str, *, optional: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name.partition(".")[0], name, child.lineno, optional)
        elif isinstance(child, ast.ImportFrom) and child.module and not child.level:
            yield Import(child.module.partition(".")[0], name, child.lineno, optional)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for other in child.orelse:
                yield from _imports(other, name, optional=optional)
        elif (isinstance(child, ast.Try) and any(_handles_import(handler) for handler in child.handlers)) or (
            isinstance(child, ast.If)
            and any(word in ast.dump(child.test) for word in ("find_spec", "available", "import_module"))
        ):
            yield from _imports(child, name, optional=True)
        else:
            yield from _imports(child, name, optional=optional)


def _handles_import(handler: ast.ExceptHandler) -> bool:
    caught = ast.dump(handler.type) if handler.type is not None else "Exception"
    return any(name in caught for name in ("ImportError", "ModuleNotFoundError", "Exception"))


def undeclared_imports(sources: Sources, declared: Declared) -> list[Undeclared]:
    """The modules that the sources (tests left out) import and nothing declares, with the lines."""
    found: dict[str, list[Import]] = {}
    for file in sources.parsed:
        for one in () if file.is_test else imports_of(file):
            if not _is_ours(one.module, file, sources) and not _is_declared(one.module, declared):
                found.setdefault(one.module, []).append(one)
    if not found:
        return []
    seconded = _seconded_by_deptry(sources, declared)
    return [
        Undeclared(module, tuple(lines), _brought_by(module, declared))
        for module, lines in found.items()
        if seconded is None or module in seconded
    ]


def _is_ours(module: str, file: SourceFile, sources: Sources) -> bool:
    """Whether a module is Python's own, or lies in the project: beside the file, in the root, in a `src` folder."""
    if (
        module in sys.stdlib_module_names
        or module in sys.builtin_module_names
        or module in ("__main__", "llmguard")
    ):
        return True
    root = sources.root.resolve()
    folders = [
        parent for parent in file.path.resolve().parents if parent == root or parent.is_relative_to(root)
    ]
    places = [file.path.resolve().parent, root, root / "src", root / "lib", *folders]
    return any((place / f"{module}.py").is_file() or (place / module).is_dir() for place in places)


def _is_declared(module: str, declared: Declared) -> bool:
    plain = {normal(module), *(normal(name) for name in _OTHER_NAMES.get(module, "").split())}
    if plain & declared.names or (
        module in _SHARED and any(name.startswith(f"{module}-") for name in declared.names)
    ):
        return True
    return bool(_distributions(module) & declared.names)


@functools.lru_cache(maxsize=1)
def _installed() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())


def _distributions(module: str) -> set[str]:
    """The installed distributions that bring a module, normalised."""
    return {normal(name) for name in _installed().get(module, ())}


def _brought_by(module: str, declared: Declared) -> str | None:
    """The declared distribution that another one needs, or that is known to bring the module along."""
    wanted = {normal(module), *_distributions(module), *_OTHER_NAMES.get(module, "").split()}
    for name in sorted(declared.names):
        if wanted & _closure(name) or wanted & {normal(n) for n in _COMES_WITH.get(name, "").split()}:
            return name
    return None


@functools.lru_cache(maxsize=256)
def _closure(name: str) -> frozenset[str]:
    """Everything that installing a distribution installs, by the metadata of what is installed here."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        try:
            needs = importlib.metadata.requires(waiting.pop()) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for need in needs:
            other = _needed(need)
            if other and other not in found:
                found.add(other)
                waiting.append(other)
    return frozenset(found)


def _needed(requirement: str) -> str | None:
    """The name of a requirement that holds here without extras."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        parsed = Requirement(requirement)
    except InvalidRequirement:
        return None
    holds = parsed.marker is None or parsed.marker.evaluate({"extra": ""})
    return normal(parsed.name) if holds else None


def _seconded_by_deptry(sources: Sources, declared: Declared) -> set[str] | None:
    """The modules that deptry, too, finds undeclared; None where it is not installed or has no verdict."""
    if importlib.util.find_spec("deptry") is None:
        return None
    texts = [name for name in declared.files if name.endswith(".txt")]
    with tempfile.TemporaryDirectory(prefix="llmguard-") as folder:
        report = Path(folder, "deptry.json")
        command = [
            sys.executable,
            "-m",
            "deptry",
            ".",
            "--no-ansi",
            "--ignore",
            "DEP002,DEP004,DEP005",
            "--json-output",
            str(report),
        ]
        command += ["--requirements-files", ",".join(texts)] if texts else []
        try:
            subprocess.run(
                command,
                cwd=sources.root,
                capture_output=True,
                timeout=_SECONDS,
                check=False,
                stdin=subprocess.DEVNULL,
            )
            found = json.loads(report.read_text("utf-8"))
        except (OSError, ValueError, subprocess.SubprocessError):
            return None
    return {str(one["module"]).partition(".")[0] for one in found}
