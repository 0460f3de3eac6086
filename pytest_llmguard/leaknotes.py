"""What the leak guard notes in a session, brought home from xdist's workers, and its section of the summary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from llmguard.estimates.interval import size_text
from llmguard.memory import LEVELS, devices, read
from llmguard.memory.verdict import Kind
from pytest_llmguard.leaktext import level_names, medium

if TYPE_CHECKING:
    from llmguard.memory.guard import Growth, Guard
    from llmguard.memory.verdict import Drift

__all__ = ["KEY", "Notes"]

KEY = "llmguard_leaks"
"""Of a worker's output."""
LONGEST = 240
"""Characters of a line; the whole stands in the failure."""
SHOWN = 10
"""Lines of each kind; the rest is counted."""
OUTSIDE = 2**30
"""Bytes that a session may take from the driver outside of the allocator before that is said: contexts, libraries, kernels."""


class Notes:
    """Lines for the summary; lists of plain text, so that a worker can send them."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self.leaks: list[str] = []
        self.drifts: list[str] = []
        self.mute: list[str] = []
        self.held: list[str] = []
        self.late: list[str] = []
        self.once = 0
        self.tests = 0
        self.no_peak = False
        self._first: dict[str, int] = {}

    # while it runs

    def begun(self) -> None:
        """Before the first test, and before anything is frozen: what is held already is nobody's leak, and is told."""
        self.tests += 1
        if self.tests > 1:
            return
        for device in devices():
            self._first[device.name] = _outside(device)
            objects = device.objects()
            size = sum(_bytes(each) for each in objects)
            if size >= 2**20:
                self.held.append(_held_line(device.name, size, objects))
            del objects

    def judged(self, item: pytest.Item, found: list[Growth]) -> None:
        """Count what grew once, by caches or warm-up."""
        self.once += sum(growth.kind is Kind.ONCE for growth in found)

    def line(self, item: pytest.Item, growth: Growth) -> str:
        """One leak in one line."""
        by = f": {growth.holders[0].kind}: {growth.holders[0].path}" if growth.holders else ""
        by = f": {growth.process}" if growth.process else by
        who = f"fixture {growth.fixture} of {item.nodeid}" if growth.fixture else item.nodeid
        kind = level_names["pinned"] if growth.level == "pinned" else medium(growth.device)
        text = f"{who}: {size_text(growth.grown)} of {kind} on {growth.device.name}{by}"
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 2]} …"

    def drifted(self, item: pytest.Item, device: str, drift: Drift) -> None:
        """One drift in one line."""
        self.drifts.append(
            f"{device}: {size_text(drift.grown)} over {drift.tests} tests, {size_text(drift.each)} each in the middle"
            f" (seen at {item.nodeid})"
        )

    # at the end

    def finish(self, guard: Guard) -> None:
        """Look for what was late, and for what could not be measured; a worker sends its notes."""
        found = devices() if self.tests else ()
        for name, size in guard.outside.still_late(found).items():
            self.late.append(
                f"{name}: {size_text(size)} of processes that have ended still stand with the driver"
            )
        for device in found:
            grown = _outside(device) - self._first.get(device.name, 0)
            if grown > OUTSIDE:
                self.late.append(
                    f"{device.name}: {size_text(grown)} more than at the start, outside of torch's allocator"
                )
        self.mute = _mute(self.no_peak) if self.tests else []
        if hasattr(self._config, "workerinput"):
            self._config.workeroutput[KEY] = self._sent()  # type: ignore[attr-defined]  # xdist puts it there

    def take(self, sent: dict[str, Any]) -> None:
        """The notes of one worker."""
        for name, value in sent.items():
            mine = getattr(self, name)
            setattr(
                self,
                name,
                mine + ([each for each in value if each not in mine] if isinstance(value, list) else value),
            )

    def show(self, reporter: pytest.TerminalReporter) -> None:
        """The section of the summary."""
        if not self.tests:
            return
        reporter.section("llmguard: memory", sep="=")
        leaks = f"{len(self.leaks)} leak{'' if len(self.leaks) == 1 else 's'}"
        once = f"; {self.once} times something grew once, as a cache does" if self.once else ""
        reporter.write_line(
            f"{self.tests} tests measured, {leaks}{once}",
            red=bool(self.leaks or self.drifts),
            green=not self.leaks,
        )
        for title, lines, colour in (
            ("leak", self.leaks, {"red": True}),
            ("drift of the session", self.drifts, {"red": True}),
            ("held before the first test", self.held, {}),
            ("at the end", self.late, {"yellow": True}),
            ("not measured", self.mute, {"yellow": True}),
        ):
            for line in lines[:SHOWN]:
                reporter.write_line(f"{title}: {line}", **colour)
            if len(lines) > SHOWN:
                reporter.write_line(f"{title}: {len(lines) - SHOWN} more")

    def _sent(self) -> dict[str, Any]:
        return {
            name: getattr(self, name) for name in ("leaks", "drifts", "mute", "held", "late", "once", "tests")
        }


def _outside(device: Any) -> int:
    figures = read(device, ("reserved", "driver"))
    return (figures.driver or 0) - (figures.reserved or 0) if figures.driver else 0


def _bytes(found: Any) -> int:
    from llmguard.memory.guard import bytes_of

    return bytes_of(found)


def _held_line(name: str, size: int, objects: list[Any]) -> str:
    from llmguard.memory.holders import explain

    told = "; ".join(f"{holder.kind}: {holder.path}" for holder in explain(objects, limit=3))
    return f"{size_text(size)} on {name} by what collection made ({told})"


def _mute(no_peak: bool) -> list[str]:
    """One line for each reason why a level could not be had."""
    reasons: dict[str, list[str]] = {}
    for device in devices():
        if device.name == "cpu":
            because = getattr(device, "because", "")
            by = getattr(device, "by", "the heap")
            text = f"no GPU was used here, or torch sees none: host memory was measured, by {by}"
            reasons.setdefault(text + (f" ({because})" if because else ""), []).append("GPU memory")
            continue
        read(device)
        for level in LEVELS[1:]:
            reason = device.why_not(level)
            if reason and not reason.startswith("one count a process"):
                reasons.setdefault(reason, []).append(f"{level_names[level]} on {device.name}")
    if no_peak:
        reasons.setdefault("no peak is kept for this memory", []).append("peak=")
    return [f"{', '.join(what)}: {reason}" for reason, what in reasons.items()]
