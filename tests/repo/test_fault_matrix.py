"""The recorder of the fault matrix: what it writes down, and that it notices what a test leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.matrix import Matrix, fault, known

from llmguard.probe import ProbeResult, Survivor, Verdict

CONFTEST = """
import sys
sys.path.insert(0, {support!r})
from support.matrix import Recorder
def pytest_configure(config):
    config.addinivalue_line("markers", "fault(*ids): ...")
    config.pluginmanager.register(Recorder(config), "fault-matrix")
"""


def _lines(
    pytester: pytest.Pytester, root: Path, code: str
) -> tuple[pytest.RunResult, list[dict[str, object]]]:
    pytester.makeconftest(CONFTEST.format(support=str(root / "tests")))
    pytester.makepyfile(f"import os, subprocess, pytest\nfrom support.matrix import fault\n{code}")
    told = pytester.path / "told.jsonl"
    result = pytester.runpytest_subprocess("-p", "no:llmguard", "-p", "no:cacheprovider")
    return result, [json.loads(line) for line in told.read_text().splitlines()] if told.exists() else []


@pytest.fixture(autouse=True)
def _own_file(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMGUARD_FAULT_MATRIX", str(pytester.path / "told.jsonl"))


def test_every_fault_of_the_specification_is_listed() -> None:
    """225 in twelve groups, numbered without a gap."""
    counts = {group: sum(one[0] == group for one in known()) for group in "ABCDEFGHIJKL"}
    assert list(counts.values()) == [30, 17, 16, 19, 13, 16, 14, 24, 16, 23, 15, 22]
    assert all(f"{group}{n}" in known() for group, count in counts.items() for n in range(1, count + 1))


def test_a_fault_that_is_not_listed_is_refused() -> None:
    """A slip of the pen would be a hole in the table."""
    with pytest.raises(ValueError, match="A99"):
        fault("A1", "A99")


def test_the_table_names_every_fault_that_is_planted(root: Path) -> None:
    """After new faults: run the tests, then ci/gen_fault_matrix.py."""
    command = [sys.executable, str(root / "ci" / "gen_fault_matrix.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_table_is_made_of_what_was_written_down(root: Path, tmp_path: Path) -> None:
    """The slowest time, the verdict, survivors; a test that is gone is left out, the newest line of a test counts."""
    here = {
        "test": "tests/repo/test_fault_matrix.py::test_a_late_verdict_or_a_survivor_fails",
        "faults": ["A1"],
    }
    lines = [
        {**here, "outcome": "failed", "reason": "", "seconds": 9.0},
        {
            **here,
            "outcome": "passed",
            "reason": "",
            "seconds": 1.25,
            "deadline": 1.0,
            "verdict": "hung",
            "survivors": 1,
        },
        {
            "test": "tests/gone.py::test_x",
            "faults": ["A2"],
            "outcome": "passed",
            "verdict": "of a test that was removed",
        },
        {
            **here,
            "test": f"{here['test']}[b]",
            "faults": ["A3"],
            "outcome": "skipped",
            "reason": "no gcc",
            "seconds": None,
        },
    ]
    told = tmp_path / "told.jsonl"
    told.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    code = "import sys, pathlib; sys.path.insert(0, 'ci'); import gen_fault_matrix as g; "
    code += f"print(g.document({{'A1': ['t.py'], 'A3': ['t.py']}}, g.results(pathlib.Path({str(told)!r}))))"
    text = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    assert "| A1 | sleeps for ever | any machine | hung | 1.2 s | 1.0 s | 1 | t.py |" in text
    assert "that was removed" not in text
    assert "skipped: no gcc" in text
    assert "| A. Import of torch | 30 | 2 | 2 | 1 | 1 |" in text
    assert "cannot prove" in text


def test_outcomes_are_written_down(pytester: pytest.Pytester, root: Path) -> None:
    """Passed with its verdict, skipped with its reason, failed; an unmarked test is none of it."""
    code = """
@fault("A1")
def test_one(matrix): matrix.saw("hung", seconds=1.0, deadline=1.5)
@pytest.mark.parametrize("x", [pytest.param(1, marks=fault("B1", "B2"))])
def test_two(x): pytest.skip("no gcc")
@fault("A3")
def test_three(): assert 0
def test_four(): pass
"""
    result, lines = _lines(pytester, root, code)
    result.assert_outcomes(passed=2, skipped=1, failed=1)
    assert [(line["faults"], line["outcome"]) for line in lines] == [
        (["A1"], "passed"), (["B1", "B2"], "skipped"), (["A3"], "failed"),
    ]  # fmt: skip
    assert {"verdict": "hung", "seconds": 1.0, "deadline": 1.5, "survivors": 0}.items() <= lines[0].items()
    assert lines[1]["reason"] == "no gcc"


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("subprocess.Popen(['sleep', '3'], start_new_session=True)", "processes ["),
        ("os.open('/dev/null', os.O_RDONLY)", "/dev/null"),
        ("sys.modules.setdefault('torch', os)", "torch in this process"),
    ],
)
def test_what_is_left_behind_is_an_error(pytester: pytest.Pytester, root: Path, line: str, left: str) -> None:
    """Processes, descriptors and torch; in a test that is none of a fault the same is nobody's business."""
    code = f"""
import sys
kept = []
@pytest.mark.filterwarnings("ignore")
@fault("A1")
def test_marked(): kept.append({line})
def test_unmarked(): kept.append({line})
"""
    result, lines = _lines(pytester, root, code)
    result.assert_outcomes(passed=2, errors=1)
    assert [line["outcome"] for line in lines] == ["failed"]
    result.stdout.fnmatch_lines([f"*left behind: *{left.replace('[', '[[]')}*"])


def test_a_late_verdict_or_a_survivor_fails() -> None:
    """The bound is the deadline and two seconds."""
    late = ProbeResult(Verdict.HUNG, "import", 4.1, 2.0)
    with pytest.raises(AssertionError, match=r"4\.1 s"):
        Matrix().saw(late)
    Matrix().saw(late, seconds=3.9)
    kept = ProbeResult(Verdict.HUNG_FS, "import", 1.0, 2.0, survivors=(Survivor(1),))
    with pytest.raises(AssertionError, match="1 survivors"):
        Matrix().saw(kept)
    Matrix().saw(kept, survivors=1)
