"""Every error this library raises.

LLMGuardError
├── UsageError (ValueError)      a bad argument: the value, the parameter, what is allowed
├── ProjectError                 a bad project file: every problem at once, each with file and key
├── MissingEvidence              a check cannot run: the line to add to the project file
├── EvidenceError                evidence that is there cannot be had: carries the findings that say why
└── CheckFailed (AssertionError) `require` found errors: carries all of them
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmguard.findings import Finding

__all__ = ["CheckFailed", "EvidenceError", "LLMGuardError", "MissingEvidence", "ProjectError", "UsageError"]


class LLMGuardError(Exception):
    """The root of all errors of this library."""


class UsageError(LLMGuardError, ValueError):
    """A bad argument, never bad data: bad data is a finding."""

    def __init__(self, parameter: str, value: object, allowed: str) -> None:
        self.parameter, self.value, self.allowed = parameter, value, allowed
        shown = repr(value)
        if len(shown) > 120:
            shown = f"{shown[:117]}..."
        super().__init__(f"{parameter}={shown} is not allowed: expected {allowed}")


class ProjectError(LLMGuardError):
    """A project file that cannot be used; `problems` holds one sentence for each mistake in it."""

    def __init__(self, file: str, problems: Sequence[str]) -> None:
        self.file, self.problems = file, tuple(problems)
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        plural = "problem" if len(self.problems) == 1 else "problems"
        super().__init__(f"{file}: {len(self.problems)} {plural} in the project file\n{lines}")


class MissingEvidence(LLMGuardError):
    """The project file does not say what a check needs; `remedy` is the line to add."""

    def __init__(self, evidence: str, remedy: str) -> None:
        self.evidence, self.remedy = evidence, remedy
        super().__init__(f"no {evidence}: {remedy}")


class EvidenceError(LLMGuardError):
    """Evidence is named by the project but cannot be had; the check named in `told_by` reports why."""

    def __init__(
        self, evidence: str, reason: str, findings: Sequence[Finding] = (), told_by: str = ""
    ) -> None:
        self.evidence, self.reason, self.findings, self.told_by = evidence, reason, tuple(findings), told_by
        told = f" (reported by {told_by})" if told_by else ""
        super().__init__(f"{evidence} could not be had: {reason}{told}")


class CheckFailed(LLMGuardError, AssertionError):
    """One or more errors found by checks; `findings` carries all of them, warnings and notes included."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("\n\n".join(f"{f.check}: {f.message}" for f in self.findings))
