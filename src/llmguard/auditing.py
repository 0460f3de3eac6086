"""Run checks on a project: bind evidence by parameter name, time it, judge the outcome."""

from __future__ import annotations

import datetime as dt
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llmguard.catalogue import Entry
from llmguard.engines import Engine, serial
from llmguard.errors import EvidenceError, MissingEvidence
from llmguard.evidence import Evidence
from llmguard.findings import Findings, Severity
from llmguard.project import Project, load_project
from llmguard.registry import Registry
from llmguard.report import CheckResult, Outcome, Report

__all__ = ["Audit", "audit"]

NOTHING = "nothing to judge: the project has none of what this check looks at"
"""Why a check is skipped that had its evidence and looked at nothing in it: it must not look green."""

BEYOND_PATHS = frozenset({"environment", "storage"})
"""Families whose checks touch no path of the project in this process: they run whatever its file systems do."""

COLLECTED = {"batches", "encoded", "loading", "pipeline", "prompts", "template", "tokenizer"}
"""Evidence that comes from child processes."""
TRIED = ("environment", "remote", "repository", "hub_cache")
"""Evidence that is tried in probes: `begin(names of checks)` starts what they will ask for, and comes back at once."""


@dataclass
class Audit:
    """One project under audit: which checks apply to which targets, and what each of them says.

    Evidence is loaded lazily and once. `strict` makes warnings fail; `engine` runs the checks; `today` decides which have ended.
    """

    project: Project
    registry: Registry = field(default_factory=Registry)
    evidence: Evidence = None  # type: ignore[assignment]  # filled in below: it needs the project
    strict: bool = False
    engine: Engine = serial
    today: dt.date = field(default_factory=dt.date.today)

    def __post_init__(self) -> None:
        self.evidence = self.evidence or Evidence(self.project)

    def plan(self, tiers: Iterable[str] = ("preflight",)) -> list[tuple[Entry, str]]:
        """Every check of the tiers with each of its targets ('' where it has none), without loading anything."""
        wanted = set(tiers)
        return [
            (entry, target)
            for entry in self.registry
            if entry.tier in wanted
            for target in self.targets(entry)
        ]

    def begin(self, entries: Iterable[Entry]) -> None:
        """Start the children that load the tokenizer, run the user's code and try the machine, if a check will want them.

        They then run while other checks do; without this call they start when the first check asks.
        """
        wanted = list(entries)
        if any(COLLECTED & {*entry.needs, entry.over} for entry in wanted):
            self.evidence.collected.start()
        if any("dry_run" in entry.needs for entry in wanted):
            with suppress(MissingEvidence):  # the checks say so
                self.evidence.dry_run.start()
        for kind in TRIED if self.evidence.options.share is None else ():  # workers run side by side already
            names = [entry.name for entry in wanted if kind in entry.needs]
            with suppress(MissingEvidence, EvidenceError):  # the check that asks for it says so
                if names:
                    self.evidence.get(kind).begin(names)

    def targets(self, entry: Entry) -> list[str]:
        """What a check is repeated over in this project; [''] where it is run once (or will say what is missing)."""
        return (self.evidence.targets(entry.over) if entry.over and not self._unreachable(entry) else []) or [
            ""
        ]

    def _unreachable(self, entry: Entry) -> str:
        """Why a check must not touch the project's paths; "" where it may. A read on a dead mount never comes back."""
        silent = () if entry.family in BEYOND_PATHS else self.evidence.get("mounts").silent
        names = ", ".join(one.name for one in silent)
        return f"not looked at: {names} does not answer, see named_paths_answer" if silent else ""

    def run(self, entry: Entry, target: str = "") -> CheckResult:
        """Run one check on one target; never raises for anything the project or its data hold."""
        started = time.perf_counter()
        outcome, reason, findings = self._attempt(entry, target)
        seconds = time.perf_counter() - started
        return CheckResult(
            entry.name, entry.family, entry.tier, target, outcome, reason,
            findings.looked_at, findings.unit, seconds, tuple(findings), entry.bugs,
        )  # fmt: skip

    def _attempt(self, entry: Entry, target: str) -> tuple[Outcome, str, Findings]:
        if reason := self._unreachable(entry):
            return Outcome.SKIPPED, reason, Findings()
        try:
            check = entry.load()
            bound = self.bind(check.parameters, entry, target)
            findings = self._told(self.engine(check, bound))
        except MissingEvidence as missing:
            return Outcome.SKIPPED, missing.remedy, Findings()
        except EvidenceError as broken:
            return Outcome.SKIPPED, str(broken), Findings(broken.findings, check=entry.name)
        except Exception as fault:  # a fault of the check, third-party ones included, must not end the audit
            return Outcome.ERROR, _fault(fault), Findings()
        return (*self._judge(entry, findings), findings)

    def bind(self, parameters: dict[str, bool], entry: Entry, target: str) -> dict[str, Any]:
        """Evidence for the parameters of a check.

        Raises:
            MissingEvidence: a required kind is not named by the project.
            EvidenceError: a kind is named and cannot be had.
        """
        bound: dict[str, Any] = {}
        for name, optional in parameters.items():
            try:
                bound[name] = self.evidence.get(name, target, over=entry.over)
            except MissingEvidence:
                if not optional:
                    raise
        return bound

    def _told(self, findings: Findings) -> Findings:
        """The findings with the text of the tokens they show, where their check reads no tokenizer and the project has one."""
        from llmguard.reporting.tokens import told_by, untold

        if not any(untold(f.evidence) for f in findings):
            return findings
        try:
            tokenizer = self.evidence.get("tokenizer", "")
        except (MissingEvidence, EvidenceError):
            return findings
        told = (replace(f, evidence=told_by(tokenizer, f.evidence)) for f in findings)
        return Findings(told, check=findings.check, looked_at=findings.looked_at, unit=findings.unit)

    def _judge(self, entry: Entry, findings: Findings) -> tuple[Outcome, str]:
        if not findings and not findings.looked_at:
            return Outcome.SKIPPED, NOTHING
        worst = {f.severity for f in findings}
        bad = Severity.ERROR in worst or (self.strict and Severity.WARNING in worst)
        if not bad and Severity.WARNING not in worst:
            return Outcome.PASSED, ""
        accepted = self.project.schema.accept.get(entry.name)
        if accepted and (accepted.until is None or self.today <= accepted.until):
            until = f" (until {accepted.until})" if accepted.until else ""
            return Outcome.ACCEPTED, accepted.reason + until
        ended = f"accepted until {accepted.until}, which is over: {accepted.reason}" if accepted else ""
        return (Outcome.FAILED if bad else Outcome.WARNED), ended


def _fault(fault: Exception) -> str:
    frames = traceback.extract_tb(fault.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"the check itself broke, which says nothing about the project: {type(fault).__name__}: {fault}{place}"


def audit(
    project: Project | Path | str,
    *,
    tiers: Iterable[str] = ("preflight",),
    progress: Callable[[CheckResult], None] | None = None,
    **options: Any,
) -> Report:
    """Run every check of the tiers on a project (its file, or a folder's) and report.

    Raises:
        ProjectError: the project file cannot be used.
    """
    loaded = project if isinstance(project, Project) else load_project(project)
    session = Audit(loaded, **options)
    results = []
    try:
        plan = session.plan(tiers)
        session.begin(entry for entry, _ in plan)
        for entry, target in plan:
            results.append(session.run(entry, target))
            if progress:
                progress(results[-1])
    finally:
        session.evidence.close()
    return Report(project=loaded.name, checks=results)
