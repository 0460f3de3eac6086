"""The pytest plugin, in the order in which pytest calls it. It does nothing until asked.

At start-up this module, its options, markers, hook specifications and fixtures are all that is loaded of us. What a
session needs beyond that is loaded by the hook that needs it, and `Manager` is registered for that session alone.

It is switched off by `-p no:llmguard`. It is never to be named in `pytest_plugins`, nor as `-p pytest_llmguard.plugin`:
one plugin under two names is an error of pytest's.
"""

from __future__ import annotations

import pytest

from pytest_llmguard.fixtures import gpu_memory, lab, llmguard, probe, sentinels
from pytest_llmguard.markers import MARKERS
from pytest_llmguard.options import add_gpu_option, add_options, given

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path
    from typing import Any

__all__ = ["gpu_memory", "lab", "llmguard", "probe", "sentinels"]

PROJECT_FILES = ("llmguard.toml", "pyproject.toml")


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Make the hooks of this plugin known, before any conftest that may implement them is loaded."""
    from pytest_llmguard import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options and their ini twins."""
    add_options(parser)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser
) -> Generator[None, None, None]:
    """Promise the reports that were asked for, whatever breaks from here on; declare `--gpu` if no conftest did."""
    if given(early_config, early_config.known_args_namespace, "json", "html", "sarif"):
        from pytest_llmguard.reports import promise

        promise(early_config)
    yield
    add_gpu_option(early_config, parser)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers; refuse options that cannot be meant, and `--gpu` where there is none."""
    for marker, sentence in MARKERS.items():
        config.addinivalue_line("markers", f"{marker}: {sentence}")
    if given(config, config.option) or config.getoption("--gpu", None):
        from pytest_llmguard.ladder import option, validate

        validate(config)
        if option(config, "gpu"):
            from pytest_llmguard.placement import place

            place(config)
        if option(config, "gpu_leaks"):
            from pytest_llmguard.leaks import leaks_of

            leaks_of(config)
    if given(config, config.option, "bugs"):
        from pytest_llmguard.ledger import keep_ledger

        keep_ledger(config)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Under xdist: the controller takes the results in, and names the folder that its workers may share."""
    from pytest_llmguard.manager import manager_of

    node.workerinput["llmguard_share"] = str(manager_of(node.config).share)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect `llmguard.toml`, a pyproject.toml with `[tool.llmguard]`, or the file that `--llmguard-project` names."""
    if file_path.suffix != ".toml":
        return None
    if not given(parent.config, parent.config.option, "project") and not _is_ours(file_path):
        return None
    from pytest_llmguard.discovery import project_file

    return project_file(file_path, parent)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Add what no argument names: the project file of this folder, or the checks that need none."""
    folders = {config.rootpath, config.invocation_params.dir}
    asked = any(tier in config.option.markexpr for tier in ("preflight", "sentinel"))
    if (
        asked
        or given(config, config.option, "project")
        or any(_is_ours(f / n) for f in folders for n in PROJECT_FILES)
    ):
        from pytest_llmguard.discovery import more_items

        items.extend(more_items(session))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Measure from the first test on, where any has limits: what a fixture takes early is known when it goes."""
    if any(item.get_closest_marker("gpu_memory") for item in session.items):
        from pytest_llmguard.leaks import leaks_of

        leaks_of(session.config)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Under xdist: what a worker noted of memory."""
    sent = getattr(node, "workeroutput", {}).get("llmguard_leaks")
    if sent:
        from pytest_llmguard.leaks import leaks_of

        leaks_of(node.config).notes.take(sent)


def _is_ours(path: Path) -> bool:
    if path.name == PROJECT_FILES[0]:
        return path.is_file()
    return path.name == PROJECT_FILES[1] and path.is_file() and b"[tool.llmguard" in path.read_bytes()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU when none was asked for; tell a wrong marker in one clean line."""
    if any(item.get_closest_marker(name) for name in ("gpu", "gpu_memory", "llmguard")):
        from pytest_llmguard.asked import prepare

        prepare(item)
