"""`project`: the project itself, for checks on what it says."""

from __future__ import annotations

from llmguard.evidence import Evidence
from llmguard.project import Project

__all__ = ["provide"]


def provide(evidence: Evidence, target: str) -> Project:
    """The project file, read."""
    return evidence.project
