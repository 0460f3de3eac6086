"""What the report page shows, computed apart from how it looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Card", "Segment", "Skipped", "View", "parts_of", "view_of"]

OUTCOMES = ("failed", "error", "warned", "accepted", "passed", "skipped")
"""Worst first: the order of tiles, cards and rows."""
BLANK_RECORD: Mapping[str, Any] = {
    "check": "", "project": "", "family": "", "tier": "", "target": "", "outcome": "error", "reason": "",
    "looked_at": 0, "unit": "rows", "seconds": 0.0,
}  # fmt: skip
BLANK_FINDING: Mapping[str, Any] = {
    "severity": "warning", "message": "", "where": "", "expected": "", "actual": "", "remedy": "", "evidence": None, "bugs": (),
}  # fmt: skip
TITLES = (("Why it matters: ", "why"), ("Likely cause: ", "cause"), ("Remedy: ", "remedy"))


@dataclass(frozen=True)
class Card:
    """A check that has something to say: its record and its findings, each with its message in parts."""

    record: Mapping[str, Any]
    anchor: str
    findings: Sequence[tuple[Mapping[str, Any], Mapping[str, str]]]


@dataclass(frozen=True)
class Skipped:
    """Checks that wait for one thing: the line to add, or the reason."""

    reason: str
    checks: Sequence[str]
    line: str = ""


@dataclass(frozen=True)
class Segment:
    """A stretch of the bar under the tiles, in thousandths of its width."""

    outcome: str
    start: int
    width: int


@dataclass(frozen=True)
class View:
    """The whole page."""

    project: str
    version: int
    error: str
    verdict: str
    mood: str
    told: str
    totals: Sequence[tuple[str, int]]
    bar: Sequence[Segment]
    cards: Sequence[Card]
    rows: Sequence[tuple[Mapping[str, Any], str, str]]
    families: Sequence[str]
    skipped: Sequence[Skipped]

    @property
    def with_tokens(self) -> bool:
        """Whether a finding shows tokens, so that their colours need a legend."""
        return any("tokens" in (f.get("evidence") or {}) for card in self.cards for f, _ in card.findings)


def view_of(document: Mapping[str, Any]) -> View:
    """The page of a report whose strings are clean."""
    checks = [_record(c) for c in document["checks"] if isinstance(c, Mapping)]
    ordered = sorted(checks, key=lambda c: _rank(c["outcome"]))
    totals = [(outcome, sum(c["outcome"] == outcome for c in checks)) for outcome in OUTCOMES]
    cards = [_card(c, number) for number, c in enumerate(ordered) if c["findings"] or c["outcome"] == "error"]
    anchors = {id(card.record): card.anchor for card in cards}
    error = str(document.get("error") or "")
    verdict, mood = _verdict(dict(totals), error)
    return View(
        project=str(document.get("project") or "(no project file)"),
        version=int(document.get("version") or 0),
        error=error,
        verdict=verdict,
        mood=mood,
        told=_told(dict(totals), checks),
        totals=totals,
        bar=_bar(totals),
        cards=cards,
        rows=[(c, anchors.get(id(c), ""), _id(c)) for c in ordered],
        families=list(dict.fromkeys(c["family"] for c in checks)),
        skipped=_skipped(checks),
    )


def _record(check: Mapping[str, Any]) -> dict[str, Any]:
    """A record with all its keys; other programs' reports may lack some."""
    findings = [{**BLANK_FINDING, **f} for f in check.get("findings") or () if isinstance(f, Mapping)]
    return {**BLANK_RECORD, **check, "findings": findings}


def _rank(outcome: str) -> int:
    return OUTCOMES.index(outcome) if outcome in OUTCOMES else len(OUTCOMES)


def _id(check: Mapping[str, Any]) -> str:
    """The id of a result; a report of several projects says whose it is."""
    project = f"{check['project']}::" if check.get("project") else ""
    return (
        f"{project}{check['check']}[{check['target']}]" if check["target"] else f"{project}{check['check']}"
    )


def _card(check: Mapping[str, Any], number: int) -> Card:
    order = {"error": 0, "warning": 1, "note": 2}
    findings = sorted(check["findings"], key=lambda f: order.get(f.get("severity", ""), 3))
    return Card(check, f"c{number}", [(f, parts_of(f)) for f in findings])


def parts_of(finding: Mapping[str, Any]) -> dict[str, str]:
    """The five parts of a finding's message; what cannot be told apart stays in `what`."""
    parts: dict[str, list[str]] = {"what": [], "why": [], "cause": [], "remedy": []}
    current = "what"
    for line in str(finding.get("message") or "").split("\n"):
        title, name = next(((t, n) for t, n in TITLES if line.startswith(t)), ("", current))
        current = name
        parts[current].append(line[len(title) :])
    found = {name: "\n".join(lines).strip() for name, lines in parts.items()}
    where = str(finding.get("where") or "")
    what = found["what"].removeprefix(f"{where}: ") if where else found["what"]
    return {
        **found,
        "where": where,
        "what": what,
        "remedy": found["remedy"] or str(finding.get("remedy") or ""),
    }


def _verdict(totals: Mapping[str, int], error: str) -> tuple[str, str]:
    if error:
        return "The session broke before it could finish", "bad"
    if totals["failed"]:
        return f"{_count(totals['failed'], 'check')} failed", "bad"
    if totals["error"]:
        return f"{_count(totals['error'], 'check')} broke", "bad"
    if not sum(totals.values()):
        return "No checks ran", "odd"
    if totals["warned"]:
        return f"No errors, {_count(totals['warned'], 'warning')}", "odd"
    return (
        ("Every check that could run passed", "good")
        if totals["passed"]
        else ("Nothing could be checked", "odd")
    )


def _told(totals: Mapping[str, int], checks: Sequence[Mapping[str, Any]]) -> str:
    ran = len(checks) - totals["skipped"]
    seconds = sum(float(c["seconds"] or 0) for c in checks)
    skipped = (
        f" {_count(totals['skipped'], 'check')} skipped for want of something to look at."
        if totals["skipped"]
        else ""
    )
    return f"{ran:,} of {_count(len(checks), 'check')} ran, {seconds:.1f} s in all.{skipped}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _bar(totals: Sequence[tuple[str, int]]) -> list[Segment]:
    whole, at, segments = sum(n for _, n in totals), 0, []
    for outcome, number in totals:
        if number:
            start = round(1000 * at / whole)
            at += number
            segments.append(Segment(outcome, start, round(1000 * at / whole) - start))
    return segments


def _skipped(checks: Sequence[Mapping[str, Any]]) -> list[Skipped]:
    grouped: dict[str, list[str]] = {}
    for check in checks:
        if check["outcome"] == "skipped":
            grouped.setdefault(str(check["reason"]), []).append(_id(check))
    found = [Skipped(reason, names, _line_of(reason)) for reason, names in grouped.items()]
    return sorted(found, key=lambda s: (-len(s.checks), s.reason))


def _line_of(reason: str) -> str:
    """The line to add to the project file, where the reason names one in backticks."""
    return reason.split("`")[1] if reason.count("`") >= 2 and ("add " in reason or "set " in reason) else ""
