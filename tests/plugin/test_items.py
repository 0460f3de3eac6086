"""Each check of a project is an item: how it ends and what is told of it, alike with and without workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Ran, Toy


def test_the_exit_code_is_pytests(ran: Ran) -> None:
    """A failed check fails the session with pytest's own exit code; stderr stays empty."""
    assert ran.code == pytest.ExitCode.TESTS_FAILED
    assert ran.err == ""


@pytest.mark.parametrize(
    ("check", "word"),
    [
        ("toy_holds", "PASSED"),
        ("toy_fails", "FAILED"),
        ("toy_warns", "WARNED"),
        ("toy_notes", "PASSED"),
        ("toy_needs", "SKIPPED"),
        ("toy_is_accepted", "ACCEPTED"),
        ("toy_breaks", "FAILED"),
        ("toy_runs_a_model", "PASSED"),
        ("toy_runs_on_a_gpu", "SKIPPED"),
    ],
)
def test_each_outcome_has_its_word(ran: Ran, check: str, word: str) -> None:
    """Passed, failed, warned, skipped and accepted can be told apart while the session runs."""
    told = [
        line for line in ran.out.splitlines() if f"llmguard.toml::{check} " in f"{line} " and word in line
    ]
    assert told


def test_the_count_is_pytests(ran: Ran) -> None:
    """Warned and accepted checks count as passed; a broken check as failed."""
    last = ran.out.splitlines()[-1]
    assert "2 failed, 6 passed, 3 skipped" in last


def test_the_failure_shows_five_parts_and_no_traceback(ran: Ran) -> None:
    """A finding is told in full: where, what with numbers, why, cause, remedy, expected, actual; no line of ours."""
    text = ran.section("FAILURES")
    for part in (
        "error: train.jsonl:3: 14 of 200 rows (7.0 %) have no terminator.",
        "Why it matters: the model never stops.",
        "Likely cause: the template writes none.",
        "Remedy: append the EOS token.",
        "Expected: EOS",
        "Actual:   none",
        "error: train.jsonl:9: 3 of 200 rows are empty.",
        "Documented bugs: eos_is_never_learnt",
    ):
        assert part in text
    assert "Traceback" not in text
    assert ".py:" not in text.replace("toychecks.py:", "")


def test_the_failure_shows_the_tokens(ran: Ran) -> None:
    """Without colours the tokens around the boundary carry signs, and the signs are explained."""
    text = ran.section("FAILURES")
    assert "Tokens of row 2:\n  token     Hello [ world] >><eos><<\n" in text
    assert "([trained], masked, >>wrong<<)" in text


def test_what_does_not_fail_the_check_is_a_section_of_its_own(ran: Ran) -> None:
    """Warnings beside errors, and the warnings and notes of passed checks, are report sections that cross xdist."""
    assert "warning: train.jsonl:5: 2 rows are long." in ran.section("FAILURES")
    passes = ran.section("PASSES")
    assert "Captured llmguard call" in passes
    assert "warning: key 'lr': lr = 0.3 is high." in passes
    assert "note: key 'seed': no seed is set." in passes


def test_a_broken_check_accuses_itself(ran: Ran) -> None:
    """A fault of the check is told as such, with its place, and says nothing about the project."""
    text = ran.section("FAILURES")
    assert (
        "the check itself broke, which says nothing about the project: RuntimeError: boom at toychecks.py:"
        in text
    )


def test_the_short_summary_names_the_first_finding(ran: Ran) -> None:
    """The line that starts with FAILED says what is wrong, not only where."""
    text = ran.section("short test summary info")
    assert "FAILED llmguard.toml::toy_fails - train.jsonl:3: 14 of 200 rows" in text
    assert "SKIPPED [2] llmguard.toml:1: add `[data] train = " in text


AUDITS = """
def test_audits(request):
    audits = [item._ready_audit() for item in request.session.items if hasattr(item, "entry")]
    assert len(audits) > 3
    assert len({id(audit) for audit in audits}) == 1
"""


def test_one_audit_serves_the_session(toy: Toy) -> None:
    """Evidence is loaded once: all items of a project share one audit."""
    toy.write("test_audits.py", AUDITS)
    toy.run(only="toy or test_audits").assert_outcomes(passed=6, failed=2, skipped=3)


def test_odd_evidence_reaches_every_report(toy: Toy, axis: tuple[str, ...]) -> None:
    """Evidence that JSON, execnet or a terminal cannot take ends no session and loses no finding; colours cross xdist."""
    toy.checks("toy_is_odd")
    result = toy.run(*axis, "--color=yes", "--llmguard-json", "r.json")
    evidence = toy.read("r.json")["checks"][0]["findings"][0]["evidence"]
    assert evidence["nan"] == "nan"
    assert evidence["array"] == [0, 1, 2]
    assert evidence["held"] == ["<list that holds itself>"]
    texts = (evidence["path"], evidence["set"], evidence["1"], evidence["bytes"])
    assert texts == ("x", [1, 2], "\ud800 lone", "\\xff")
    assert any("\x1b[31m" in line and "error: " in line and "FAILED" not in line for line in result.outlines)


def test_a_second_run_keeps_one_record(toy: Toy) -> None:
    """A plugin that runs an item twice (a retry) leaves the record of the last run, once."""
    toy.checks(
        "toy_fails",
        "\n\nimport pytest\n@pytest.hookimpl(wrapper=True)\ndef pytest_runtest_call(item):\n"
        "    try:\n        return (yield)\n    except Exception:\n        item.runtest()\n",
    )
    assert toy.outcomes(toy.report()) == {"toy_fails": "failed"}
