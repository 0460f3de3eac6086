"""Checks are selected, distributed, retried and timed out like any test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Toy

DIST = ("load", "loadscope", "loadfile", "loadgroup", "worksteal", "each")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("preflight and config", {"toy_holds", "toy_warns", "toy_notes"}),
        ("tokens", {"toy_fails"}),
        ("bug", {"toy_fails"}),
        ("sentinel", {"toy_runs_a_model"}),
        ("gpu", {"toy_runs_on_a_gpu"}),
        ("preflight and not (config or data or masking or source)", {"toy_fails"}),
    ],
)
def test_marker_expressions_select(toy: Toy, expression: str, expected: set[str]) -> None:
    """`-m` selects by tier, by family, and checks that guard against a documented bug."""
    assert set(toy.outcomes(toy.report("-m", expression))) == expected


@pytest.mark.parametrize("keyword", ["toy_fails", "eos_is_never_learnt"])
def test_keywords_select(toy: Toy, keyword: str) -> None:
    """`-k` selects by the check's name and by the slug of a bug that it guards against."""
    assert "toy_fails" in toy.outcomes(toy.report(only=keyword))
    assert "toy_holds" not in toy.outcomes(toy.report(only=keyword))


def test_node_ids_select(toy: Toy) -> None:
    """A node id selects one check; with its target in brackets one split of it."""
    toy.project('[data]\ntrain = "a.jsonl"\ntest = "b.jsonl"\n')
    assert set(toy.outcomes(toy.report("llmguard.toml::toy_needs[test]"))) == {"toy_needs[test]"}
    assert set(toy.outcomes(toy.report("llmguard.toml::toy_needs"))) == {
        "toy_needs[train]",
        "toy_needs[test]",
    }


def test_an_unknown_node_id_is_a_usage_error(toy: Toy) -> None:
    """As for any test."""
    assert toy.run("llmguard.toml::no_such_check", only="").ret == pytest.ExitCode.USAGE_ERROR


def test_x_stops_at_the_first_failure(toy: Toy) -> None:
    """`-x` stops, and the JSON report says that it is not the whole."""
    report = toy.report("-x")
    assert toy.outcomes(report) == {"toy_holds": "passed", "toy_fails": "failed"}
    assert report["error"] == "stopped early: stopping after 1 failures"


def test_last_failed_runs_what_failed(toy: Toy, axis: tuple[str, ...]) -> None:
    """`--lf` runs the failed checks again, and no others."""
    toy.run("-p", "no:xdist", "-m", "preflight")
    result = toy.run(*axis, "-m", "preflight", "--lf", "--llmguard-json", "r.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert toy.outcomes(toy.read("r.json")) == {"toy_fails": "failed", "toy_breaks": "error"}


@pytest.mark.parametrize("mode", DIST)
def test_every_way_to_distribute(toy: Toy, mode: str) -> None:
    """However xdist deals the items out, each check is in the report once and the summary counts it once."""
    toy.checks("toy_holds toy_fails toy_warns toy_needs")
    result = toy.run("-n", "2", "--dist", mode, "--llmguard-json", "r.json")
    expected = {"toy_holds": "passed", "toy_fails": "failed", "toy_warns": "warned", "toy_needs": "skipped"}
    assert toy.outcomes(toy.read("r.json")) == expected
    result.stdout.fnmatch_lines(["4 checks in *: 1 failed, 1 warned, 1 skipped, 1 passed"])


def test_a_check_that_does_not_come_back_times_out(toy: Toy) -> None:
    """pytest-timeout ends a check like a test; the report says that it did not end by itself."""
    toy.checks("toy_sleeps toy_holds")
    report = toy.report("-p", "no:xdist", "--timeout", "0.2")
    assert toy.outcomes(report) == {"toy_holds": "passed", "toy_sleeps": "error"}
    told = next(c["reason"] for c in report["checks"] if c["check"] == "toy_sleeps")
    assert told.startswith("did not end by itself (call): ")
    assert "Timeout" in told


def test_a_check_that_takes_its_worker_down(toy: Toy) -> None:
    """A crashed worker loses no check: the one it was running is reported as an error, the rest run elsewhere."""
    toy.checks("toy_dies toy_holds")
    report = toy.report("-n", "1")
    assert toy.outcomes(report) == {"toy_dies": "error", "toy_holds": "passed"}
    died = next(c for c in report["checks"] if c["check"] == "toy_dies")
    assert (died["family"], died["tier"]) == ("queue", "preflight")
    assert "crashed" in died["reason"]


def test_switched_off_nothing_is_left(toy: Toy) -> None:
    """`-p no:llmguard`: no item, no option, no marker."""
    toy.write("conftest.py", "")
    toy.write("test_toy.py", "def test_toy(): pass\n")
    result = toy.run("-p", "no:llmguard")
    result.assert_outcomes(passed=1)
    assert "llmguard" not in "".join(line for line in result.outlines if not line.startswith("rootdir"))
    assert toy.run("-p", "no:llmguard", "--llmguard-strict").ret == pytest.ExitCode.USAGE_ERROR
