"""The audit: evidence bound by name, outcomes, acceptances, what is skipped and why."""

from __future__ import annotations

import datetime as dt
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from llmguard.auditing import Audit, audit
from llmguard.catalogue import Entry
from llmguard.contract import Yields, check
from llmguard.errors import MissingEvidence, UsageError
from llmguard.evidence import Evidence
from llmguard.findings import Where, error, warning
from llmguard.project import load_project
from llmguard.registry import Registry
from llmguard.report import Outcome

PARTS = {"what": "rows are odd", "why": "w", "cause": "c", "remedy": "r"}


@check
def rows_are_many(rows: Any, train_on: str = "responses", stops: Any = None) -> Yields:
    """There are at least three rows."""
    if len(rows) < 3:
        yield error(Where(), **PARTS)
    return len(rows)


@check
def rows_are_pretty(rows: Any) -> Yields:
    """A warning, always."""
    yield warning(Where(), **PARTS)
    return len(rows)


@check
def check_breaks(rows: Any) -> Yields:
    """A check with a fault of its own."""
    yield error(Where(), **PARTS)
    raise ZeroDivisionError("in the check")


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    module = types.ModuleType("toy_checks")
    module.__dict__.update(
        rows_are_many=rows_are_many, rows_are_pretty=rows_are_pretty, check_breaks=check_breaks
    )
    monkeypatch.setitem(sys.modules, "toy_checks", module)
    return Registry(
        [
            Entry(n, "toy_checks", "data", needs=("rows",), over="rows")
            for n in ("rows_are_many", "rows_are_pretty", "check_breaks")
        ],
        installed=False,
    )


def session(tmp_path: Path, registry: Registry, more: str = "", rows: int = 2, **options: Any) -> Audit:
    (tmp_path / "train.jsonl").write_text('{"prompt": "q", "response": "a"}\n' * rows, "utf-8")
    file = tmp_path / "llmguard.toml"
    file.write_text('[data]\ntrain = "train.jsonl"\n' + more, "utf-8")
    return Audit(load_project(file), registry, **options)


def test_outcomes(tmp_path: Path, registry: Registry) -> None:
    """An error fails, a warning warns, none passes; a fault of the check itself is `error` and says nothing about the project."""
    few = session(tmp_path, registry)
    assert few.run(registry.get("rows_are_many"), "train").outcome is Outcome.FAILED
    assert few.run(registry.get("rows_are_pretty"), "train").outcome is Outcome.WARNED
    broken = few.run(registry.get("check_breaks"), "train")
    assert (broken.outcome, "ZeroDivisionError" in broken.reason) == (Outcome.ERROR, True)
    many = session(tmp_path, registry, rows=3).run(registry.get("rows_are_many"), "train")
    assert (many.outcome, many.looked_at, many.id) == (Outcome.PASSED, 3, "rows_are_many[train]")


def test_strict_makes_warnings_fail(tmp_path: Path, registry: Registry) -> None:
    """With `strict` nothing is only shown."""
    assert (
        session(tmp_path, registry, strict=True).run(registry.get("rows_are_pretty"), "train").outcome
        is Outcome.FAILED
    )


def test_an_acceptance_needs_a_reason_and_ends_by_itself(tmp_path: Path, registry: Registry) -> None:
    """Until its day an accepted finding is told as accepted with the reason; the day after it fails again and says so."""
    accept = '[accept]\nrows_are_many = { reason = "a trial", until = 2027-01-31 }\n'
    before = session(tmp_path, registry, accept, today=dt.date(2027, 1, 31)).run(
        registry.get("rows_are_many"), "train"
    )
    assert (before.outcome, before.reason) == (Outcome.ACCEPTED, "a trial (until 2027-01-31)")
    after = session(tmp_path, registry, accept, today=dt.date(2027, 2, 1)).run(
        registry.get("rows_are_many"), "train"
    )
    assert after.outcome is Outcome.FAILED
    assert "which is over" in after.reason


def test_missing_evidence_is_skipped_with_the_line_to_add(tmp_path: Path, registry: Registry) -> None:
    """A check without its evidence is never green."""
    (tmp_path / "llmguard.toml").write_text("", "utf-8")
    result = Audit(load_project(tmp_path / "llmguard.toml"), registry).run(registry.get("rows_are_many"))
    assert result.outcome is Outcome.SKIPPED
    assert "[data] train" in result.reason


def test_evidence_that_cannot_be_had_names_the_check_that_says_why(
    tmp_path: Path, registry: Registry
) -> None:
    """A data file that is missing fails one check and skips the others, which point at it."""
    audit_ = session(tmp_path, registry)
    (tmp_path / "train.jsonl").unlink()
    result = audit_.run(registry.get("rows_are_many"), "train")
    assert result.outcome is Outcome.SKIPPED
    assert "data_files_are_readable" in result.reason


def test_evidence_is_loaded_once(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two checks of one session read a file once."""
    from llmguard.evidence import files

    reads: list[str] = []
    real = files.read_split
    monkeypatch.setattr(
        files, "read_split", lambda project, split: reads.append(split) or real(project, split)
    )
    audit_ = session(tmp_path, registry)
    for name in ("rows_are_many", "rows_are_pretty"):
        audit_.run(registry.get(name), "train")
    assert reads == ["train"]


def test_the_plan_reads_nothing(tmp_path: Path, registry: Registry) -> None:
    """Which checks apply is known from the project file alone, one item a split."""
    audit_ = session(tmp_path, registry, 'test = "gone.jsonl"\n')
    targets = [t for e, t in audit_.plan() if e.name == "rows_are_many"]
    assert targets == ["train", "test"]


def test_a_registry_refuses_what_is_no_entry(registry: Registry) -> None:
    """Third-party mistakes are told by value, parameter and what is allowed."""
    with pytest.raises(UsageError, match=r"an llmguard\.catalogue\.Entry"):
        Registry(["text"])  # type: ignore[list-item]  # that is what is tested
    with pytest.raises(UsageError, match="a family of"):
        Registry([Entry("x", "m", "nonsense")])
    with pytest.raises(UsageError, match="that no other check has"):
        Registry([Entry("tokenizer_loads", "m", "data")])
    with pytest.raises(UsageError, match="rows_are_many"):
        registry.get("rows_are_mani")


def test_unknown_evidence_is_a_usage_error(tmp_path: Path, registry: Registry) -> None:
    """A check that asks for evidence that does not exist is told so."""
    evidence = Evidence(session(tmp_path, registry).project)
    with pytest.raises(UsageError, match="nonsense"):
        evidence.get("nonsense")
    with pytest.raises(MissingEvidence):
        evidence.get("kind")


def test_scratch_is_removed(tmp_path: Path, registry: Registry) -> None:
    """Nothing is left behind in the temporary folder."""
    evidence = Evidence(session(tmp_path, registry).project)
    folder = evidence.scratch
    assert folder.is_dir()
    evidence.close()
    assert not folder.exists()


def test_audit_reports_every_check_of_a_project(tmp_path: Path, registry: Registry) -> None:
    """`audit` runs the whole plan and tells progress as it goes."""
    project = session(tmp_path, registry).project
    seen: list[str] = []
    report = audit(project, registry=registry, progress=lambda r: seen.append(r.id))
    assert seen == [c.id for c in report.checks]
    assert report.totals["failed"] >= 1
