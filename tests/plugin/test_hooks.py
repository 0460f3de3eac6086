"""Checks of other people: handed in by a conftest, or by an installed distribution; the policy that a conftest may replace."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from llmguard.catalogue import Entry

if TYPE_CHECKING:
    from pathlib import Path

    from tests.plugin.conftest import Toy

FOREIGN = '''"""A check of another distribution."""

from llmguard.catalogue import Entry
from llmguard.contract import check
from llmguard.findings import Where, error


@check
def foreign_holds(project):
    """The project is called llmguard.toml."""
    if project.name != "llmguard.toml":
        yield error(Where(file=project.name), what="called otherwise", why="w", cause="c", remedy="r")
    return 1


CHECKS = [Entry("foreign_holds", "foreign_checks", "source", bugs=("foreign_bug",))]
'''


@pytest.fixture
def site(toy: Toy) -> Path:
    """A folder as `pip install --target` leaves it: a second distribution with one check of its own."""
    toy.checks("toy_holds")
    toy.write("site/foreign_checks.py", FOREIGN)
    info = "site/foreign_llmguard_checks-1.2.dist-info"
    toy.write(f"{info}/METADATA", "Metadata-Version: 2.1\nName: foreign-llmguard-checks\nVersion: 1.2\n")
    toy.write(f"{info}/entry_points.txt", "[llmguard.checks]\nforeign = foreign_checks:CHECKS\n")
    toy.write(
        f"{info}/RECORD",
        f"foreign_checks.py,,\n{info[5:]}/METADATA,,\n{info[5:]}/entry_points.txt,,\n{info[5:]}/RECORD,,\n",
    )
    toy.write(f"{info}/INSTALLER", "pip\n")
    return toy.path / "site"


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_second_distribution(toy: Toy, site: Path, workers: str) -> None:
    """Its checks are items of every project, with markers, bugs and report, in a fresh process and in workers."""
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    done = toy.process(
        "-n",
        workers,
        "--llmguard-json",
        "r.json",
        "-v",
        "-m",
        "source or config",
        only="foreign or toy",
        PYTHONPATH=path,
    )
    assert toy.outcomes(toy.read("r.json")) == {"toy_holds": "passed", "foreign_holds": "passed"}
    assert done.returncode == 0
    assert toy.process("-m", "bug", "--co", "-q", only="foreign_bug", PYTHONPATH=path).stdout.startswith(
        "llmguard.toml::foreign_holds"
    )


def test_a_distribution_that_cannot_be_loaded(toy: Toy, site: Path) -> None:
    """One clean error that names what broke; no traceback."""
    (site / "foreign_checks.py").write_text("import no_such_module_here\n")
    done = toy.process("-n", "0", PYTHONPATH=str(site), only="")
    assert done.returncode == pytest.ExitCode.INTERRUPTED
    assert (
        "checks of an installed distribution cannot be loaded: ModuleNotFoundError: No module named 'no_such_module_here'"
        in done.stdout
    )
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize(
    ("handed", "told"),
    [
        ("'toy'", "check='toy' is not allowed: expected an llmguard.catalogue.Entry"),
        ("Entry('toy holds', 'toychecks', 'config')", "a name that is a valid identifier"),
        ("Entry('toy_holds', 'toychecks', 'konfig')", "a family of template, tokens, masking"),
        ("Entry('toy_holds', 'toychecks', 'config', tier='night')", "a tier of preflight, sentinel, gpu"),
        ("Entry('tokenizer_loads', 'toychecks', 'tokens')", "a name that no other check has"),
        ("Entry('toy_holds', 'toychecks', 'config', over='rosw')", "expected one of "),
    ],
)
def test_a_check_that_cannot_be(toy: Toy, handed: str, told: str) -> None:
    """What a conftest hands in is looked at: one clean collection error."""
    toy.write(
        "conftest.py",
        f"from llmguard.catalogue import Entry\ndef pytest_llmguard_checks(config):\n    return [{handed}]\n",
    )
    result = toy.run()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert told in result.stdout.str()
    assert "Traceback" not in result.stdout.str()


def test_several_conftests_hand_in(toy: Toy) -> None:
    """All that plugins and conftest files hand in is taken; the same check twice is one."""
    toy.checks("toy_holds toy_warns")
    toy.write(
        "myplugin.py",
        "import toychecks\ndef pytest_llmguard_checks(config):\n    return (toychecks.entry(n) for n in ('toy_holds', 'toy_notes'))\n",
    )
    conftest = (toy.path / "conftest.py").read_text("utf-8")
    toy.write("conftest.py", f"pytest_plugins = ['myplugin']\n{conftest}")
    report = toy.report()
    assert set(toy.outcomes(report)) == {"toy_holds", "toy_warns", "toy_notes"}


POLICY = """

def pytest_llmguard_outcome(config, item, result):
    return {policy}
"""


@pytest.mark.parametrize(
    ("policy", "code", "counts"),
    [
        ("None", 1, {"failed": 1, "passed": 1}),
        ("'passed'", 0, {"passed": 2}),
        ("'skipped'", 0, {"skipped": 2}),
        ("'failed'", 1, {"failed": 2}),
        ("'passed' if result.check == 'toy_fails' else None", 0, {"passed": 2}),
    ],
)
def test_the_policy_decides(toy: Toy, policy: str, code: int, counts: dict[str, int]) -> None:
    """A conftest's policy comes before the built-in one; the report keeps the check's own outcome."""
    toy.checks("toy_fails toy_holds", POLICY.format(policy=policy))
    result = toy.run("--llmguard-json", "r.json")
    assert result.ret == code
    result.assert_outcomes(**counts)
    assert toy.outcomes(toy.read("r.json")) == {"toy_fails": "failed", "toy_holds": "passed"}


def test_the_policy_decides_in_workers(toy: Toy) -> None:
    """It is asked where the item runs."""
    toy.checks("toy_fails toy_holds", POLICY.format(policy="'passed'"))
    report = toy.report("-n", "1")
    assert toy.outcomes(report) == {"toy_fails": "failed", "toy_holds": "passed"}


def test_a_policy_that_fails_what_holds_says_so(toy: Toy) -> None:
    """There is no finding to show then: the text names the policy."""
    toy.checks("toy_holds", POLICY.format(policy="'failed'"))
    toy.run().stdout.fnmatch_lines(
        ["the policy of this session (pytest_llmguard_outcome) fails a check that passed"]
    )


def test_a_policy_that_cannot_be(toy: Toy) -> None:
    """A word that is none of the three fails the item and names itself."""
    toy.checks("toy_holds", POLICY.format(policy="'maybe'"))
    result = toy.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["pytest_llmguard_outcome gave 'maybe': expected 'passed', 'failed' or 'skipped'"]
    )


def test_a_hook_that_does_not_exist_is_refused(toy: Toy) -> None:
    """A misspelt hook is no silent nothing: pytest knows ours by their specifications."""
    toy.checks("toy_holds", "\n\ndef pytest_llmguard_cheks(config):\n    return []\n")
    assert "pytest_llmguard_cheks" in toy.process().stdout


def test_entries_carry_what_items_need() -> None:
    """The record that both ways hand in."""
    assert Entry("a", "m", "config") == Entry("a", "m", "config", "preflight", (), "", ())
