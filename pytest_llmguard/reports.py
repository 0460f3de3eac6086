"""The reports that were asked for: written also when there is nothing to report, or the session broke."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llmguard.ladder import option
from pytest_llmguard.manager import Manager, manager_of

if TYPE_CHECKING:
    from pytest_llmguard.records import Record

__all__ = ["document_of", "promise", "write_reports"]


def promise(config: pytest.Config) -> None:
    """From here on the reports are written, whatever breaks: a bad argument, a conftest, a plugin."""
    manager = manager_of(config)
    manager.promised = {name: path for name in ("json", "html", "sarif") if (path := _early(config, name))}
    manager.promised_project = _early(config, "project")
    config.add_cleanup(lambda: _keep(manager))


def _early(config: pytest.Config, name: str) -> Path | None:
    """The path as the half read command line has it; the whole of it may never be read."""
    given = getattr(config.known_args_namespace, f"llmguard_{name}", None)
    if given is not None:
        return Path(config.invocation_params.dir, Path(given).expanduser())
    path: Path | None = option(config, name)
    return path


def _keep(manager: Manager) -> None:
    """Write what has not been written, if the session broke before its end."""
    broken = sys.exc_info()[1]
    if manager.written or manager.is_worker:
        return
    if isinstance(broken, Exception):
        manager.errors.append(f"{type(broken).__name__}: {broken}")
    if manager.errors:  # without any this was no session: --help, --version
        _write_all(manager)


def write_reports(manager: Manager, session: pytest.Session) -> None:
    """Write at the end of a session; a report that cannot be written makes a green session an internal error."""
    broken = sys.exc_info()[1]
    if session.exitstatus == pytest.ExitCode.USAGE_ERROR and broken is not None:
        manager.errors.append(f"usage error: {broken}")
    if not _write_all(manager) and session.exitstatus in (
        pytest.ExitCode.OK,
        pytest.ExitCode.NO_TESTS_COLLECTED,
    ):
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR


def _write_all(manager: Manager) -> bool:
    good = True
    found = document_of(manager)
    for name, path in manager.promised.items():
        try:
            _write(path, _RENDER[name](found, manager))
            manager.written.append(f"{name} report: {path}")
        except Exception as broken:  # a disk may be full, a renderer may have met data that nobody thought of
            good = False
            manager.written.append(
                f"{name} report could not be written to {path}: {type(broken).__name__}: {broken}"
            )
    return good


def document_of(manager: Manager) -> dict[str, Any]:
    """The JSON report (DESIGN: version 1), in catalogue order whichever worker was first."""
    from llmguard.report import document

    records = sorted(manager.records.values(), key=_order())
    projects = list(dict.fromkeys(str(r["project"]) for r in records))
    error = "\n".join(dict.fromkeys(manager.errors)) or None
    return document(", ".join(projects) or _expected(manager), [_public(r, projects) for r in records], error)


def _order() -> Callable[[Record], tuple[Any, ...]]:
    from llmguard.catalogue import CHECKS

    place = {entry.name: number for number, entry in enumerate(CHECKS)}
    return lambda r: (r["project"], place.get(r["check"], len(place)), r["check"], r["target"])


def _expected(manager: Manager) -> str:
    """The project of a session in which no check came to its turn."""
    from pytest_llmguard.projects import NO_PROJECT

    named = manager.promised_project
    found = [named] if named else sorted(manager.collected)
    return ", ".join(_shown(path, manager.config.rootpath) for path in found) or NO_PROJECT


def _shown(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _public(record: Record, projects: list[str]) -> Record:
    """A record as the contract has it; it names its project where there are several."""
    hidden = {"bugs"} if len(projects) > 1 else {"bugs", "project"}
    return {name: value for name, value in record.items() if name not in hidden}


def _write(path: Path, text: str) -> None:
    """Write whole or not at all; into a pipe or a device as it is."""
    target = path.resolve()
    if target.exists() and not target.is_file():
        target.write_text(text, "utf-8")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    half = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        half.write_text(text, "utf-8")
        half.replace(target)
    finally:
        half.unlink(missing_ok=True)


def _json(found: Mapping[str, Any], manager: Manager) -> str:
    from llmguard.report import dumps

    return dumps(found) + "\n"


def _html(found: Mapping[str, Any], manager: Manager) -> str:
    from llmguard.reporting.html import render
    from pytest_llmguard.plots import plots_of

    return render(dict(found), plots_of(manager))


def _sarif(found: Mapping[str, Any], manager: Manager) -> str:
    from llmguard.reporting.sarif import render

    return render(dict(found))


_RENDER: dict[str, Callable[[Mapping[str, Any], Manager], str]] = {
    "json": _json,
    "html": _html,
    "sarif": _sarif,
}
