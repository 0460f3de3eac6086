"""The ledger under pytest: regressions that are whole pass, what they lack fails, what was only skipped proves nothing."""

from __future__ import annotations

import pytest

from pytest_llmguard.ledger import Ledger

STORY = '''"""Something broke.

Symptom: it breaks
Cause: a slip
First seen: here
Cost: an hour
Check: collator_keeps_labels
Lesson: look
"""
import pytest

def broken(): return 1
def fixed(): return 2
def test_witness(): assert broken() == 1
def test_check_rejects(): assert broken() != 2
def test_check_accepts(): assert fixed() == 2
'''
STRICT = ("-p", "no:cacheprovider", "--strict-markers", "-W", "error")


@pytest.fixture
def folder(pytester: pytest.Pytester) -> pytest.Pytester:
    """A folder with one whole regression."""
    pytester.mkdir("bugs")
    write(pytester, "test_it_broke.py", STORY)
    pytester.makeini("[pytest]\n")
    return pytester


def write(pytester: pytest.Pytester, name: str, text: str) -> None:
    (pytester.path / "bugs" / name).write_text(text, "utf-8")


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest("bugs", "--llmguard-bugs=bugs", *STRICT, *arguments)


@pytest.mark.parametrize("axis", [("-p", "no:xdist"), ("-n", "2")], ids=["bare", "two-workers"])
def test_a_whole_regression_passes_and_is_in_the_table(
    folder: pytest.Pytester, axis: tuple[str, ...]
) -> None:
    """Its three tests and its entry; under xdist, too."""
    result = run(folder, *axis)
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(
        [
            "*= ledger: bugs =*",
            "bug *severity*witness*rejects*accepts*checks",
            "it_broke *-*passed*passed*passed*collator_keeps_labels",
        ]
    )
    result.stdout.fnmatch_lines(["1 of 1 bugs proved*"])
    assert result.ret == 0


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("Cost: an hour\n", "", "its story has no line `Cost: …`"),
        (
            "collator_keeps_labels",
            "collator_loves_labels",
            "names the check collator_loves_labels, which does not exist",
        ),
        ("def test_witness(): assert broken() == 1\n", "", "it has no test_witness()"),
        ("def fixed", "def mended", "it has no fixed(…)"),
    ],
)
def test_what_a_regression_lacks_fails_its_entry(
    folder: pytest.Pytester, old: str, new: str, said: str
) -> None:
    """Without a traceback, with what is to be done."""
    write(folder, "test_it_broke.py", STORY.replace(old, new))
    result = run(folder)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*test_it_broke.py is no whole regression yet (1 to do;*", f"*- *{said}*"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_file_without_any_test_is_not_forgotten(folder: pytest.Pytester) -> None:
    """Nothing of it is collected, and its entry fails all the same."""
    write(folder, "test_forgotten.py", '"""Nothing yet."""\n')
    result = run(folder)
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(["*FAILED bugs/test_forgotten.py::ledger[[]forgotten[]]*"])


def test_tests_that_were_only_skipped_prove_nothing(folder: pytest.Pytester) -> None:
    """Green tests, and yet the session fails, with the reason of the skip."""
    skips = "def test_witness():\n    pytest.skip('no GPU')\n    assert"
    write(folder, "test_it_broke.py", STORY.replace("def test_witness(): assert", skips))
    result = run(folder)
    result.assert_outcomes(passed=3, skipped=1)
    assert result.ret == 1
    lines = [
        "it_broke*skipped*passed*passed*",
        "0 of 1 bugs proved*",
        "not proved: it_broke: test_witness was skipped: no GPU",
    ]
    result.stdout.fnmatch_lines(lines)


def test_one_case_that_runs_is_proof_enough(folder: pytest.Pytester) -> None:
    """Of several parameters some may be skipped."""
    cases = "@pytest.mark.parametrize('n', [0, 1])\ndef test_witness(n):\n    if n: pytest.skip('not here')\n    assert"
    write(folder, "test_it_broke.py", STORY.replace("def test_witness(): assert", cases))
    result = run(folder)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["it_broke*passed*passed*passed*"])


def test_a_part_of_the_tests_is_no_fault(folder: pytest.Pytester) -> None:
    """`-k` and node ids leave tests out; what was left out is shown as not run."""
    result = run(folder, "-k", "test_witness")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["it_broke *-*passed*-*-*"])
    result = folder.runpytest("bugs/test_it_broke.py::test_check_accepts", "--llmguard-bugs=bugs", *STRICT)
    assert result.ret == 0
    result.assert_outcomes(passed=2)


def test_two_bugs_with_one_slug_fail(folder: pytest.Pytester) -> None:
    """Both are told of the other."""
    (folder.path / "bugs" / "more").mkdir()
    write(folder, "more/test_it_broke.py", STORY)
    result = run(folder, "--import-mode=importlib")
    result.assert_outcomes(passed=6, failed=2)
    result.stdout.fnmatch_lines(["*its slug is also that of */more/test_it_broke.py*"])


def test_a_failed_proof_is_in_the_table(folder: pytest.Pytester) -> None:
    """As any failed test."""
    write(folder, "test_it_broke.py", STORY.replace("assert fixed() == 2", "assert fixed() == 3"))
    result = run(folder)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["it_broke*passed*passed*failed*"])


def test_tests_of_a_bug_carry_its_slug(folder: pytest.Pytester) -> None:
    """As a marker, and as a property in JUnit."""
    folder.makeconftest(
        "def pytest_collection_finish(session):\n    print([m.args for i in session.items for m in i.iter_markers('bug')])"
    )
    result = run(folder, "-s", "--junitxml=r.xml")
    result.stdout.fnmatch_lines(["*('it_broke',), ('it_broke',), ('it_broke',), ('it_broke',)*"])
    assert '<property name="llmguard.bug" value="it_broke"' in (folder.path / "r.xml").read_text("utf-8")


def test_other_tests_are_left_alone(folder: pytest.Pytester) -> None:
    """A session that collects nothing of the folder has no table."""
    folder.makepyfile(test_other="def test_witness(): pass")
    result = folder.runpytest("test_other.py", "--llmguard-bugs=bugs", *STRICT)
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*ledger*")


def test_a_folder_that_is_not_there_is_a_usage_error(folder: pytest.Pytester) -> None:
    """With the way to make it; the ini file may name it, from its own folder."""
    result = folder.runpytest("--llmguard-bugs=nowhere", *STRICT)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--llmguard-bugs: no such folder*llmguard bug new*"])
    folder.makeini("[pytest]\nllmguard_bugs = bugs\n")
    folder.runpytest("bugs", *STRICT).assert_outcomes(passed=4)


def test_without_the_option_nothing_of_it_is_loaded(folder: pytest.Pytester) -> None:
    """The tests of the folder are tests like any."""
    result = folder.runpytest("bugs", *STRICT)
    result.assert_outcomes(passed=3)
    assert Ledger.__module__ == "pytest_llmguard.ledger"
    result.stdout.no_fnmatch_line("*ledger*")
