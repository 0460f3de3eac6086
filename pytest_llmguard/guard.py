"""What the `llmguard` fixture hands out: any check by its name, with evidence of the test or of the project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmguard.auditing import Audit
from llmguard.contract import Check, RowCheck
from llmguard.errors import MissingEvidence, UsageError
from llmguard.findings import Findings, require
from llmguard.project import Project, find_project, load_project
from llmguard.report import Report
from pytest_llmguard.ladder import option
from pytest_llmguard.manager import manager_of
from pytest_llmguard.projects import build_audit

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest

__all__ = ["Guard"]


class Guard:
    """Runs checks in a user's own test."""

    def __init__(self, config: pytest.Config, node: pytest.Item) -> None:
        self._config, self._node = config, node
        self._manager = manager_of(config)

    def check(self, name: str, /, *, target: str = "", **evidence: Any) -> Findings:
        """Run a check on evidence given by parameter name; what is not given comes from the project file, where there is one.

        Raises:
            UsageError: no such check, evidence that it does not take, or evidence that neither the test nor a project gives.
        """
        entry = self._manager.registry.get(name)
        check = entry.load()
        unknown = sorted(set(evidence) - set(check.parameters))
        if unknown:
            raise UsageError(name, unknown, f"evidence named {', '.join(check.parameters)}")
        rest = {n: optional for n, optional in check.parameters.items() if n not in evidence}
        return check(**evidence, **self._from_project(check, entry.over, rest, target))

    def require(self, name: str, /, *, target: str = "", **evidence: Any) -> None:
        """Run a check and fail the test with all of its findings where it finds an error (with `strict`, a warning).

        Raises:
            CheckFailed: carries the findings.
        """
        require(
            self.check(name, target=target, **evidence), strict=option(self._config, "strict", self._node)
        )

    def audit(self, project: Project | Path | str, tiers: Iterable[str] = ("preflight",)) -> Report:
        """Run every check of the tiers on a project: a `Project`, a project file, or a folder that has one.

        Raises:
            ProjectError: the project file cannot be used.
            UsageError: a folder without a project file.
        """
        audit = self._audit(project if isinstance(project, Project) else load_project(_file(Path(project))))
        try:
            results = [audit.run(entry, target) for entry, target in audit.plan(tiers)]
        finally:
            audit.evidence.close()
        return Report(audit.project.name, results)

    def _audit(self, project: Project) -> Audit:
        return build_audit(self._config, project, self._node, manager=self._manager)

    def _from_project(
        self, check: Check[Any] | RowCheck[Any], over: str, rest: dict[str, bool], target: str
    ) -> dict[str, Any]:
        """Evidence of the project for the parameters that the test leaves open; loaded once a session and marker."""
        if not rest:
            return {}
        audit = self._session_audit()
        found: dict[str, Any] = {}
        for name, optional in rest.items():
            try:
                found[name] = audit.evidence.get(name, target, over=over)
            except (MissingEvidence, UsageError) as missing:
                if not optional:
                    raise UsageError(
                        name,
                        None,
                        f"evidence for {check.name}: give {name}=… or a project that has it ({missing})",
                    ) from None
        return found

    def _session_audit(self) -> Audit:
        file = option(self._config, "project", self._node) or find_project(self._config.rootpath)
        key = (
            str(file),
            *(str(option(self._config, n, self._node)) for n in ("model", "adapter", "sample", "deadline")),
        )
        if key not in self._manager.audits:
            project = load_project(_file(file)) if file else Project.empty(self._config.rootpath)
            self._manager.audits[key] = self._audit(project)
        return self._manager.audits[key]


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = find_project(path)
    if found is None:
        raise UsageError(
            "project", str(path), "a project file, or a folder that has one (`llmguard init` writes one)"
        )
    return found
