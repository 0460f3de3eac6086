"""What an audit says, as records, and as the JSON that other programs rely on (version 1)."""

from __future__ import annotations

import enum
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmguard.findings import Finding, Severity

__all__ = ["CheckResult", "Outcome", "Report", "document", "dumps", "totals"]

VERSION = 1


class Outcome(str, enum.Enum):
    """How a check ended. `error` is a fault of the check itself, never of the data."""

    PASSED = "passed"
    FAILED = "failed"
    WARNED = "warned"
    SKIPPED = "skipped"
    ACCEPTED = "accepted"
    ERROR = "error"


@dataclass(frozen=True)
class CheckResult:
    """One check on one target."""

    check: str
    family: str
    tier: str
    target: str
    outcome: Outcome
    reason: str = ""
    looked_at: int = 0
    unit: str = "rows"
    seconds: float = 0.0
    findings: tuple[Finding, ...] = ()
    bugs: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """`check[target]`, or the check alone where it has no target."""
        return f"{self.check}[{self.target}]" if self.target else self.check

    @property
    def errors(self) -> list[Finding]:
        """The findings that fail the check."""
        return [f for f in self.findings if f.severity is Severity.ERROR]

    def to_json(self) -> dict[str, Any]:
        """As in the `checks` array of the report."""
        return {
            "check": self.check,
            "family": self.family,
            "tier": self.tier,
            "target": self.target,
            "outcome": self.outcome.value,
            "reason": self.reason,
            "looked_at": self.looked_at,
            "unit": self.unit,
            "seconds": round(self.seconds, 4),
            "findings": [{**f.to_json(), "bugs": list(self.bugs)} for f in self.findings],
        }


@dataclass(frozen=True)
class Report:
    """All results of one audit. `error` is set when the session broke before it could finish."""

    project: str
    checks: Sequence[CheckResult] = ()
    error: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def totals(self) -> dict[str, int]:
        """How many checks ended in each outcome; every outcome is there, also with 0."""
        return totals(c.outcome.value for c in self.checks)

    def to_json(self) -> dict[str, Any]:
        """The whole report, JSON-safe."""
        return document(self.project, [c.to_json() for c in self.checks], self.error)

    def findings(self, *severities: Severity) -> list[Finding]:
        """All findings, or those of the severities given."""
        return [f for c in self.checks for f in c.findings if not severities or f.severity in severities]


def totals(outcomes: Iterable[str]) -> dict[str, int]:
    """Outcome -> count, zero included."""
    counted = Counter(outcomes)
    return {o.value: counted.get(o.value, 0) for o in Outcome}


def document(project: str, checks: Sequence[Mapping[str, Any]], error: str | None = None) -> dict[str, Any]:
    """The JSON report from check records that are JSON already (as they cross xdist)."""
    found: dict[str, Any] = {"version": VERSION, "project": project}
    if error:
        found["error"] = error
    return {**found, "checks": list(checks), "totals": totals(str(c["outcome"]) for c in checks)}


def dumps(report: Mapping[str, Any]) -> str:
    """Strict JSON text: no NaN, keys in order, valid whatever the data hold (lone surrogates are escaped)."""
    return json.dumps(report, ensure_ascii=True, indent=1, allow_nan=False, default=str)
