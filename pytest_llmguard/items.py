"""Project files as pytest files, checks as pytest items."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llmguard.catalogue import TIERS, Entry
from llmguard.errors import LLMGuardError, ProjectError
from llmguard.report import CheckResult
from pytest_llmguard.discovery import asked_for
from pytest_llmguard.failures import Failure, others
from pytest_llmguard.manager import manager_of
from pytest_llmguard.projects import NO_PROJECT, audit_of
from pytest_llmguard.records import Record, attach, from_result, identity, unfinished

if TYPE_CHECKING:
    from llmguard.auditing import Audit

__all__ = ["CheckItem", "NoProject", "ProjectFile", "item_name"]

ALONE = frozenset({"environment", "storage", "source"})
"""Families that have something to look at in a folder without a project file."""


class ProjectFile(pytest.File):
    """`llmguard.toml`, or a pyproject.toml with `[tool.llmguard]`: one item for each check and target."""

    @classmethod
    def of(cls, parent: pytest.Collector, path: Path) -> ProjectFile:
        """The collector of a file; its node id is its path from the root, also when it lies outside."""
        root = parent.config.rootpath
        inside = path.is_relative_to(root)
        nodeid = None if inside else Path(os.path.relpath(path, root)).as_posix()
        made: ProjectFile = cls.from_parent(parent, path=path, nodeid=nodeid)
        return made

    def collect(self) -> Iterable[CheckItem]:
        """One item for each check and target; nothing but the project file is read.

        Raises:
            CollectError: the project file cannot be used: every problem at once, no traceback.
        """
        manager_of(self.config).collected.add(self.path.resolve())
        try:
            audit = audit_of(self.config, self.path)
            return [self._item(entry, target) for entry, target in dict.fromkeys(audit.plan(TIERS))]
        except ProjectError as bad:
            raise self.CollectError(str(ProjectError(self.nodeid, bad.problems))) from None
        except LLMGuardError as bad:
            raise self.CollectError(f"{self.nodeid}: {bad}") from None

    def _item(self, entry: Entry, target: str) -> CheckItem:
        made: CheckItem = CheckItem.from_parent(
            self, name=item_name(entry, target), entry=entry, target=target
        )
        return made


class NoProject(pytest.Collector):
    """The checks that need no project file, where `-m` asks for them by their tier."""

    def collect(self) -> Iterator[CheckItem]:
        """Preflight: environment, storage and source; sentinel: on the tiny base model that is built in.

        Raises:
            CollectError: the checks of an installed distribution cannot be used.
        """
        try:
            entries = list(manager_of(self.config).registry)
        except LLMGuardError as bad:
            raise self.CollectError(str(bad)) from None
        for entry in entries:
            if self._applies(entry) and asked_for(self.config.option.markexpr, entry.tier, entry.family):
                yield CheckItem.from_parent(self, name=entry.name, entry=entry, target="")

    @staticmethod
    def _applies(entry: Entry) -> bool:
        if entry.tier == "sentinel":
            return entry.family == "sentinel"
        return entry.tier == "preflight" and entry.family in ALONE


class CheckFailed(Exception):
    """Ends an item whose check failed; carries its record."""

    def __init__(self, record: Record) -> None:
        self.record = record
        super().__init__(record["check"])


class CheckItem(pytest.Item):
    """One check on one target."""

    def __init__(self, *, entry: Entry, target: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.entry, self.target = entry, target
        for marker in dict.fromkeys((entry.tier, entry.family)):
            self.add_marker(marker)
        for slug in entry.bugs:
            self.add_marker(pytest.mark.bug(slug))
        self.extra_keyword_matches.update(entry.bugs)
        attach(self, identity(entry, target, self.project))

    @property
    def project(self) -> str:
        """The name of the project in reports."""
        return self.parent.nodeid if isinstance(self.parent, ProjectFile) else NO_PROJECT

    def runtest(self) -> None:
        """Run the check; the verdict is the policy's (`pytest_llmguard_outcome`).

        Raises:
            CheckFailed: the policy says that the item fails.
        """
        result = self._ready_audit().run(self.entry, self.target)
        record = from_result(result, self.project)
        attach(self, record)
        beside = others(record)
        if beside:
            self.add_report_section("call", "llmguard", beside)
        verdict = self._verdict(result)
        if verdict == "failed":
            raise CheckFailed(record)
        if verdict == "skipped":
            pytest.skip(result.reason or "skipped by the policy of this session")

    def _ready_audit(self) -> Audit:
        """The audit of this item's project; the first item of a project starts what its selected checks will wait for."""
        try:
            audit = self._audit()
        except LLMGuardError as bad:  # a built-in model that cannot be built
            record = unfinished(identity(self.entry, self.target, self.project), "error", str(bad))
            attach(self, record)
            raise CheckFailed(record) from None
        begun = manager_of(self.config).begun
        if self.parent not in begun:
            begun.add(self.parent)
            audit.begin(
                i.entry for i in self.session.items if isinstance(i, CheckItem) and i.parent is self.parent
            )
        return audit

    def _audit(self) -> Audit:
        if isinstance(self.parent, ProjectFile):
            return audit_of(self.config, self.parent.path)
        if self.entry.tier == "sentinel":
            from pytest_llmguard.embedded import embedded_audit, missing

            lacking = missing(self.config)
            if lacking:
                pytest.skip(lacking)
            return embedded_audit(self.config)
        return audit_of(self.config, None)

    def _verdict(self, result: CheckResult) -> str:
        verdict = self.ihook.pytest_llmguard_outcome(config=self.config, item=self, result=result)
        if verdict not in ("passed", "failed", "skipped"):
            pytest.fail(
                f"pytest_llmguard_outcome gave {verdict!r}: expected 'passed', 'failed' or 'skipped'",
                pytrace=False,
            )
        return str(verdict)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The findings of the check, without a traceback; anything else as pytest shows it."""
        if isinstance(excinfo.value, CheckFailed):
            return Failure(excinfo.value.record)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        """The project file (or what stands in for it), and the check's name."""
        path = self.path if isinstance(self.parent, ProjectFile) else self.path / "llmguard"
        return path, 0, self.name


def item_name(entry: Entry, target: str) -> str:
    """`check[target]` with everything unprintable escaped."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in target)
    return f"{entry.name}[{shown}]" if target else entry.name
