"""Cases of bugs told in public threads, by their id in the collection that the project is measured against.

A test file registers its cases here, each under the ids that it is; its first sentence stands in docs/public-bugs.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["CASES", "case", "cases_of", "severities"]

CASES: dict[str, Callable[[Any], None]] = {}


def case(*ids: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Register a case under the ids of the public bugs that it is."""

    def register(function: Callable[[Any], None]) -> Callable[[Any], None]:
        if taken := [i for i in ids if CASES.get(i, function).__qualname__ != function.__qualname__]:
            raise ValueError(f"{', '.join(taken)}: there is a case for it already")
        CASES.update(dict.fromkeys(ids, function))
        return function

    return register


def cases_of(module: str) -> list[str]:
    """The ids whose cases a module holds."""
    return sorted(bug for bug, function in CASES.items() if function.__module__ == module)


def severities(found: Any) -> list[str]:
    """How grave each finding is."""
    return [finding.severity.value for finding in found]
