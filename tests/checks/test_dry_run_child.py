"""The dry run in its own supervised child: what hangs and what leaves is told with stage and line, what is not wanted is not run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.factories import factories

from llmguard.auditing import Audit
from llmguard.catalogue import CHECKS
from llmguard.evidence import Evidence, Options
from llmguard.project import load_project
from llmguard.report import CheckResult, Outcome

SILENCE = 20.0
"""Seconds without a step after which a dry run counts as hung here: on a busy machine a step takes some."""
DRY = [entry for entry in CHECKS if "dry_run" in entry.needs]
Results = dict[str, CheckResult]


def audit_of(folder: Path, name: str, more: str = "") -> Audit:
    """An audit of the project of one factory."""
    file = folder / f"{name}.toml"
    file.write_text(f'[pipeline]\ntrainer = "factories:{name}"\n{more}', "utf-8")
    project = load_project(file)
    return Audit(project, evidence=Evidence(project, Options(deadline=SILENCE)))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Results]:
    """Factory -> result by check; the children run side by side."""
    folder = factories(tmp_path_factory.mktemp("project"))
    audits = {name: audit_of(folder, name) for name in ("plain", "hangs", "exits")}
    for audit in audits.values():
        audit.begin(DRY)
    try:
        return {name: {e.name: audit.run(e) for e in DRY} for name, audit in audits.items()}
    finally:
        for audit in audits.values():
            audit.evidence.close()


@pytest.mark.needs_torch
def test_a_sound_trainer_passes_every_check(results: dict[str, Results]) -> None:
    """From project file to outcome; torch is not imported by the process that checks."""
    assert {name: r.outcome for name, r in results["plain"].items()} == dict.fromkeys(
        (entry.name for entry in DRY), Outcome.PASSED
    )
    assert len(DRY) == 5
    assert all(r.looked_at for r in results["plain"].values())


@pytest.mark.needs_torch
def test_a_trainer_that_hangs_is_told_with_its_line(results: dict[str, Results]) -> None:
    """A callback that sleeps: the stage, the user's line, the verdict; what stands on it is skipped."""
    result = results["hangs"]["trainer_survives_a_dry_run"]
    assert result.outcome is Outcome.FAILED
    finding = result.findings[0]
    assert "(HUNG)" in finding.message
    assert finding.where.file == "factories.py"
    assert finding.where.what == "dry run, stage 'train'"
    assert "time.sleep(3600)" in code(finding.where.line)
    assert_skipped(results["hangs"])


@pytest.mark.needs_torch
def test_a_trainer_that_leaves_is_told(results: dict[str, Results]) -> None:
    """os._exit(0) in a callback: exit status 0 is no success."""
    result = results["exits"]["trainer_survives_a_dry_run"]
    assert result.outcome is Outcome.FAILED
    assert "exited with status 0" in result.findings[0].message
    assert "(EXITED_EARLY)" in result.findings[0].message
    assert_skipped(results["exits"])


def assert_skipped(found: Results) -> None:
    for name, result in found.items():
        if name != "trainer_survives_a_dry_run":
            assert result.outcome is Outcome.SKIPPED
            assert "trainer_survives_a_dry_run" in result.reason


def code(line: int | None) -> str:
    return Path(__file__).with_name("dry_run_factories.py").read_text("utf-8").splitlines()[(line or 1) - 1]


def test_without_a_trainer_the_line_to_add_is_told(tmp_path: Path) -> None:
    """Skipped, and nothing is started."""
    (tmp_path / "llmguard.toml").write_text("")
    audit = Audit(load_project(tmp_path))
    audit.begin(DRY)
    for entry in DRY:
        result = audit.run(entry)
        assert (result.outcome, result.reason) == (
            Outcome.SKIPPED,
            'add `[pipeline] trainer = "module:function"` to llmguard.toml',
        )
    audit.evidence.close()


def test_who_wants_no_dry_run_has_none(tmp_path: Path) -> None:
    """`dry_run = false` skips with the line to remove; the factory is not even imported."""
    audit = audit_of(tmp_path, "nowhere", "dry_run = false\n")
    audit.begin(DRY)
    for entry in DRY:
        result = audit.run(entry)
        assert result.outcome is Outcome.SKIPPED
        assert "remove `[pipeline] dry_run = false`" in result.reason
    assert "scratch" not in audit.evidence.__dict__
    assert "factories" not in sys.modules
    audit.evidence.close()
