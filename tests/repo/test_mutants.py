"""The scripts that break checks and guards: what they change, where they change it, and that their pages know every check and bug."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmguard.catalogue import CHECKS
from llmguard.ledger import read_stories

ROOT = Path(__file__).parents[2]
SOURCE = '''\
"""Two checks."""
from llmguard.helper import borrowed

LIMIT = 3


@check
def numbers_are_small(numbers):
    """Small."""
    for number in numbers:
        if number > LIMIT and not _odd(number):
            yield error(where=number, what=f"{number} > 3", remedy="less" if number == 7 else "more")
    return len(numbers)


def _odd(number):
    return borrowed(number) == 1


@row_check
def rows_are_rows(rows):
    """Rows."""
    return Tally(len(rows))


@rows_are_rows.explain
def _(tally):
    if tally.bad:
        yield warning(what="bad")
'''


OPEN: set[str] = set()
"""Checks some of whose mutants survive in the page as it is: a test of their own is missing. Take one out when it has it."""


@pytest.fixture(scope="module")
def ci() -> Any:
    """The scripts, as they find each other."""
    sys.path.insert(0, str(ROOT / "ci"))
    try:
        import guards
        import mutants_page
        import mutations
        import survey
        import trees

        yield SimpleNamespace(
            guards=guards, page=mutants_page, mutations=mutations, survey=survey, trees=trees
        )
    finally:
        sys.path.remove(str(ROOT / "ci"))


@pytest.fixture
def module(ci: Any, tmp_path: Path) -> Any:
    """A module of two checks, and one that it borrows from."""
    package = tmp_path / "llmguard"
    package.mkdir()
    (package / "helper.py").write_text("def borrowed(number):\n    return number if number > 2 else 0\n")
    (package / "checks.py").write_text(SOURCE)
    return ci.mutations.Module(package / "checks.py")


def test_a_check_is_changed_where_it_decides_and_nowhere_else(module: Any) -> None:
    """Its own lines, its helpers' and its constants; no word of a finding, and nothing of another check."""
    found = module.mutations("numbers_are_small")
    texts = {module.mutated(m).decode() for m in found}
    assert len(texts) == len(found)
    for text in texts:
        ast.parse(text)
        assert text.count('remedy="less" if number == 7 else "more"') == 1 or "yield from ()" in text
        assert text.endswith(SOURCE[SOURCE.index("@row_check") :])
    kinds = {m.operator for m in found}
    assert kinds == {
        "early return", "comparison", "threshold", "and/or", "not dropped", "yield removed", "counts nothing", "severity",
    }  # fmt: skip


def test_a_short_check_borrows_mutants_of_what_it_calls(ci: Any, module: Any) -> None:
    """So that a check of three lines is not judged by three lines."""
    own = len(module.mutations("numbers_are_small"))
    files = [m.file.name for m, _ in ci.mutations.mutations_of(module, "numbers_are_small", own + 2)]
    assert files == ["checks.py"] * own + ["helper.py"] * 2
    assert len(list(ci.mutations.mutations_of(module, "numbers_are_small", 4))) == 4


@pytest.mark.parametrize("check", ["numbers_are_small", "rows_are_rows"])
def test_a_check_can_be_made_blind(module: Any, check: str) -> None:
    """What is left is a module that can be imported, and finds nothing."""
    names: dict[str, Any] = {"check": lambda f: f, "Tally": SimpleNamespace}
    told: list[Any] = []
    names["row_check"] = lambda f: SimpleNamespace(explain=told.append)
    text = module.blinded(check).decode().replace("from llmguard.helper import borrowed", "")
    exec(compile(text, "checks.py", "exec"), names)  # noqa: S102  # our own text, from above
    made = (
        names["numbers_are_small"]([9]) if check == "numbers_are_small" else told[0](SimpleNamespace(bad=1))
    )
    assert list(made) == []


def test_every_check_can_be_broken_watched_and_made_blind(ci: Any) -> None:
    """At least three mutants of each check of the catalogue; and its module can be compiled in every state."""
    for entry in CHECKS:
        module = ci.mutations.Module.read(ROOT / "src" / f"{entry.module.replace('.', '/')}.py")
        assert len(list(ci.mutations.mutations_of(module, entry.name, 6))) >= 3, entry.name
        ast.parse(module.blinded(entry.name))
        assert entry.name.encode() in ci.survey.instrumented(module, [entry.name])


