"""Projects under audit: the project file and the options that win over it, one audit each, built once a session."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmguard.auditing import Audit
from llmguard.errors import LLMGuardError, UsageError
from llmguard.evidence import Evidence, Options
from llmguard.project import Project, load_project
from llmguard.registry import Registry
from pytest_llmguard.ladder import option
from pytest_llmguard.manager import Manager, manager_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llmguard.catalogue import Entry

__all__ = ["NO_PROJECT", "audit_of", "build_audit", "registry_of"]

NO_PROJECT = "(no project file)"
"""The name of the project of a folder that has none."""


def registry_of(config: pytest.Config) -> Registry:
    """The catalogue, the checks of installed distributions, and those that conftest files hand in.

    Raises:
        UsageError: a check that cannot be: wrong family, tier, or a name that another one has.
        LLMGuardError: an installed distribution whose checks cannot be loaded.
    """
    handed: Iterable[Iterable[Entry]] = config.hook.pytest_llmguard_checks(config=config)
    extra = [entry for group in handed for entry in group]
    try:
        return Registry(extra)
    except UsageError:
        raise
    except Exception as broken:  # an entry point is foreign code: it may raise anything
        raise LLMGuardError(
            f"checks of an installed distribution cannot be loaded: {type(broken).__name__}: {broken}"
        ) from broken


def audit_of(config: pytest.Config, file: Path | None) -> Audit:
    """The audit of a project file of this session, or of the folder pytest was started in; built once.

    Raises:
        ProjectError: the file cannot be used.
    """
    manager = manager_of(config)
    if file not in manager.audits:
        project = load_project(file) if file else Project.empty(config.invocation_params.dir)
        manager.audits[file] = build_audit(config, project, manager=manager)
    return manager.audits[file]


def build_audit(
    config: pytest.Config, project: Project, node: pytest.Item | None = None, *, manager: Manager
) -> Audit:
    """An audit with the options of the session, or of one test's marker."""
    tables = {name: _named(config, name, node) for name in ("path", "adapter")}
    changed = {name: value for name, value in tables.items() if value}
    project = project.replaced(**changed) if changed else project
    share = _shared(manager) if manager.is_worker else None
    sample, deadline = option(config, "sample", node), option(config, "deadline", node)
    gpu = bool(option(config, "gpu"))
    evidence = Evidence(project, Options(sample=sample, share=share, deadline=deadline, gpu=gpu))
    manager.closing.callback(evidence.close)
    strict = option(config, "strict", node)
    return Audit(project, manager.registry, evidence, strict=strict, engine=manager.engine)


def _shared(manager: Manager) -> Path:
    from pytest_llmguard.sharing import enter

    enter(manager.share, manager.config)
    return manager.share


def _named(config: pytest.Config, table: str, node: pytest.Item | None) -> str | None:
    value: str | None = option(config, "model" if table == "path" else table, node)
    if value is None:
        return None
    local = Path(config.invocation_params.dir, Path(value).expanduser())
    return str(local.resolve()) if local.exists() else value
