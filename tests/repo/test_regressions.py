"""Every regression tells its story and has its three tests; the checks that it names exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "regressions").glob("test_*.py"))
FIELDS = ("Symptom", "Cause", "First seen", "Cost", "Check", "Lesson")
TESTS = ("test_witness", "test_check_rejects", "test_check_accepts")


def problems(file: Path) -> list[str]:
    """What a regression lacks, each as an instruction."""
    tree = ast.parse(file.read_text("utf-8"))
    story = ast.get_docstring(tree) or ""
    named = {n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    named |= {
        t.id
        for n in tree.body
        if isinstance(n, ast.Assign)
        for target in n.targets
        for t in ast.walk(target)
        if isinstance(t, ast.Name)
    }
    lacking = [
        f"its story has no line `{field}: …`"
        for field in FIELDS
        if not re.search(rf"^{field}: \S", story, re.M)
    ]
    lacking += [f"it has no {name}()" for name in ("broken", "fixed", *TESTS) if name not in named]
    return lacking + [
        f"its story names the check {c}, which does not exist"
        for c in checks_of(story)
        if c not in catalogue()
    ]


def checks_of(story: str) -> list[str]:
    """The checks that a story names."""
    line = re.search(r"^Check: (.+)$", story, re.M)
    return [c.strip() for c in line.group(1).split(",")] if line else []


def catalogue() -> set[str]:
    """The names of all checks."""
    from llmguard.catalogue import CHECKS

    return {c.name for c in CHECKS}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_a_regression_is_whole(file: Path) -> None:
    """Story, broken, fixed, witness, rejects, accepts."""
    found = problems(file)
    assert not found, f"{file.name}: " + "; ".join(found) + " (see regressions/README.md)"


def test_what_is_lacking_is_told(tmp_path: Path) -> None:
    """A regression without its parts is told each of them."""
    file = tmp_path / "test_nothing.py"
    file.write_text(
        '"""A story.\n\nSymptom: it breaks.\nCheck: no_such_check\n"""\n\ndef broken(): ...\n', "utf-8"
    )
    found = problems(file)
    assert len(found) == 4 + 4 + 1
    assert any("no_such_check" in line for line in found)


def test_there_are_regressions() -> None:
    """The folder is not empty, so that the tests above cannot pass by looking at nothing."""
    assert len(FILES) >= 8
