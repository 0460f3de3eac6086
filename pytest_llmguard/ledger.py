"""The ledger: regressions as pytest ran them, held against what a regression must have. Loaded only where `--llmguard-bugs` names a folder.

For each story an item `ledger[slug]` that fails where the story, its functions or its tests are not whole; over the whole session,
whether witness, rejects and accepts were really run; and a table at the end.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from llmguard.ledger import ROLES, Story, read_stories, role_of, twice
from llmguard.reporting.text import visible
from pytest_llmguard.ladder import option
from pytest_llmguard.manager import manager_of

__all__ = ["Ledger", "keep_ledger"]

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
COLOURS: dict[str, dict[str, bool]] = {
    PASSED: {"green": True},
    FAILED: {"red": True},
    SKIPPED: {"yellow": True},
}
NOT_RUN = "-"


def keep_ledger(config: pytest.Config) -> None:
    """Keep the ledger of the folder that was named.

    Raises:
        pytest.UsageError: there is no such folder.
    """
    folder = option(config, "bugs")
    if folder is None:
        return
    if not folder.is_dir():
        raise pytest.UsageError(
            f"--llmguard-bugs: no such folder: {str(folder)!r}; `llmguard bug new` makes it"
        )
    config.pluginmanager.register(Ledger(config, folder), "llmguard-ledger")


class NotWhole(Exception):
    """Ends an item whose regression lacks something."""


class LedgerItem(pytest.Item):
    """One regression: is there all that there must be?"""

    def __init__(self, *, story: Story, **rest: Any) -> None:
        super().__init__(**rest)
        self.story = story
        self.add_marker(pytest.mark.bug(story.slug))
        self.extra_keyword_matches.add(story.slug)

    def runtest(self) -> None:
        """Fail with every instruction at once."""
        if self.story.problems:
            raise NotWhole("\n".join(f"  - {problem}" for problem in self.story.problems))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """What is to be done, without a traceback."""
        if not isinstance(excinfo.value, NotWhole):
            return super().repr_failure(excinfo, style)
        name = self.story.file.name
        return f"{name} is no whole regression yet ({len(self.story.problems)} to do; see `llmguard bug new --help`):\n{excinfo.value}"

    def reportinfo(self) -> tuple[Path, int, str]:
        """The regression's file."""
        return self.story.file, 0, self.name


class Ledger:
    """What became of each bug's tests."""

    def __init__(self, config: pytest.Config, folder: Path) -> None:
        self.config, self.folder = config, folder.resolve()
        checks = {entry.name for entry in manager_of(config).registry}
        stories = read_stories(self.folder, checks)
        same = twice(stories)
        self.stories = {story.file: _told_twice(story, same.get(story.slug, ())) for story in stories}
        self.ran: dict[Path, dict[str, list[tuple[str, str]]]] = {}
        self.unproved: list[str] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Tests of a regression carry its slug; each regression that is collected is held against the ledger."""
        asked = {item.path.resolve() for item in items} | set(self._named())
        for item in items:
            story = self.stories.get(item.path.resolve())
            if story is not None:
                item.add_marker(pytest.mark.bug(story.slug))
                item.user_properties.append(("llmguard.bug", story.slug))
        for file, story in self.stories.items():
            if file in asked:
                made = LedgerItem.from_parent(
                    session, name=f"ledger[{story.slug}]", nodeid=self._id(story), story=story
                )
                items.append(made)

    def _named(self) -> Iterable[Path]:
        """The regressions that lie under what this session was asked to collect, those without a test too."""
        paths = [
            Path(self.config.invocation_params.dir, arg.partition("::")[0]).resolve()
            for arg in self.config.args
        ]
        whole = [path for path, arg in zip(paths, self.config.args, strict=True) if "::" not in arg]
        return (file for file in self.stories if any(file == path or path in file.parents for path in whole))

    def _id(self, story: Story) -> str:
        root = self.config.rootpath.resolve()
        file = story.file.relative_to(root) if story.file.is_relative_to(root) else story.file
        return f"{file.as_posix()}::ledger[{story.slug}]"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the outcome of each test that proves something."""
        role = role_of(report.nodeid)
        file = (self.config.rootpath / report.nodeid.partition("::")[0]).resolve()
        if not role or file not in self.stories or (report.when != "call" and report.passed):
            return
        reason = str(report.longrepr[2]) if report.skipped and isinstance(report.longrepr, tuple) else ""
        self.ran.setdefault(file, {}).setdefault(role, []).append(
            (report.outcome, reason.removeprefix("Skipped: "))
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """A bug whose tests were only skipped is guarded by nothing: that fails the session."""
        if hasattr(self.config, "workerinput"):
            return
        for file, roles in self.ran.items():
            for role, outcomes in roles.items():
                if all(outcome == SKIPPED for outcome, _ in outcomes):
                    self.unproved.append(
                        f"{self.stories[file].slug}: {ROLES[role]} was skipped: {outcomes[0][1]}"
                    )
        if self.unproved and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The table: bug, severity, checks, and what became of its three proofs."""
        if not self.ran:
            return
        terminalreporter.section(f"ledger: {self.folder.name}", sep="=")
        rows = [self._row(self.stories[file], roles) for file, roles in sorted(self.ran.items())]
        widths = [max(len(row[i]) for row in [HEAD, *rows]) for i in range(len(HEAD))]
        terminalreporter.write_line(
            "  ".join(h.ljust(w) for h, w in zip(HEAD, widths, strict=True)).rstrip(), bold=True
        )
        for row in rows:
            for number, (cell, width) in enumerate(zip(row, widths, strict=True)):
                last = number == len(row) - 1
                terminalreporter.write(cell if last else f"{cell.ljust(width)}  ", **COLOURS.get(cell, {}))
            terminalreporter.write_line("")
        whole = sum(row[2:5] == [PASSED] * len(ROLES) for row in rows)
        terminalreporter.write_line(
            f"{whole} of {len(rows)} bugs proved: witness, rejects and accepts passed"
        )
        for line in self.unproved:
            terminalreporter.write_line(f"not proved: {visible(line)}", red=True)

    def _row(self, story: Story, roles: dict[str, list[tuple[str, str]]]) -> list[str]:
        proofs = [_outcome(roles.get(role, ())) for role in ROLES]
        found_by = ", ".join((*story.checks, *story.guards)) or NOT_RUN
        return [visible(story.slug), story.severity or NOT_RUN, *proofs, found_by]


HEAD = ["bug", "severity", *ROLES, "checks"]


def _outcome(seen: Iterable[tuple[str, str]]) -> str:
    outcomes = {outcome for outcome, _ in seen}
    return next((name for name in (FAILED, PASSED, SKIPPED) if name in outcomes), NOT_RUN)


def _told_twice(story: Story, files: Iterable[Path]) -> Story:
    others = [file for file in files if file != story.file]
    if not others:
        return story
    problem = f"its slug is also that of {', '.join(map(str, others))}: rename one of them"
    return Story(story.slug, story.file, story.title, story.fields, story.tests, (*story.problems, problem))
