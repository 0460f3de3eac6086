"""Write docs/edge-cases.md: the eighty edge cases, what happens in each, and the tests that prove it.

python ci/gen_edge_cases.py            writes the file
python ci/gen_edge_cases.py --check    says whether it is up to date (exit code 1 where it is not)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "ci")]

from edge.cases import CASES, CATEGORIES, WHERE, Case  # noqa: E402  # the registry lies beside the tests
from pages import write_or_check  # noqa: E402  # beside this script, however it is loaded

DOCS = ROOT / "docs" / "edge-cases.md"
HEAD = """\
# Edge cases

Written by `python ci/gen_edge_cases.py` from `tests/edge/cases.py`; a test says when it is out of date. Each test first shows
that its fault really fires, without our code, and then that what stands here happens. *Where*: {where}.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file, or compare it."""
    return write_or_check(__file__, __doc__, {DOCS: document}, arguments)


def document() -> str:
    """The counts, then a table a category."""
    where = ", ".join(f"{letter} {what}" for letter, what in WHERE.items())
    lines = [HEAD.format(where=where), *_counts()]
    for category in CATEGORIES:
        lines += [
            "",
            f"## {category}",
            "",
            "| # | case | what happens | where | proved by |",
            "|--:|---|---|---|---|",
        ]
        lines += [_row(case) for case in CASES if case.category == category]
    return "\n".join([*lines, ""])


def _counts() -> Iterator[str]:
    yield "| category | cases | proved | tests |"
    yield "|---|--:|--:|--:|"
    for category in CATEGORIES:
        yield _count(category, [case for case in CASES if case.category == category])
    yield _count("all", CASES)


def _count(name: str, cases: Sequence[Case]) -> str:
    proved = sum(set(case.asks) <= {where for where, tests in case.proofs.items() if tests} for case in cases)
    tests = {test for case in cases for named in case.proofs.values() for test in named}
    return f"| {name} | {len(cases)} | {proved} | {len(tests)} |"


def _row(case: Case) -> str:
    tests = dict.fromkeys(test for named in case.proofs.values() for test in named)
    told = "<br>".join(f"`{test}`" for test in tests)
    return f"| {case.number} | {case.title} | {case.happens} | {', '.join(case.asks)} | {told} |"


if __name__ == "__main__":
    sys.exit(main())
