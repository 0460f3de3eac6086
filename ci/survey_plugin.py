"""A pytest plugin of ci/survey.py: which test runs which check, how long each takes, and how it ends.

`seen` is called by checks that were changed to say that they run. It writes down the test through an environment variable, so that
children of a test and pytest runs inside of it are counted as that test.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

__all__ = ["FILE", "TEST", "seen"]

FILE, TEST = "LLMGUARD_SURVEY", "LLMGUARD_SURVEY_TEST"


def seen(check: str) -> None:
    """A check runs."""
    _write({"test": os.environ.get(TEST, ""), "check": check})


def _write(told: dict[str, Any]) -> None:
    with Path(os.environ[FILE]).open("a", encoding="utf-8") as file:
        file.write(f"{json.dumps(told)}\n")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Name the test that runs now."""
    os.environ[TEST] = item.nodeid
    return (yield)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write down how long each part of a test took, and whether it passed."""
    _write({"test": report.nodeid, "seconds": report.duration, "outcome": report.outcome})
