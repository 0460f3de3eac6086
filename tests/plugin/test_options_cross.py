"""Options of the command line reach the workers, where the checks run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.plugin.conftest import Toy

TELL = """

import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_llmguard_outcome(item, result):
    audit = item._ready_audit()
    told = (audit.project.model_path, audit.evidence.options.sample, audit.evidence.options.deadline, audit.strict)
    print("TOLD", *told, type(audit.engine).__name__)
"""


def test_all_of_them_at_once(toy: Toy, axis: tuple[str, ...]) -> None:
    """Model, sample, deadline, strict and engine are the same wherever a check runs."""
    toy.checks("toy_holds", TELL)
    options = (
        "--llmguard-model=a/b",
        "--llmguard-sample=7",
        "--llmguard-deadline=2.5",
        "--llmguard-strict",
        "--llmguard-engine=processes",
    )
    assert "TOLD a/b 7 2.5 True Processes" in toy.run("-rP", *axis, *options).outlines
