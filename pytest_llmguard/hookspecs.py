"""Hooks that this plugin adds to pytest."""

from __future__ import annotations

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from llmguard.catalogue import Entry
    from llmguard.report import CheckResult

__all__ = ["pytest_llmguard_checks", "pytest_llmguard_outcome"]


@pytest.hookspec
def pytest_llmguard_checks(config: pytest.Config) -> Iterable[Entry]:  # type: ignore[empty-body]  # a hook specification has no body
    """Hand in checks of your own, as `llmguard.catalogue.Entry` records; they become items of every project file."""


@pytest.hookspec(firstresult=True)
def pytest_llmguard_outcome(config: pytest.Config, item: pytest.Item, result: CheckResult) -> str | None:
    """Decide how the item of a check ends: "passed", "failed" or "skipped"; None leaves it to the next, at last to the built-in.

    The built-in fails on `failed` and `error`, skips on `skipped`, and passes on `passed`, `warned` and `accepted`.
    The report keeps the check's own outcome whatever is decided here.
    """
