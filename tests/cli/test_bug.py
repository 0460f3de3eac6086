"""`llmguard bug`: from nothing to a regression, from a symptom to the bug; the walk-through of the docs, command by command."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
ROOT = Path(__file__).parents[2]
WALK = ROOT / "docs" / "a-new-bug.md"


def test_new_writes_a_regression_once(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is and what to do next; a second call changes nothing, and a dry run writes nothing."""
    monkeypatch.chdir(tmp_path)
    shown = run("bug", "new", "EOS is never learnt", "--dry-run")
    assert "# regressions/test_eos_is_never_learnt.py" in shown.out
    assert not (tmp_path / "regressions").exists()
    file = tmp_path / "regressions" / "test_eos_is_never_learnt.py"
    first = run("bug", "new", "EOS is never learnt")
    assert "wrote regressions/test_eos_is_never_learnt.py" in first.out
    assert f"pytest --llmguard-bugs=regressions {file.relative_to(tmp_path)}" in first.out
    file.write_text(file.read_text("utf-8") + "# mine\n", "utf-8")
    assert "is there already: nothing was changed" in run("bug", "new", "EOS is never learnt").out
    assert file.read_text("utf-8").endswith("# mine\n")


def test_new_takes_its_story_from_an_issue(run: Run, tmp_path: Path) -> None:
    """The title too, unless one is given."""
    issue = tmp_path / "issue.md"
    issue.write_text("# It hangs\n\n## Symptom\nNothing moves.\n", "utf-8")
    run("bug", "new", "--from-issue", str(issue), "--folder", str(tmp_path / "bugs"))
    assert "Symptom: Nothing moves." in (tmp_path / "bugs" / "test_it_hangs.py").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("new",), "say what went wrong"),
        (("new", "?!"), "a sentence that says what went wrong"),
        (("new", "--from-issue", "nowhere.md"), "the issue cannot be read"),
        (("find", "xyzzy plugh"), "no known bug shares a word with"),
    ],
)
def test_a_mistake_is_one_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    """Exit code 2, no traceback."""
    monkeypatch.chdir(tmp_path)
    told = run("bug", *arguments)
    assert told.code == 2
    assert said in told.err
    assert "Traceback" not in told.err


def test_list_shows_what_is_lacking(run: Run, tmp_path: Path) -> None:
    """One's own first, then what the library knows; machines get JSON."""
    run("bug", "new", "It hangs", "--folder", str(tmp_path))
    assert "still to be filled in" in run("bug", "list", "--folder", str(tmp_path)).out
    told = json.loads(run("bug", "list", "--folder", str(tmp_path), "--json").out)
    assert told[0]["slug"] == "it_hangs"
    assert len(told[0]["problems"]) == 6
    assert {"eos_is_never_learnt", "labels_are_shifted_twice"} <= {one["slug"] for one in told}


def test_find_goes_from_what_is_seen_to_the_check(run: Run, tmp_path: Path) -> None:
    """Symptom, cause, lesson and the way to look for it; as JSON with scores, best first."""
    shown = run("bug", "find", "generation never stops", "--folder", str(tmp_path)).out
    assert shown.startswith("eos_is_never_learnt")
    assert "pytest -k 'collator_keeps_labels or terminator_is_trained'" in shown
    told = json.loads(run("bug", "find", "generation never stops", "--folder", str(tmp_path), "--json").out)
    assert [one["score"] for one in told] == sorted((one["score"] for one in told), reverse=True)


def test_the_walk_through_of_the_docs_works(tmp_path: Path) -> None:
    """Every command and every file of it, as a new user would type them: red first, green at the end."""
    blocks = re.findall(r"```(\w+)(?: (\S+))?\n(.*?)```", WALK.read_text("utf-8"), re.DOTALL)
    ended: list[tuple[str, int]] = []
    for kind, name, text in blocks:
        if kind == "python":
            (tmp_path / name).write_text(text, "utf-8")
        elif kind == "console":
            ended += [(line, _typed(line, tmp_path)) for line in re.findall(r"^\$ (.+)$", text, re.MULTILINE)]
    tests = [code for line, code in ended if line.startswith("pytest")]
    assert tests[0] == 1, "the new regression is red"
    assert tests[-1] == 0, "and green once it is written"
    assert all(code == 0 for line, code in ended if line.startswith("llmguard"))


def _typed(line: str, folder: Path) -> int:
    program = {"pytest": ["-m", "pytest", "-p", "no:cacheprovider"], "llmguard": ["-m", "llmguard.cli"]}
    first, *rest = re.findall(r"\"[^\"]*\"|\S+", line)
    words = [word.strip('"') for word in rest]
    done = subprocess.run(
        [sys.executable, *program[first], *words], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.returncode
