"""What other programs and people get: JSON, HTML, SARIF, JUnit, the terminal summary; alike with and without workers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugin.conftest import Ran, Toy

OUTCOMES = {
    "toy_holds": "passed",
    "toy_fails": "failed",
    "toy_warns": "warned",
    "toy_notes": "passed",
    "toy_needs": "skipped",
    "toy_needs_too": "skipped",
    "toy_is_accepted": "accepted",
    "toy_breaks": "error",
    "toy_runs_a_model": "passed",
    "toy_runs_on_a_gpu": "skipped",
}


def test_json_has_every_check(ran: Ran) -> None:
    """Each check that ran is there once with its outcome; the totals add up; nothing else is at the top."""
    assert {c["check"]: c["outcome"] for c in ran.report["checks"]} == OUTCOMES
    assert len(ran.report["checks"]) == len(OUTCOMES)
    assert ran.report["totals"] == {
        "passed": 3,
        "failed": 1,
        "warned": 1,
        "skipped": 3,
        "accepted": 1,
        "error": 1,
    }
    assert list(ran.report) == ["version", "project", "checks", "totals"]
    assert (ran.report["version"], ran.report["project"]) == (1, "llmguard.toml")


def test_json_records_are_as_the_contract_says(ran: Ran) -> None:
    """The keys of a record and of a finding, and what they hold."""
    record = ran.check("toy_fails")
    keys = {
        "check",
        "family",
        "tier",
        "target",
        "outcome",
        "reason",
        "looked_at",
        "unit",
        "seconds",
        "findings",
    }
    assert set(record) == keys
    assert all(set(c) == keys for c in ran.report["checks"])
    assert (record["family"], record["tier"], record["target"], record["looked_at"]) == (
        "tokens",
        "preflight",
        "",
        200,
    )
    finding = record["findings"][0]
    assert {"severity", "message", "where", "expected", "actual", "remedy", "evidence", "bugs"} <= set(
        finding
    )
    assert finding["severity"] == "error"
    assert finding["where"] == "train.jsonl:3"
    assert finding["bugs"] == ["eos_is_never_learnt"]
    assert [f["severity"] for f in record["findings"]] == ["error", "error", "warning"]


def test_json_says_why_checks_were_skipped(ran: Ran) -> None:
    """A skipped check carries the line to add; one that needs a GPU the option."""
    assert ran.check("toy_needs")["reason"].startswith("add `[data] train = ")
    assert ran.check("toy_runs_on_a_gpu")["reason"] == "needs a GPU: run pytest with --gpu"
    assert ran.check("toy_is_accepted")["reason"] == "full-sequence training on purpose (until 2999-01-31)"


def test_json_is_in_one_order(ran: Ran) -> None:
    """Whichever worker was first: by project, catalogue, name and target."""
    names = [c["check"] for c in ran.report["checks"]]
    assert names == sorted(names)


def test_html_and_sarif_are_written(ran: Ran) -> None:
    """The page and the SARIF file show the same findings."""
    page = (ran.path / "report.html").read_text("utf-8")
    assert "toy_fails" in page
    assert "14 of 200 rows" in page
    sarif = json.loads((ran.path / "report.sarif").read_text("utf-8"))
    assert sarif["version"] == "2.1.0"
    assert any(result["ruleId"] == "toy_fails" for result in sarif["runs"][0]["results"])


def test_no_half_written_file_is_left(ran: Ran) -> None:
    """Reports are written beside their place and moved: nothing of that is left."""
    assert [p.name for p in (ran.path / "out" / "new").iterdir()] == ["report.json"]


def test_junit_has_short_properties(ran: Ran) -> None:
    """JUnit gets flat properties of each check, not the whole record; other tests get none."""
    cases = {case.get("name"): case for case in ran.junit.iter("testcase")}
    assert set(cases) == {*OUTCOMES, "test_beside"}
    found = {p.get("name"): p.get("value") for p in cases["toy_fails"].iter("property")}
    assert found == {
        "llmguard.check": "toy_fails",
        "llmguard.family": "tokens",
        "llmguard.tier": "preflight",
        "llmguard.project": "llmguard.toml",
        "llmguard.outcome": "failed",
        "llmguard.looked_at": "200",
        "llmguard.errors": "2",
        "llmguard.warnings": "1",
        "llmguard.bugs": "eos_is_never_learnt",
    }
    assert not list(cases["test_beside"].iter("property"))


def test_junit_failures_say_what_is_wrong(ran: Ran) -> None:
    """The message of a failure is the headline, its text the whole finding."""
    case = next(c for c in ran.junit.iter("testcase") if c.get("name") == "toy_fails")
    failure = case.find("failure")
    assert failure is not None
    assert "14 of 200 rows (7.0 %) have no terminator. (and 1 more)" in str(failure.get("message"))
    assert "Remedy: append the EOS token." in str(failure.text)


def test_the_summary_says_it_all(ran: Ran) -> None:
    """What failed, broke, warned, is accepted until when, was skipped and for want of what, and passed."""
    text = ran.section("llmguard: llmguard.toml")
    lines = text.splitlines()
    assert lines[0].startswith("10 checks in ")
    assert lines[0].endswith(": 1 failed, 1 error, 1 warned, 1 accepted, 3 skipped, 3 passed")
    for line in (
        "failed: toy_fails: train.jsonl:3: 14 of 200 rows (7.0 %) have no terminator. (and 1 more)",
        "warned: toy_warns: key 'lr': lr = 0.3 is high.",
        "accepted: toy_is_accepted: full-sequence training on purpose (until 2999-01-31)",
        'skipped 2: add `[data] train = ["data/train.jsonl"]` to llmguard.toml: toy_needs, toy_needs_too',
        "skipped 1: needs a GPU: run pytest with --gpu: toy_runs_on_a_gpu",
        "passed 2 config: toy_holds, toy_notes",
        "passed 1 sentinel: toy_runs_a_model",
    ):
        assert line in lines
    assert any(line.startswith("error: toy_breaks: the check itself broke") for line in lines)


def test_the_summary_names_the_reports(ran: Ran) -> None:
    """Where each report was written."""
    text = ran.section("llmguard: llmguard.toml")
    assert f"json report: {ran.path / 'out' / 'new' / 'report.json'}" in text
    assert f"html report: {ran.path / 'report.html'}" in text


def test_a_session_without_checks_has_no_summary(
    pytester: pytest.Pytester, inner: Callable[..., pytest.RunResult], axis: tuple[str, ...]
) -> None:
    """Nothing of ours is printed in a session that does not use us."""
    pytester.makepyfile("def test_a(): pass")
    result = inner(*axis)
    result.assert_outcomes(passed=1)
    assert "llmguard" not in "".join(
        line for line in result.outlines if not line.startswith(("plugins", "rootdir"))
    )


MANY = """

