"""The fixtures: documented, lazy, and what each hands out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_llmguard import fixtures

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugin.conftest import Toy

USES = """
import pytest
from llmguard.auditing import Audit
from llmguard.errors import CheckFailed, UsageError

ENCODED = [{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, {"input_ids": [5, 6], "labels": [-100, -100]}]

def encoded():
    from llmguard.encoded import as_encoded
    return as_encoded(ENCODED)

def test_check_gives_findings(llmguard):
    found = llmguard.check("every_row_has_a_supervised_token", encoded=encoded())
    assert found and found.looked_at == 2

def test_require_raises(llmguard):
    with pytest.raises(CheckFailed, match="every_row_has_a_supervised_token"):
        llmguard.require("every_row_has_a_supervised_token", encoded=encoded())

def test_require_passes_warnings(llmguard):
    llmguard.require("toy_warns")

@pytest.mark.llmguard(strict=True)
def test_require_is_strict_where_the_marker_says_so(llmguard):
    with pytest.raises(CheckFailed, match="lr = 0.3 is high"):
        llmguard.require("toy_warns")

def test_checks_of_a_conftest_are_known(llmguard):
    assert not llmguard.check("toy_holds")

def test_evidence_comes_from_the_project(llmguard):
    assert llmguard.check("toy_tells")[0].evidence["kind"] == "base"

@pytest.mark.llmguard(project="chat.toml", model="owner/other")
def test_evidence_comes_from_the_project_of_the_marker(llmguard):
    evidence = llmguard.check("toy_tells")[0].evidence
    assert (evidence["kind"], evidence["model"]) == ("chat", "owner/other")

def test_an_unknown_check_is_told_with_the_nearest(llmguard):
    with pytest.raises(UsageError, match="one of .*toy_holds"):
        llmguard.check("toy_hold")

def test_unknown_evidence_is_told(llmguard):
    with pytest.raises(UsageError, match="evidence named encoded"):
        llmguard.check("every_row_has_a_supervised_token", rowz=1)

def test_missing_evidence_is_told(llmguard):
    with pytest.raises(UsageError, match=r"give rows=… or a project that has it .*data. train"):
        llmguard.check("toy_needs")

@pytest.mark.llmguard(project="rows.toml")
def test_a_target_is_chosen(llmguard):
    assert llmguard.check("toy_needs", target="train").looked_at == 2
    assert llmguard.check("toy_needs", target="test").looked_at == 1

@pytest.fixture
def toys_alone(monkeypatch):
    # the real checks would import torch in a child of theirs
    plan = Audit.plan
    monkeypatch.setattr(Audit, "plan", lambda self, tiers: [(e, t) for e, t in plan(self, tiers) if "toy" in e.name])

def test_a_project_is_audited(llmguard, toys_alone):
    outcomes = {c.check: c.outcome.value for c in llmguard.audit("llmguard.toml").checks}
    assert (outcomes["toy_holds"], outcomes["toy_fails"], outcomes["toy_is_accepted"]) == ("passed", "failed", "accepted")
    assert "toy_runs_a_model" not in outcomes

def test_tiers_are_chosen_and_a_folder_will_do(llmguard, toys_alone, request):
    assert "toy_runs_a_model" in [c.check for c in llmguard.audit(request.path.parent, tiers=["sentinel"]).checks]

def test_a_folder_without_a_project_is_told(llmguard, tmp_path):
    with pytest.raises(UsageError, match="llmguard init"):
        llmguard.audit(tmp_path)

def test_modules_are_handed_out(probe, sentinels):
    assert probe.python("report(6 * 7)", timeout=20).payload == 42
    assert len(sentinels.SENTINELS) >= 24

def test_gpu_memory_is_host_memory_where_there_is_no_gpu(gpu_memory):
    assert gpu_memory.allocated > 0
"""


def test_each_has_a_first_line_that_says_what_it_is(inner: Callable[..., pytest.RunResult]) -> None:
    """`pytest --fixtures` prints them all, with a sentence."""
    lines = inner("--fixtures", "-p", "llmguard").outlines
    for name in fixtures.__all__:
        start = next(i for i, line in enumerate(lines) if line.split(" ")[0] == name)
        assert "no docstring" not in lines[start + 1]
        assert len(lines[start + 1].split()) >= 5


def test_none_is_autouse() -> None:
    """In nobody's session, ever."""
    for name in fixtures.__all__:
        fixture = getattr(fixtures, name)
        marker = getattr(fixture, "_fixture_function_marker", None) or fixture._pytestfixturefunction
        assert marker.autouse is False


def test_what_they_hand_out(toy: Toy) -> None:
    """Each of them in a user's own tests; how, is in the tests themselves."""
    toy.checks("toy_holds toy_fails toy_warns toy_needs toy_is_accepted toy_tells toy_runs_a_model")
    toy.project('[model]\nkind = "chat"\n', "chat.toml")
    toy.project('[data]\ntrain = "a.jsonl"\ntest = "b.jsonl"\nprompt = "p"\nresponse = "r"\n', "rows.toml")
    toy.write("a.jsonl", '{"p": "1", "r": "2"}\n{"p": "3", "r": "4"}\n')
    toy.write("b.jsonl", '{"p": "5", "r": "6"}\n')
    toy.write("test_uses.py", USES)
    result = toy.run("-W", "error", "--strict-markers", "test_uses.py", only="")
    result.assert_outcomes(passed=USES.count("\ndef test_"))


def test_the_lab_is_handed_out_once(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for the session; it is `llmguard_core.lab.lab()`."""
    from llmguard_core import lab

    made: list[object] = []
    monkeypatch.setattr(lab, "lab", lambda: made.append(1) or "the lab")
    toy.write(
        "test_lab.py", "def test_a(lab): assert lab == 'the lab'\ndef test_b(lab): assert lab == 'the lab'\n"
    )
    toy.run("test_lab.py", only="").assert_outcomes(passed=2)
    assert made == [1]


def test_a_users_own_fixture_wins(inner: Callable[..., pytest.RunResult], pytester: pytest.Pytester) -> None:
    """Names such as `probe` and `lab` are common: a conftest's own comes first, and ours is not loaded."""
    own = "".join(f"@pytest.fixture\ndef {name}(): return 'mine'\n" for name in fixtures.__all__)
    pytester.makeconftest(f"import pytest\n{own}")
    names = ", ".join(fixtures.__all__)
    pytester.makepyfile(f"def test_mine({names}): assert {{{names}}} == {{'mine'}}\n")
    inner("-W", "error").assert_outcomes(passed=1)
