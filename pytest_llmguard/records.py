"""Results as JSON-safe records: how they cross xdist (`report.user_properties`) and how they reach the reports."""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any

import pytest

from llmguard.report import CheckResult, dumps
from pytest_llmguard.manager import KEY, Manager

if TYPE_CHECKING:
    from llmguard.catalogue import Entry

__all__ = ["Record", "attach", "from_result", "identity", "json_safe", "lost", "receive", "unfinished"]

Record = dict[str, Any]


def identity(entry: Entry, target: str, project: str) -> Record:
    """What is known before a check runs: enough to report one that is killed, skipped or lost."""
    known = {"check": entry.name, "family": entry.family, "tier": entry.tier, "target": target}
    return {**known, "project": project, "bugs": list(entry.bugs)}


def from_result(result: CheckResult, project: str) -> Record:
    """A result as the JSON report shows it, with its project and bugs."""
    found: Record = json_safe({**result.to_json(), "project": project, "bugs": list(result.bugs)})
    return found


def unfinished(known: Record, outcome: str, reason: str) -> Record:
    """The record of a check that has no result: skipped before it ran, or ended from outside."""
    blank = {
        "outcome": outcome,
        "reason": reason,
        "looked_at": 0,
        "unit": "rows",
        "seconds": 0.0,
        "findings": [],
    }
    return {**known, **blank}


def attach(item: pytest.Item, record: Record) -> None:
    """Put a record on an item, in place of the one it has: ASCII JSON text, in which nothing can break a transport."""
    item.user_properties[:] = [p for p in item.user_properties if p[0] != KEY]
    item.user_properties.append((KEY, dumps(record)))


def receive(report: pytest.TestReport, records: dict[str, Record]) -> None:
    """Take the record off a report and keep it; JUnit and others see short properties, people see findings."""
    record: Record = json.loads(str(next(value for name, value in report.user_properties if name == KEY)))
    report.user_properties = [p for p in report.user_properties if p[0] != KEY]
    if "outcome" not in record and report.passed:
        return  # set up, not run yet
    if "outcome" not in record:
        record = unfinished(record, "skipped" if report.skipped else "error", _reason(report))
    records[report.nodeid] = record
    report.user_properties += _flat(record)
    _dress(report, record)


def lost(report: pytest.TestReport, manager: Manager) -> None:
    """A worker that died leaves the node id of what it was running, and no more."""
    project, _, name = report.nodeid.rpartition("::")
    check, _, target = name.partition("[")
    if check in manager.registry:
        known = identity(manager.registry.get(check), target.removesuffix("]"), project)
        manager.records[report.nodeid] = unfinished(known, "error", str(report.longrepr))


def _dress(report: pytest.TestReport, record: Record) -> None:
    """A failure crosses xdist as plain text: give it its colours back. A skip is one of the project file, not of our code."""
    from pytest_llmguard.failures import Failure

    if isinstance(report.longrepr, str) and report.longrepr == str(Failure(record)):
        report.longrepr = Failure(record)  # type: ignore[assignment]  # pytest asks for `toterminal` alone
    elif report.skipped and isinstance(report.longrepr, tuple):
        report.longrepr = (record["project"], 1, f"Skipped: {record['reason']}")


def _reason(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(crash.message if crash else report.longrepr).strip()
    return f"did not end by itself ({report.when}): {text.splitlines()[0] if text else 'no reason given'}"


def _flat(record: Record) -> list[tuple[str, object]]:
    names = ("check", "family", "tier", "target", "project", "outcome", "reason", "looked_at")
    found = [(f"{KEY}.{name}", str(record[name])) for name in names if record.get(name) not in (None, "")]
    severities = [f["severity"] for f in record["findings"]]
    counts = [(f"{KEY}.{s}s", str(severities.count(s))) for s in dict.fromkeys(severities)]
    bugs = [(f"{KEY}.bugs", " ".join(record["bugs"]))] if record["bugs"] else []
    return [*found, *counts, *bugs]


DEEPEST = 40
"""Levels of containers that are followed; nothing that is small and JSON-safe has more."""


def json_safe(value: Any, inside: tuple[int, ...] = ()) -> Any:
    """Any value as JSON can hold it; what third-party checks put into their evidence must not end a session.

    `inside`: the ids of the containers that it lies in.
    """
    if isinstance(value, enum.Enum):
        return json_safe(value.value, inside)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if id(value) in inside or len(inside) > DEEPEST:
        return (
            f"<{type(value).__name__} {'that holds itself' if id(value) in inside else 'too deep to show'}>"
        )
    return _container(value, (*inside, id(value)))


def _container(value: Any, inside: tuple[int, ...]) -> Any:
    if isinstance(value, Mapping):
        return {_text(k): json_safe(v, inside) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(v, inside) for v in value]
    if isinstance(value, Set):
        return sorted((json_safe(v, inside) for v in value), key=str)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if hasattr(value, "tolist"):  # NumPy arrays and scalars, without importing NumPy
        return json_safe(value.tolist(), inside)
    return _text(value)


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # whatever a foreign __str__ does
        return f"<{type(value).__name__}>"