from dataclasses import replace

def pytest_llmguard_checks(config):
    return [replace(toychecks.entry("toy_needs"), name=f"toy_{letter}") for letter in "abcdef"]
"""


def test_long_lists_are_cut_and_counted(toy: Toy) -> None:
    """A line of the summary names a few checks and counts the rest; -v names them all."""
    toy.checks("toy_holds", MANY)
    source = (toy.path / "toychecks.py").read_text("utf-8")
    toy.write("toychecks.py", source + "".join(f"\ntoy_{letter} = toy_needs" for letter in "abcdef"))
    told = "skipped 6: add `[[]data[]] train = *: toy_a, toy_b, toy_c, toy_d and 2 more (-v names them)"
    toy.run().stdout.fnmatch_lines([told])
    toy.run("-v").stdout.fnmatch_lines(["skipped 6: *: toy_a, toy_b, toy_c, toy_d, toy_e, toy_f"])


def test_two_projects_are_told_apart(toy: Toy) -> None:
    """With several project files each record names its own."""
    toy.checks("toy_holds")
    toy.project('[model]\nkind = "chat"\n', "sub/llmguard.toml")
    report = toy.report()
    assert [c["project"] for c in report["checks"]] == ["llmguard.toml", "sub/llmguard.toml"]
    assert report["project"] == "llmguard.toml, sub/llmguard.toml"
