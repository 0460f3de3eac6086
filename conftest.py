"""What the whole suite stands on: no network, little noise, and tests that know what they need.

Where torch, or what comes with it, is not installed, what needs it is skipped with the reason: a test module that imports it, a test
that imports it or uses a fixture that does. What needs it in a child process says so with `@pytest.mark.needs_torch`.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import os
import textwrap
from collections.abc import Callable, Iterable, Iterator
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


def _needed(nodes: Iterable[ast.AST]) -> set[str]:
    """The optional libraries that these statements import."""
    names: set[str] = set()
    for each in nodes:
        if isinstance(each, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in each.names}
        elif isinstance(each, ast.ImportFrom) and each.module and not each.level:
            names.add(each.module.partition(".")[0])
    return names & set(OPTIONAL) | (set(TRAINING) if CORE in names else set())


@functools.cache
def _needed_inside(function: Callable[..., object]) -> set[str]:
    """The optional libraries that a test or a fixture imports when it runs."""
    try:
        source = textwrap.dedent(inspect.getsource(function))
        return _needed(ast.walk(ast.parse(source)))
    except (OSError, TypeError, SyntaxError):  # not written as a function in a file
        return set()


class _Skipped(pytest.Module):
    """A test module whose imports are not installed: one skip with the reason, instead of an error."""

    missing: tuple[str, ...] = ()

    def collect(self) -> Iterator[pytest.Item]:
        raise pytest.skip.Exception(f"{', '.join(self.missing)} not installed", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    if not any(_missing(name) for name in OPTIONAL):
        return None
    tree = ast.parse(module_path.read_text(encoding="utf-8"))
    missing = tuple(sorted(name for name in _needed(tree.body) if _missing(name)))
    if not missing:
        return None
    module: _Skipped = _Skipped.from_parent(parent, path=module_path)
    module.missing = missing
    return module


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "soak" not in str(config.getoption("-m")):
        reason = "minutes long: asked for by `-m soak` (make soak)"
        for item in filter(lambda item: item.get_closest_marker("soak"), items):
            item.add_marker(pytest.mark.skip(reason=reason))
    if not any(_missing(name) for name in OPTIONAL):
        return
    for item in items:
        needed = set(TRAINING) if item.get_closest_marker("needs_torch") else set()
        if isinstance(item, pytest.Function):
            fixtures = [defs[-1].func for defs in item._fixtureinfo.name2fixturedefs.values()]
            needed = needed.union(*(_needed_inside(function) for function in (item.function, *fixtures)))
        missing = sorted(name for name in needed if _missing(name))
        if missing:
            item.add_marker(pytest.mark.skip(reason=f"{', '.join(missing)} not installed"))
