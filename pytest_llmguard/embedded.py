"""The project of `-m sentinel` where there is no project file: the tiny base model that is built in."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from llmguard.project import Project
from pytest_llmguard.manager import manager_of
from pytest_llmguard.projects import build_audit

if TYPE_CHECKING:
    import pytest

    from llmguard.auditing import Audit

__all__ = ["embedded_audit", "missing"]

EMBEDDED = "embedded"


def embedded_audit(config: pytest.Config) -> Audit:
    """The audit of the built-in base model; it is trained when it is first asked for (under a minute), then cached."""
    manager = manager_of(config)
    if EMBEDDED not in manager.audits:
        manager.audits[EMBEDDED] = build_audit(config, _project(config), manager=manager)
    return manager.audits[EMBEDDED]


def missing() -> str:
    """Why the built-in model cannot be had here: the libraries it needs; empty where all are there."""
    lacking = [name for name in ("torch", "transformers", "peft") if find_spec(name) is None]
    return (
        f"the built-in base model needs {', '.join(lacking)}: pip install 'pytest-llmguard[train]'"
        if lacking
        else ""
    )


def _project(config: pytest.Config) -> Project:
    from llmguard_core.lab import lab

    return Project.empty(config.invocation_params.dir).replaced(path=str(lab().base), kind="base")
