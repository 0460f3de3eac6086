"""Eighty edge cases, each with its tests: none is renamed or taken away without its case being proved elsewhere."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from edge.cases import CASES, CATEGORIES, WHERE, Case

TESTS = Path(__file__).parents[1]
EDGE = re.compile(r"test_edge_(\d\d)_\w+")


@cache
def _tests(file: Path) -> dict[str, ast.FunctionDef]:
    """The tests of a file."""
    tree = ast.parse(file.read_text("utf-8"))
    return {
        n.name: n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")
    }


def _place(proof: str) -> tuple[Path, str]:
    """The file and the function that a proof names."""
    topic, _, test = proof.partition("::")
    room, _, topic = topic.rpartition("/")
    return TESTS / (room or "edge") / f"test_{topic}.py", f"test_{test}"


def _edge_tests() -> dict[str, Path]:
    """Every numbered test of tests/edge."""
    files = sorted((TESTS / "edge").glob("test_*.py"))
    return {name: file for file in files for name in _tests(file) if EDGE.fullmatch(name)}


def test_there_are_eighty_in_eight_categories() -> None:
    """Numbered without a gap, ten a category; each says what must happen, and where."""
    assert [case.number for case in CASES] == [*range(1, 81)]
    assert [case.category for case in CASES] == [c for c in CATEGORIES for _ in range(10)]
    assert all(case.title and case.happens and case.asks for case in CASES)
    assert {letter for case in CASES for letter in case.asks} == {*WHERE}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.number:02}")
def test_an_edge_case_is_proved_wherever_it_must_be_handled(case: Case) -> None:
    """By tests that exist, one of them under its number in tests/edge."""
    assert set(case.asks) == {where for where, tests in case.proofs.items() if tests}
    proofs = {proof for tests in case.proofs.values() for proof in tests}
    gone = [
        proof
        for proof in proofs
        if not _place(proof)[0].is_file() or _place(proof)[1] not in _tests(_place(proof)[0])
    ]
    assert gone == []
    assert any(
        proof.partition("::")[2].startswith(f"edge_{case.number:02}_") and "/" not in proof
        for proof in proofs
    )


def test_every_numbered_test_is_in_the_registry() -> None:
    """A test of tests/edge that carries a number proves that case there."""
    named = {_place(p)[1] for case in CASES for tests in case.proofs.values() for p in tests}
    assert sorted(_edge_tests().keys() - named) == []


def test_the_table_is_current(root: Path) -> None:
    """docs/edge-cases.md."""
    command = [sys.executable, "ci/gen_edge_cases.py", "--check"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_registry_asks_what_the_list_of_cases_asks(real_data: Path) -> None:
    """K and C stand where the list that this was built from has them."""
    listed = real_data / "EDGE_CASES.md"
    if not listed.is_file():
        pytest.skip(f"no list of edge cases in {real_data}")
    told = dict(re.findall(r"^\| (\d+) \| [^|]+ \| (.+) \|$", listed.read_text("utf-8"), re.MULTILINE))
    assert len(told) == len(CASES)
    for case in CASES:
        must = told[str(case.number)].replace("C/K", "K")  # either will do
        wanted = {letter for letter in "KC" if re.search(rf"(?<![\w`]){letter}(?![\w`-])", must)}
        assert wanted <= set(case.asks), f"{case.number}: {must}"
