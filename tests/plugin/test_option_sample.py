"""`--llmguard-sample`: at most so many rows go through the project's own functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.plugin.conftest import Toy

TELL = """

import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_llmguard_outcome(item):
    item.add_report_section("call", "evidence", f"{item._ready_audit().evidence.options.sample}")
"""


def told(toy: Toy, *arguments: str) -> str:
    toy.checks("toy_holds", TELL)
    lines = toy.run("-rP", *arguments).outlines
    return lines[next(i for i, line in enumerate(lines) if "Captured evidence call" in line) + 1]


def test_its_constant(toy: Toy) -> None:
    """Where nobody says anything."""
    assert told(toy) == "2000"


def test_it_reaches_the_evidence(toy: Toy) -> None:
    """The evidence of the project is gathered with it."""
    assert told(toy, "--llmguard-sample", "7") == "7"


def test_from_the_ini_file(toy: Toy) -> None:
    """The twin."""
    toy.write("pytest.ini", "[pytest]\nllmguard_sample = 7\n")
    assert told(toy) == "7"
