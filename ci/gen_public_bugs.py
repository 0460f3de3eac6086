"""Write docs/public-bugs.md from the cases of tests/unit/test_public_bugs*.py.

python ci/gen_public_bugs.py            writes the file
python ci/gen_public_bugs.py --check    says whether it is up to date (exit code 1 where it is not)
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "ci")]

from pages import write_or_check  # noqa: E402  # beside this script, however it is loaded

from llmguard.catalogue import CHECKS  # noqa: E402  # the checkout's own package, installed or not

TARGET = ROOT / "docs" / "public-bugs.md"
FAMILY = {entry.name: entry.family for entry in CHECKS}
HEAD = """\
# Public bugs, found by name

Written by `python ci/gen_public_bugs.py` from the cases of `tests/unit/test_public_bugs*.py`; a test says when it is out of date.

The ids are those of a collection of bugs that were told in public issue threads. Each case makes the fault, shows without our
checks that it is there, sees the check named here find it, and sees the sound variant left alone.
"""


@dataclass(frozen=True)
class Case:
    """A bug as its test tells it."""

    bug: str
    sentence: str
    checks: dict[str, list[str]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write what is generated here, or compare it."""
    return write_or_check(__file__, __doc__, {TARGET: document}, arguments)


def document() -> str:
    """The whole file."""
    found = sorted(cases(), key=lambda case: case.bug)
    rows = [
        f"| {c.bug} | {c.sentence} | {cell(f'`{n}`' for n in c.checks)} | {cell(FAMILY[n] for n in c.checks)} "
        f"| {cell(s for those in c.checks.values() for s in those)} |".replace("\\", "\\\\")
        for c in found
    ]
    head = ["| id | what happens | check | family | severity |", "|---|---|---|---|---|"]
    return "\n".join([HEAD, f"{len(found)} ids.\n", *head, *rows]) + "\n"


def cell(parts: Iterator[str]) -> str:
    """Each part once."""
    return ", ".join(dict.fromkeys(parts))


def cases() -> Iterator[Case]:
    """Every function under `@case(…)`, once for each of its ids."""
    for file in sorted((ROOT / "tests" / "unit").glob("test_public_bugs*.py")):
        for node in ast.parse(file.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                yield from cases_of(node)


def cases_of(function: ast.FunctionDef) -> Iterator[Case]:
    """The case that a function is, if it is one."""
    for call in function.decorator_list:
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "case":
            sentence = (ast.get_docstring(function) or "").splitlines()[0]
            checks = {name: severities(function) for name in named(function)}
            for bug in call.args:
                assert isinstance(bug, ast.Constant)
                yield Case(str(bug.value), sentence, checks)


def named(function: ast.FunctionDef) -> Iterator[str]:
    """Checks that a case calls, by attribute or by name in a text."""
    nodes = [n for n in ast.walk(function) if isinstance(n, (ast.Attribute, ast.Constant))]
    for node in sorted(nodes, key=lambda n: (n.lineno, n.col_offset)):
        name = node.attr if isinstance(node, ast.Attribute) else node.value
        if isinstance(name, str) and name in FAMILY:
            yield name


def severities(function: ast.FunctionDef) -> list[str]:
    """What a case expects of the broken variant."""
    lists = [n for n in ast.walk(function) if isinstance(n, ast.List)]
    words = [e.value for n in lists for e in n.elts if isinstance(e, ast.Constant)]
    return [s for s in ("error", "warning", "note") if s in words]


if __name__ == "__main__":
    sys.exit(main())
