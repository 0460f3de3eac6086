"""What one session knows: results by node id, audits by project, what went wrong; registered only when there is something to know."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from llmguard.auditing import Audit
    from llmguard.engines import Engine
    from llmguard.registry import Registry
    from llmguard.report import CheckResult
    from pytest_llmguard.records import Record

__all__ = ["KEY", "Manager", "manager_of"]

KEY = "llmguard"
"""Name of the user property that holds a record."""
MANAGER: pytest.StashKey[Manager] = pytest.StashKey()


def manager_of(config: pytest.Config) -> Manager:
    """The manager of a session; made, and its hooks registered, when it is first asked for."""
    if MANAGER not in config.stash:
        config.stash[MANAGER] = Manager(config)
        config.pluginmanager.register(Hooks(config.stash[MANAGER]), "llmguard-manager")
    return config.stash[MANAGER]


class Manager:
    """State of a session that uses us."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.records: dict[str, Record] = {}
        self.errors: list[str] = []
        self.promised: dict[str, Path] = {}
        self.promised_project: Path | None = None
        self.written: list[str] = []
        self.collected: set[Path] = set()
        self.audits: dict[object, Audit] = {}
        self.begun: set[object] = set()
        self.closing = ExitStack()

    @property
    def is_worker(self) -> bool:
        """Whether this process is an xdist worker, whose results its controller takes in."""
        return hasattr(self.config, "workerinput")

    @cached_property
    def share(self) -> Path:
        """A folder that the processes of this session may share; made by the first that writes into it."""
        told = getattr(self.config, "workerinput", {}).get("llmguard_share")
        return Path(told or os.path.join(tempfile.gettempdir(), f"llmguard-{os.urandom(12).hex()}"))  # noqa: PTH118  # gettempdir is a str

    @cached_property
    def registry(self) -> Registry:
        """All checks: the catalogue, those of installed distributions, those of conftest files."""
        from pytest_llmguard.projects import registry_of

        return registry_of(self.config)

    @cached_property
    def engine(self) -> Engine:
        """How checks go over many rows; one for all projects of the session."""
        from llmguard.engines import Processes, serial
        from pytest_llmguard.ladder import option

        if option(self.config, "engine") == "serial":
            return serial
        engine = Processes()
        self.closing.callback(engine.close)
        return engine


class Hooks:
    """The hooks that only a session that uses us needs.

    Apart from the manager: registering a plugin may evaluate all its properties (pytest 8.0 does).
    """

    def __init__(self, manager: Manager) -> None:
        self.manager = manager

    @pytest.hookimpl(trylast=True)
    def pytest_llmguard_outcome(self, result: CheckResult) -> str:
        """The built-in policy; a conftest's own comes first."""
        return {"failed": "failed", "error": "failed", "skipped": "skipped"}.get(
            result.outcome.value, "passed"
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the record off a report, before anything prints or stores the report."""
        if self.manager.is_worker:
            return
        if any(name == KEY for name, _ in report.user_properties):
            from pytest_llmguard.records import receive

            receive(report, self.manager.records)
        elif report.when not in ("setup", "call", "teardown") and "::" in report.nodeid:
            from pytest_llmguard.records import lost

            lost(report, self.manager)

    def pytest_report_teststatus(
        self, report: pytest.CollectReport | pytest.TestReport
    ) -> tuple[str, str, Any] | None:
        """A check that passed with a warning, or was accepted, says so."""
        ran = report.when == "call" and report.passed
        outcome = self.manager.records.get(report.nodeid, {}).get("outcome") if ran else None
        if outcome in ("warned", "accepted", "failed", "error"):
            return "passed", str(outcome)[0], (str(outcome).upper(), {"yellow": True})
        return None

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A collection that failed is in the JSON report, too."""
        if report.failed:
            text = str(report.longreprtext).strip()
            self.manager.errors.append(text if text.startswith(report.nodeid) else f"{report.nodeid}: {text}")

    def pytest_internalerror(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """An internal error is in the JSON report, too."""
        self.manager.errors.append(f"internal error: {excinfo.exconly()}")

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """So is an interruption."""
        self.manager.errors.append(f"interrupted: {excinfo.exconly()}")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the reports that were asked for, before the summary names them."""
        if self.manager.is_worker:
            return
        if session.shouldfail or session.shouldstop:
            self.manager.errors.append(f"stopped early: {session.shouldfail or session.shouldstop}")
        if self.manager.promised:
            from pytest_llmguard.reports import write_reports

            write_reports(self.manager, session)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The section of this plugin, where there is anything to say."""
        if self.manager.records or self.manager.written:
            from pytest_llmguard.summary import print_summary

            print_summary(self.manager, terminalreporter)

    def pytest_unconfigure(self) -> None:
        """End what the evidence still runs; remove what was shared."""
        if self.manager.is_worker and self.manager.audits:
            from pytest_llmguard.sharing import wait_for_others

            wait_for_others(self.manager.share, self.manager.config)
        self.manager.closing.close()
        if not self.manager.is_worker and self.manager.share.is_dir():
            import shutil

            shutil.rmtree(self.manager.share, ignore_errors=True)
