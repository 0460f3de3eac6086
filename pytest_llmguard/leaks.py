"""The leak guard's pytest face: begins before a test's fixtures, judges when all are gone, charges long-lived fixtures by themselves.

Judged is in the last moment of the teardown's report: every finalizer has run, every other plugin has had its look at the item, and the
verdict becomes that report. Registered where the suite is guarded (`--llmguard-gpu-leaks`), or a test with the marker was collected.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import traceback
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from llmguard.memory.guard import DEFAULT_LIMIT, Growth, Guard
from llmguard.memory.verdict import Kind
from pytest_llmguard.ladder import option
from pytest_llmguard.leaknotes import Notes
from pytest_llmguard.limits import Limits, limits_of

if TYPE_CHECKING:
    from llmguard.memory.guard import Charge

__all__ = ["Leaks", "leaks_of"]

NAME = "llmguard-leaks"
ANYTHING = sys.maxsize
LAST = ("last_exc", "last_type", "last_value", "last_traceback")


def leaks_of(config: pytest.Config) -> Leaks:
    """The guard of a session; registered when it is first asked for."""
    found: Leaks | None = config.pluginmanager.get_plugin(NAME)
    if found is None:
        found = Leaks(config)
        config.pluginmanager.register(found, NAME)
    return found


class Told:
    """A verdict as pytest prints it: the five parts in the failure, the first line in the short summary."""

    def __init__(self, text: str) -> None:
        from pytest_llmguard.failures import Headline

        where, _, what = text.splitlines()[0].partition(": ")
        self.text, self.reprcrash = text, Headline(where, what)

    def toterminal(self, tw: Any) -> None:
        """Write the parts."""
        for line in self.text.splitlines():
            tw.line(line)

    def __str__(self) -> str:
        return self.text


class Leaks:
    """Hooks around each guarded test of a session."""

    def __init__(self, config: pytest.Config) -> None:
        self.suite: bool = option(config, "gpu_leaks")
        self.guard, self.notes = Guard(), Notes(config)
        self._item: pytest.Item | None = None
        self._limits = Limits()
        self._failed = self._raised = False

    # around a test

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None]:
        """Read before any fixture is set up."""
        limits = self._asked(item)
        if limits is not None:
            self._item, self._limits, self._failed, self._raised = item, limits, False, False
            self.notes.begun()
            self.guard.begin(closely=item.get_closest_marker("gpu_memory") is not None)
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, Any, Any]:
        """What a fixture that outlives the test takes is charged to the fixture."""
        if fixturedef.scope == "function":
            return (yield)
        before = self.guard.fast()
        value = yield
        name = f"{fixturedef.argname} (scope {fixturedef.scope})"
        charge: Charge = self.guard.charged(name, before)
        fixturedef.addfinalizer(functools.partial(self.guard.ended, charge))
        return value

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
        """Run the body again where the marker asks for it: a cache grows once, a leak each time."""
        if (
            pyfuncitem is not self._item
            or not self._limits.repeat
            or inspect.iscoroutinefunction(pyfuncitem.obj)
        ):
            return (yield)
        before = self.guard.held()
        result = yield
        after = self.guard.held()
        first = {key: value - before.get(key, 0) for key, value in after.items()}
        arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
        self.guard.repeated(functools.partial(pyfuncitem.obj, **arguments), self._limits.repeat, first)
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Judge when the teardown is over."""
        report = yield
        if item is self._item:
            self._failed = self._failed or report.failed
            self._raised = self._raised or call.excinfo is not None
            if report.when == "teardown":
                self._item = None
                self._judge(item, call, report)
        return report

    # at the end

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """A worker hands its notes to its controller."""
        self.notes.finish(self.guard)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """What was found, what could not be measured."""
        self.notes.show(terminalreporter)

    def _asked(self, item: pytest.Item) -> Limits | None:
        """Limits of the marker; without one, those of the suite if it is guarded. A wrong marker is told elsewhere."""
        marker = item.get_closest_marker("gpu_memory")
        if marker is None:
            return Limits(DEFAULT_LIMIT) if self.suite else None
        with contextlib.suppress(ValueError):
            return limits_of(marker)
        return None

    def _judge(self, item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
        limits = self._limits
        peaks = self.guard.peak() if limits.peak is not None else {}
        limit = ANYTHING if limits.leak is None else limits.leak
        marked = item.get_closest_marker("gpu_memory") is not None
        found = self.guard.end(limit, closely=marked, let_go=functools.partial(self._let_go, item, call))
        texts = [self._told(item, growth) for growth in found if growth.kind is Kind.LEAK]
        texts += self._peaks(item, peaks, limits.peak)
        if not texts and not self._failed:
            texts += self._drifts(item)
        self.notes.judged(item, found)
        if texts:
            _fail(report, "\n\n".join(texts))

    def _let_go(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        """What pytest itself drops a moment later: values of fixtures, and the frames of a test that failed, or was expected to."""
        if isinstance(getattr(item, "funcargs", None), dict):
            item.funcargs = {}  # type: ignore[attr-defined]  # of functions and doctests
        if self._raised and not item.config.option.usepdb:
            for error in (getattr(sys, "last_value", None), call.excinfo and call.excinfo.value):
                _clear(error, set())
            for name in LAST:  # pytest drops them before the next test is called
                vars(sys).pop(name, None)

    def _told(self, item: pytest.Item, growth: Growth) -> str:
        from pytest_llmguard.leaktext import leak_text

        self.notes.leaks.append(self.notes.line(item, growth))
        return leak_text(item, growth)

    def _peaks(self, item: pytest.Item, peaks: dict[str, int], limit: int | None) -> list[str]:
        if limit is None:
            return []
        from pytest_llmguard.leaktext import peak_text

        if not peaks:
            self.notes.no_peak = True
        return [peak_text(item, name, used, limit) for name, used in peaks.items() if used > limit]

    def _drifts(self, item: pytest.Item) -> list[str]:
        """A drift is told where it is first seen, by the test that was there."""
        from llmguard.memory import devices

        texts = []
        for device in devices():
            for level in ("allocated", "pinned"):
                key = (device.name, level)
                drift = self.guard.drift(key, device.resolution)
                if drift is not None:
                    from pytest_llmguard.leaktext import drift_text

                    texts.append(drift_text(item, device, level, drift))
                    self.notes.drifted(item, device.name, drift)
        return texts


def _fail(report: pytest.TestReport, text: str) -> None:
    """The verdict is the teardown's outcome; where that failed already, it is told beside."""
    if report.outcome == "failed":
        report.sections.append(("llmguard: memory", text))
        return
    report.outcome = "failed"
    report.longrepr = Told(text)  # type: ignore[assignment]  # pytest asks for `toterminal` and for `str`


def _clear(error: BaseException | None, seen: set[int]) -> None:
    """Clear the frames of an exception and of all that hang on it."""
    if not isinstance(error, BaseException) or id(error) in seen:
        return
    seen.add(id(error))
    traceback.clear_frames(error.__traceback__)
    for frame, _ in traceback.walk_tb(error.__traceback__):
        _ = frame.f_locals  # whoever looked at it before left a copy, which is renewed by looking again
    for other in (error.__cause__, error.__context__, *getattr(error, "exceptions", ())):
        _clear(other, seen)
