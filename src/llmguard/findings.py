"""What a check says: frozen records; printing them is someone else's job."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from llmguard.errors import CheckFailed

__all__ = ["Finding", "Findings", "Severity", "Where", "error", "note", "require", "warning"]


class Severity(str, enum.Enum):
    """How bad: an error fails the check, a warning is shown, a note is for the record."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Where:
    """A place a person can go to: file and line, row of a split, column, token span, key of a config."""

    file: str | None = None
    line: int | None = None
    column: str | int | None = None
    row: int | None = None
    tokens: tuple[int, int] | None = None
    key: str | None = None
    what: str | None = None

    def __str__(self) -> str:
        place = self.file or self.what or ""
        if self.file and self.line is not None:
            place += f":{self.line}"
            if isinstance(self.column, int):
                place += f":{self.column}"
        parts = [place] if place else []
        if self.file and self.what:
            parts.append(self.what)
        if self.row is not None:
            parts.append(f"row {self.row}")
        if isinstance(self.column, str):
            parts.append(f"column {self.column!r}")
        if self.key is not None:
            parts.append(f"key {self.key!r}")
        if self.tokens is not None:
            parts.append(f"tokens {self.tokens[0]}-{self.tokens[1]}")
        return ", ".join(parts) or "project"

    def to_json(self) -> dict[str, Any]:
        """Only the fields that are set."""
        return {name: value for name, value in self.__dict__.items() if value is not None}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, written for the person who must act.

    `message` has five parts in order: where; what, with numbers; why it matters; likely cause; remedy.
    `evidence` is small and JSON-safe (first rows, counts, tokens around a boundary).
    """

    check: str
    severity: Severity
    message: str
    where: Where
    expected: str = ""
    actual: str = ""
    remedy: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The finding as the JSON report shows it (`bugs` is added by the report, from the catalogue)."""
        return {
            "severity": self.severity.value,
            "message": self.message,
            "where": str(self.where),
            "location": self.where.to_json(),
            "expected": self.expected,
            "actual": self.actual,
            "remedy": self.remedy,
            "evidence": dict(self.evidence),
        }


class Findings(list[Finding]):
    """The findings of one check (falsy when its sentence holds) and how many things it looked at."""

    def __init__(
        self, findings: Iterable[Finding] = (), *, check: str = "", looked_at: int = 0, unit: str = "rows"
    ) -> None:
        super().__init__(replace(f, check=check) if check and not f.check else f for f in findings)
        self.check, self.looked_at, self.unit = check, looked_at, unit

    @property
    def errors(self) -> list[Finding]:
        """The findings that fail the check."""
        return [f for f in self if f.severity is Severity.ERROR]


def _compose(where: Where, what: str, why: str, cause: str, remedy: str) -> str:
    head = f"{where}: {what.rstrip('.')}."
    parts = [("Why it matters", why), ("Likely cause", cause), ("Remedy", remedy)]
    return "\n".join([head, *(f"{title}: {text.rstrip('.')}." for title, text in parts if text)])


def _make(
    severity: Severity, where: Where, what: str, why: str, cause: str, remedy: str, **rest: Any
) -> Finding:
    message = _compose(where, what, why, cause, remedy)
    return Finding(check="", severity=severity, message=message, where=where, remedy=remedy, **rest)


def error(where: Where, *, what: str, why: str, cause: str, remedy: str, **rest: Any) -> Finding:
    """A finding that fails its check. `rest`: `expected`, `actual`, `evidence`."""
    return _make(Severity.ERROR, where, what, why, cause, remedy, **rest)


def warning(where: Where, *, what: str, why: str, cause: str, remedy: str, **rest: Any) -> Finding:
    """A finding that is shown and fails only a strict run. `rest`: `expected`, `actual`, `evidence`."""
    return _make(Severity.WARNING, where, what, why, cause, remedy, **rest)


def note(
    where: Where, *, what: str, why: str = "", cause: str = "", remedy: str = "", **rest: Any
) -> Finding:
    """A finding for the record. `rest`: `expected`, `actual`, `evidence`."""
    return _make(Severity.NOTE, where, what, why, cause, remedy, **rest)


def require(*findings: Iterable[Finding], strict: bool = False) -> None:
    """Pass when no check found an error (with `strict`, no warning either).

    Raises:
        CheckFailed: carries every error (and warning) of all the checks given.
    """
    bad = {Severity.ERROR, Severity.WARNING} if strict else {Severity.ERROR}
    failed = [f for group in findings for f in group if f.severity in bad]
    if failed:
        raise CheckFailed(failed)
