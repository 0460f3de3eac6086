"""The project of `-m sentinel` where there is no project file: the model that is named, else the tiny base model that is built in."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

from llmguard.project import Project
from pytest_llmguard.ladder import option
from pytest_llmguard.manager import manager_of
from pytest_llmguard.projects import build_audit

if TYPE_CHECKING:
    import pytest

    from llmguard.auditing import Audit

__all__ = ["embedded_audit", "missing", "named_model"]

EMBEDDED = "embedded"


def embedded_audit(config: pytest.Config) -> Audit:
    """The audit of the named model, else of the built-in one; that is trained when it is first asked for (under a minute), then cached."""
    manager = manager_of(config)
    if EMBEDDED not in manager.audits:
        manager.audits[EMBEDDED] = build_audit(config, _project(config), manager=manager)
    return manager.audits[EMBEDDED]


def named_model(config: pytest.Config) -> str:
    """The model that `--llmguard-model` or MODEL_PATH names; "" where neither does."""
    return str(option(config, "model") or os.environ.get("MODEL_PATH") or "")


def missing(config: pytest.Config) -> str:
    """Why no model can be had here: the libraries that it needs; empty where all are there."""
    lacking = [name for name in ("torch", "transformers", "peft") if find_spec(name) is None]
    what = "the model" if named_model(config) else "the built-in base model"
    return f"{what} needs {', '.join(lacking)}: pip install 'pytest-llmguard[train]'" if lacking else ""


def _project(config: pytest.Config) -> Project:
    project = Project.empty(config.invocation_params.dir)
    path = named_model(config)
    if not path:
        from llmguard_core.lab import lab

        path = str(lab().base)
    return project.replaced(path=path, kind="base")