def test_a_child_of_a_copy_imports_the_copy(ci: Any, tmp_path: Path) -> None:
    """Isolated or not, and a change is seen until the block ends, although compiled files lie beside it."""
    copy = ci.trees.Tree(tmp_path)
    file = ROOT / "src" / "llmguard" / "tally.py"

    def seen(*options: str) -> str:
        code = "import llmguard.tally, llmguard_core, pytest_llmguard as p; print(llmguard.tally.__doc__, p.__file__)"
        argv = [copy.python, *options, "-c", code]
        return subprocess.run(argv, capture_output=True, text=True, check=True, cwd=tmp_path).stdout

    with copy.changed(file, b'"""Changed."""\n' + file.read_bytes().split(b"\n", 1)[1]):
        assert seen() == seen("-I") == f"Changed. {copy.root / 'pytest_llmguard' / '__init__.py'}\n"
    assert not seen().startswith("Changed.")


def test_a_survey_tells_which_test_runs_which_check(ci: Any) -> None:
    """A test is as green as the worst of its parts; whoever runs no check is kept, for others of its file may need it."""
    lines = [
        {"test": "a", "seconds": 0.1, "outcome": "passed"},
        {"test": "a", "check": "one"},
        {"test": "a", "seconds": 0.2, "outcome": "failed"},
        {"test": "b", "seconds": 0.1, "outcome": "skipped"},
    ]
    first, second = ci.survey.tests_of(lines)
    assert (first.id, first.seconds, first.outcome, first.checks) == ("a", 0.3, "failed", frozenset({"one"}))
    assert (second.outcome, second.checks) == ("skipped", frozenset())


def test_every_check_is_on_the_page_of_mutants_and_none_survives(ci: Any) -> None:
    """docs/mutants.md: three or more of each check, each killed or excused with a reason; a check that waits for a run is named."""
    rows = {row.check: row for row in ci.page.read()}
    told = ci.page.PAGE.read_text("utf-8")
    lacking = [entry.name for entry in CHECKS if f"`{entry.name}`" not in told]
    assert not lacking, f"run python ci/mutants.py {' '.join(lacking)} --write"
    few = [name for name, row in rows.items() if row.mutants < 3]
    alive = {name for name, row in rows.items() if row.survivors}
    assert (few, alive) == ([], OPEN), (
        "write the test that sees the mutant, or its reason into ci/mutants.json"
    )


def test_a_page_is_renewed_row_by_row(ci: Any, tmp_path: Path) -> None:
    """A run of one check leaves the rows of the others."""
    page = tmp_path / "mutants.md"
    one, other = (ci.page.Row(CHECKS[n].family, CHECKS[n].name, 6, 9, 5, 1, 0, "") for n in (0, 1))
    ci.page.write([one, other], page)
    ci.page.write(
        [ci.page.Row(one.family, one.check, 8, 9, 8, 0, 0, "`a.py:3` x: `a \\| b` to `a & b`")], page
    )
    assert [(r.check, r.mutants) for r in ci.page.read(page)] == [(one.check, 8), (other.check, 6)]
    assert ci.page.read(page)[0].survivors.endswith("to `a & b`")


def test_every_regression_has_its_guards_taken_away(ci: Any) -> None:
    """docs/guards.md has a row for each check that a regression names, and each ends in a red test."""
    told = (ROOT / "docs" / "guards.md").read_text("utf-8")
    names = {entry.name for entry in CHECKS}
    stories = read_stories(ROOT / "regressions")
    lacking = {
        story.slug
        for story in stories
        for check in story.checks
        if check in names and f"| `{story.slug}` | `{check}` | `test_" not in told
    }
    lacking |= {story.slug for story in stories if f"| `{story.slug}` | " not in told}
    assert not lacking, f"run python ci/guards.py {' '.join(sorted(lacking))} --write"
    assert ci.guards.GREEN not in told


def test_what_is_taken_out_of_the_core_is_there_once(ci: Any) -> None:
    """ci/guards.json follows the core: each text stands once in its file, and belongs to a regression."""
    slugs = {story.slug for story in read_stories(ROOT / "regressions")}
    for slug, edits in ci.guards.edits().items():
        assert slug in slugs
        for edit in edits:
            ast.parse(ci.guards.without(edit))
