"""Write docs/faults.md: for each check of the token families, the tests that plant its faults and those that leave sound data alone.

python ci/gen_faults.py            writes the file
python ci/gen_faults.py --check    says whether it is up to date (exit code 1 where it is not)

Read from the tests by their syntax: a test plants a fault of a check where it names the check and asserts a finding, and is a
negative control where it asserts that there is none. Faults of tests/support/faults.py are planted on real tokenizers.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "ci")]

from pages import write_or_check  # noqa: E402  # beside this script, however it is loaded

from llmguard.catalogue import CHECKS  # noqa: E402  # the checkout's own package, installed or not

TARGET, PLANTED = ROOT / "docs" / "faults.md", ROOT / "tests" / "support" / "faults.py"
ROOMS = ("unit", "checks")
FAMILIES = ("template", "tokens", "masking", "collation", "packing", "prompts", "data", "preference")
SHOWN = 6
ANY = re.compile(rf"\b(?:{'|'.join(e.name for e in CHECKS)})\b")
SIGNS = ("error", "warning", "note", "message", "what", "severity", "evidence", "only", "_only")
HEAD = """\
# Planted faults and negative controls

Written by `python ci/gen_faults.py` from the tests' syntax: run it again when tests were added. A test plants a fault where it
names the check and asserts a finding; it is a negative control where it asserts that there is none; many are both. Faults that
are set in *italics* are planted by `tests/support/faults.py` on rows of real tokenizers and templates, where those are at hand.
Which small changes of each check some test notices stands in [mutants.md](mutants.md), bugs told in public in
[public-bugs.md](public-bugs.md).
"""


@dataclass(frozen=True)
class Test:
    """A test function (or a case that one runs), with all the text that says which checks it is about."""

    name: str
    text: str
    asserts: tuple[ast.Assert, ...]

    def about(self, check: str) -> tuple[ast.Assert, ...]:
        """Asserts that name the check, or no check at all; none where the test does not name it."""
        if not _names(check, self.text):
            return ()
        return tuple(a for a in self.asserts if _names(check, said := ast.unparse(a)) or not ANY.search(said))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write what is generated here, or compare it."""
    return write_or_check(__file__, __doc__, {TARGET: document}, arguments)


def document() -> str:
    """A table a family."""
    tests, planted, parts = list(read_tests()), planted_faults(), [HEAD]
    for family in FAMILIES:
        parts += [f"## {family}\n", "| check | planted faults | negative controls |", "|---|---|---|"]
        for check in (e.name for e in CHECKS if e.family == family):
            faults = [f"*{name}*" for name in planted.get(check, ())]
            faults += [t.name for t in tests if any(_finds(a) for a in t.about(check))]
            controls = [t.name for t in tests if any(_is_silent(a) for a in t.about(check))]
            parts.append(f"| `{check}` | {_cell(faults)} | {_cell(controls)} |")
        parts.append("")
    return "\n".join(parts)


def _cell(names: list[str]) -> str:
    found = list(dict.fromkeys(names))
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + more if found else "none"


def planted_faults() -> dict[str, list[str]]:
    """By check, the faults of the collection that it is to find."""
    found: dict[str, list[str]] = {}
    for node in ast.parse(PLANTED.read_text("utf-8")).body if PLANTED.is_file() else ():
        if isinstance(node, ast.FunctionDef):
            for call in node.decorator_list:
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "fault":
                    for name in (a.value for a in call.args if isinstance(a, ast.Constant)):
                        found.setdefault(str(name), []).append(node.name.replace("_", " "))
    return found


def read_tests() -> Iterator[Test]:
    """Every test of the rooms, and every case under `@case(…)`."""
    for room in ROOMS:
        for file in sorted((ROOT / "tests" / room).glob("test_*.py")):
            yield from _tests_of(ast.parse(file.read_text("utf-8")))


def _tests_of(tree: ast.Module) -> Iterator[Test]:
    constants = {
        t.id: ast.unparse(n.value)
        for n in tree.body
        if isinstance(n, ast.Assign)
        for t in n.targets
        if isinstance(t, ast.Name)
    }
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield from _test(node, constants)
        elif isinstance(node, ast.ClassDef):
            shared = [
                n for n in node.body if not (isinstance(n, ast.FunctionDef) and n.name.startswith("test_"))
            ]
            helpers = "\n".join(ast.unparse(n) for n in shared)
            for each in node.body:
                if isinstance(each, ast.FunctionDef):
                    uses = "self." in ast.unparse(each)
                    yield from _test(each, constants, helpers if uses else "")


def _test(node: ast.FunctionDef, constants: dict[str, str], helpers: str = "") -> Iterator[Test]:
    cased = [
        c
        for c in node.decorator_list
        if isinstance(c, ast.Call) and isinstance(c.func, ast.Name) and c.func.id == "case"
    ]
    if not (cased or node.name.startswith("test_")):
        return
    said = [
        constants.get(n.id, "") for d in node.decorator_list for n in ast.walk(d) if isinstance(n, ast.Name)
    ]
    text = "\n".join([ast.unparse(node), helpers, *said])
    asserts = tuple(n for n in ast.walk(node) if isinstance(n, ast.Assert))
    yield Test(node.name.removeprefix("test_").replace("_", " "), text, asserts)


def _names(check: str, text: str) -> bool:
    return re.search(rf"\b{check}\b", text) is not None


def _finds(node: ast.Assert) -> bool:
    """Whether a finding is asserted: a severity, or a part of one that was found."""
    words = [n.value for n in ast.walk(node.test) if isinstance(n, ast.Constant)]
    words += [n.attr.lower() for n in ast.walk(node.test) if isinstance(n, ast.Attribute)]
    words += [
        n.func.id for n in ast.walk(node.test) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    ]
    return any(s in words for s in SIGNS)


def _is_silent(node: ast.Assert) -> bool:
    """Whether it is asserted that there is no finding: `not check(…)`, or nothing equal to an empty list or mapping."""
    if isinstance(node.test, ast.UnaryOp) and isinstance(node.test.op, ast.Not):
        return True
    empty = [
        n
        for n in ast.walk(node.test)
        if isinstance(n, (ast.List, ast.Dict)) and not ast.unparse(n).strip("[]{}")
    ]
    return isinstance(node.test, ast.Compare) and bool(empty)


if __name__ == "__main__":
    sys.exit(main())
