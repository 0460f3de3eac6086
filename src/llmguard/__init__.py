"""Checks for LLM fine-tuning: data in, findings out.

Importing this package loads the standard library alone; every name below, and every check of the catalogue by its own
name, is imported when it is first used:

    from llmguard import require, collator_keeps_labels
    require(collator_keeps_labels(encoded, batches))
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmguard.auditing import Audit as Audit
    from llmguard.auditing import audit as audit
    from llmguard.contract import check as check
    from llmguard.contract import row_check as row_check
    from llmguard.errors import CheckFailed as CheckFailed
    from llmguard.errors import LLMGuardError as LLMGuardError
    from llmguard.errors import ProjectError as ProjectError
    from llmguard.errors import UsageError as UsageError
    from llmguard.findings import Finding as Finding
    from llmguard.findings import Findings as Findings
    from llmguard.findings import Severity as Severity
    from llmguard.findings import Where as Where
    from llmguard.findings import require as require
    from llmguard.project import Project as Project
    from llmguard.project import load_project as load_project
    from llmguard.report import Report as Report

__version__ = "0.1.0"

_HOME = {
    "Audit": "auditing",
    "CheckFailed": "errors",
    "Finding": "findings",
    "Findings": "findings",
    "LLMGuardError": "errors",
    "Project": "project",
    "ProjectError": "errors",
    "Report": "report",
    "Severity": "findings",
    "UsageError": "errors",
    "Where": "findings",
    "audit": "auditing",
    "check": "contract",
    "load_project": "project",
    "require": "findings",
    "row_check": "contract",
}

__all__ = sorted(_HOME)  # noqa: PLE0605  # one list: a test compares it with what can be imported


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"llmguard.{_HOME[name]}"), name)
    from llmguard.catalogue import CHECKS

    for entry in CHECKS:
        if entry.name == name:
            return entry.load()
    raise AttributeError(f"module 'llmguard' has no attribute {name!r}")


def __dir__() -> list[str]:
    from llmguard.catalogue import CHECKS

    return sorted({*globals(), *_HOME, *(entry.name for entry in CHECKS)})
