"""What the edge cases share: a user's project in a folder, of which any check can be asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.configs import Folder
from support.quick import frozen, one_thread

from llmguard.auditing import Audit
from llmguard.findings import Finding, Severity
from llmguard.project import load_project
from llmguard.report import CheckResult, Outcome

__all__ = ["frozen", "one_thread"]


class Project(Folder):
    """A project as a user has it: a project file and what it names, audited check by check with nothing put in their way."""

    def results_of(self, *checks: str, known: Mapping[str, Any] | None = None) -> dict[str, CheckResult]:
        """What these checks say of every target, by id; `known`: evidence that is there already, by its kind."""
        audit = Audit(load_project(self.path / "llmguard.toml", environ={}))
        audit.evidence._known.update({(kind, ""): value for kind, value in (known or {}).items()})
        plan = [
            (entry, target) for entry, target in audit.plan(("preflight", "sentinel")) if entry.name in checks
        ]
        assert {entry.name for entry, _ in plan} == {*checks}, "there is no such check"
        try:
            results = [audit.run(*each) for each in plan]
        finally:
            audit.evidence.close()
        assert [r.reason for r in results if r.outcome is Outcome.ERROR] == []
        return {result.id: result for result in results}

    def findings(self, *checks: str, known: Mapping[str, Any] | None = None) -> list[Finding]:
        """All that these checks find; a check that was skipped has said nothing, which is not the same as having found nothing."""
        results = self.results_of(*checks, known=known).values()
        assert [f"{r.id}: {r.reason}" for r in results if r.outcome is Outcome.SKIPPED] == []
        return [finding for result in results for finding in result.findings]

    def told(self, check: str, severity: str = "error", known: Mapping[str, Any] | None = None) -> Finding:
        """The one finding of a check, of this severity."""
        found = self.findings(check, known=known)
        assert [f.severity for f in found] == [Severity(severity)], [f.message for f in found]
        return found[0]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """An empty folder."""
    return Project(tmp_path)
