"""Run every check of the row families on evidence that is at hand, as an audit would, without a project."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llmguard.catalogue import CHECKS, Entry
from llmguard.findings import Finding, Severity

__all__ = ["FAMILIES", "alarms", "findings", "named"]

FAMILIES = ("template", "tokens", "masking", "collation", "packing", "prompts", "data")


def findings(evidence: dict[str, Any], families: Iterable[str] = FAMILIES) -> list[Finding]:
    """What all checks of some families find for which there is evidence."""
    wanted = set(families)
    return [f for entry in CHECKS if entry.family in wanted for f in _found(entry, evidence)]


def named(evidence: dict[str, Any], *checks: str) -> list[Finding]:
    """What some checks find, by name."""
    return [f for entry in CHECKS if entry.name in checks for f in _found(entry, evidence)]


def _found(entry: Entry, evidence: dict[str, Any]) -> list[Finding]:
    needed = {*entry.needs, *([entry.over] if entry.over else [])}
    if not needed <= set(evidence):
        return []
    check = entry.load()
    if not {name for name, optional in check.parameters.items() if not optional} <= set(evidence):
        return []
    return list(check(**{name: evidence[name] for name in check.parameters if name in evidence}))


def alarms(found: Iterable[Finding]) -> dict[str, Finding]:
    """The findings that are more than notes, by check."""
    return {f.check: f for f in found if f.severity is not Severity.NOTE}
