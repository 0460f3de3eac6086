"""What is collected: project files, the one that no argument names, and the checks of a folder that has none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_llmguard.ladder import option
from pytest_llmguard.manager import manager_of

__all__ = ["asked_for", "more_items", "project_file"]


def project_file(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """The collector of a project file; None where another file speaks for the folder, or `--llmguard-project` for the session."""
    from pytest_llmguard.items import ProjectFile

    named = _named(parent.config)
    if not parent.session.isinitpath(path):
        if named is not None and path.resolve() != named.resolve():
            return None
        if named is None and path.name == "pyproject.toml" and not _speaks(path):
            return None
    elif path.name == "pyproject.toml" and not _has_table(path):
        return None
    return ProjectFile.of(parent, path)


def _speaks(pyproject: Path) -> bool:
    return not pyproject.with_name("llmguard.toml").is_file() and _has_table(pyproject)


def _has_table(pyproject: Path) -> bool:
    from llmguard.project import is_project_file

    return is_project_file(pyproject)


def _named(config: pytest.Config) -> Path | None:
    """The file that `--llmguard-project` names; of a folder, the project file in it."""
    named: Path | None = option(config, "project")
    if named is None or not named.is_dir():
        return named
    from llmguard.project import find_project

    found = find_project(named)
    if found is None:
        raise pytest.UsageError(
            f"--llmguard-project: no project file in {str(named)!r}; `llmguard init` writes one"
        )
    return found


def more_items(session: pytest.Session) -> Iterator[pytest.Item]:
    """Items that pytest's own collection did not come across."""
    config = session.config
    named = _named(config)
    here = None if named else _of_this_folder(config)
    for path in filter(None, (named, here)):
        if path.resolve() not in _collected(config):
            yield from _collect(session, path, named=path is named)
    if not _collected(config) and _looks_here(config) and not (named or here):
        yield from _without_project(session)


def _collected(config: pytest.Config) -> set[Path]:
    return manager_of(config).collected if config.pluginmanager.hasplugin("llmguard-manager") else set()


def _collect(session: pytest.Session, path: Path, *, named: bool) -> Iterator[pytest.Item]:
    """A project file through its folder's own collector: the conftest beside it is heard, and so is what it ignores."""
    from pytest_llmguard.items import ProjectFile

    ihook = session.ihook
    folder = ihook.pytest_collect_directory(path=path.parent, parent=session)
    report = ihook.pytest_make_collect_report(collector=folder) if folder is not None else None
    if report is not None and report.failed:  # the conftest could not be imported
        ihook.pytest_collectreport(report=report)
        return
    found = (
        [node for node in report.result if isinstance(node, ProjectFile) and node.path == path]
        if report
        else []
    )
    if not found and named:
        found = [ProjectFile.of(folder or session, path)]
    for node in found:
        yield from session.genitems(node)


def _without_project(session: pytest.Session) -> Iterator[pytest.Item]:
    expression = session.config.option.markexpr
    if not any(tier in expression for tier in ("preflight", "sentinel")):
        return
    from pytest_llmguard.items import NoProject

    yield from session.genitems(NoProject.from_parent(session, name="llmguard", nodeid="llmguard"))


def _of_this_folder(config: pytest.Config) -> Path | None:
    """The project file of the folder pytest was started in, or of its root, when no argument says what to collect."""
    if config.args_source is config.ArgsSource.ARGS:
        return None
    from llmguard.project import find_project

    return find_project(config.invocation_params.dir) or find_project(config.rootpath)


def _looks_here(config: pytest.Config) -> bool:
    """Whether this run is about the folder pytest was started in, or its root: no arguments, or that folder as one."""
    if config.args_source is not config.ArgsSource.ARGS:
        return True
    here = {config.invocation_params.dir.resolve(), config.rootpath.resolve()}
    return any(Path(config.invocation_params.dir, arg).resolve() in here for arg in config.args)


def asked_for(expression: str, tier: str, family: str) -> bool:
    """Whether a `-m` expression asks for a tier by name: it takes a check of the tier, and would not if the tier were unmarked.

    "preflight and not slow" asks, "not slow" and "not preflight" do not.
    """
    from _pytest.mark.expression import Expression

    asked = Expression.compile(expression)
    return asked.evaluate(_has({tier, family})) and not asked.evaluate(_has({family} - {tier}))


def _has(markers: set[str]) -> Callable[..., bool]:
    return lambda name, /, **arguments: name in markers and not arguments
