"""What the whole suite stands on: no network, little noise, and tests that know what they need.

A test module that imports torch, or what comes with it, is skipped with the reason where it is not installed; a test that
needs it by way of a fixture or a child process says so with `@pytest.mark.needs_torch`.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

QUIET = {
    "HF_HUB_OFFLINE": "1",  # nothing here may be downloaded
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",  # else it warns whenever a test forks
}
TRAINING = ("torch", "transformers", "peft")
OPTIONAL = (
    *TRAINING,
    "accelerate",
    "datasets",
    "pyarrow",
    "safetensors",
    "scipy",
    "statsmodels",
    "tokenizers",
    "trl",
)
CORE = "llmguard_core"  # importing it takes all of TRAINING

for name, value in QUIET.items():
    os.environ.setdefault(name, value)


@functools.cache
def _missing(name: str) -> bool:
    return importlib.util.find_spec(name) is None


def _imported(body: Iterable[ast.stmt]) -> Iterator[str]:
    for each in body:
        if isinstance(each, ast.Import):
            yield from (alias.name for alias in each.names)
        elif isinstance(each, ast.ImportFrom) and each.module and not each.level:
            yield each.module


def _needed(path: Path) -> set[str]:
    needed: set[str] = set()
    for name in _imported(ast.parse(path.read_text(encoding="utf-8")).body):
        package = name.partition(".")[0]
        needed |= set(TRAINING) if package == CORE else {package} & set(OPTIONAL)
    return needed


class _Skipped(pytest.Module):
    """A test module whose imports are not installed: one skip with the reason, instead of an error."""

    missing: tuple[str, ...] = ()

    def collect(self) -> Iterator[pytest.Item]:
        raise pytest.skip.Exception(f"{', '.join(self.missing)} not installed", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    if not any(_missing(name) for name in OPTIONAL):
        return None
    missing = tuple(sorted(name for name in _needed(module_path) if _missing(name)))
    if not missing:
        return None
    module: _Skipped = _Skipped.from_parent(parent, path=module_path)
    module.missing = missing
    return module


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = [name for name in TRAINING if _missing(name)]
    for item in items if missing else ():
        if item.get_closest_marker("needs_torch"):
            item.add_marker(pytest.mark.skip(reason=f"{', '.join(missing)} not installed"))
