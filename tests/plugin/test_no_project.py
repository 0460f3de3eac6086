"""A folder without a project file: only what `-m` asks for by name, and one line on how to go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_llmguard.discovery import asked_for

if TYPE_CHECKING:
    from tests.plugin.conftest import Toy

GO_ON = "no llmguard.toml here: only what needs none was checked; `llmguard init` writes one from what lies in this folder"


@pytest.fixture
def bare(toy: Toy) -> Toy:
    """No project file; one toy check of each kind."""
    (toy.path / "llmguard.toml").unlink()
    toy.checks("toy_holds toy_breaks toy_runs_a_model toy_runs_on_a_gpu")
    toy.write(
        "test_toy.py",
        "import pytest\n@pytest.mark.preflight\ndef test_toy_mine(): pass\ndef test_toy_other(): pass\n",
    )
    return toy


def test_preflight_checks_what_needs_no_project(bare: Toy, axis: tuple[str, ...]) -> None:
    """Environment, storage and source; beside them the user's own preflight tests; the line on how to go on, once."""
    result = bare.run(*axis, "-m", "preflight", "--llmguard-json", "r.json")
    report = bare.read("r.json")
    assert bare.outcomes(report) == {"toy_breaks": "error"}
    assert report["project"] == "(no project file)"
    result.assert_outcomes(failed=1, passed=1)
    assert result.outlines.count(GO_ON) == 1


@pytest.mark.parametrize(
    "arguments",
    [(), ("-m", "not slow"), ("-m", "not preflight"), ("-m", "environment or source"), ("-k", "preflight")],
)
def test_nothing_else_brings_them(bare: Toy, arguments: tuple[str, ...]) -> None:
    """A plain run, and expressions that do not ask for the tier by its name, never get items that nobody wrote."""
    bare.write("pytest.ini", "[pytest]\nmarkers = slow: takes long\n")
    result = bare.run("--llmguard-json", "r.json", *arguments)
    assert bare.read("r.json")["checks"] == []
    assert GO_ON not in result.outlines


@pytest.mark.parametrize("argument", ["test_toy.py", "tests", "test_toy.py::test_toy_mine"])
def test_nor_does_a_run_about_something_else(bare: Toy, argument: str) -> None:
    """Who asks for a file or a subfolder gets that."""
    bare.write("tests/test_toy_b.py", "import pytest\n@pytest.mark.preflight\ndef test_toy_b(): pass\n")
    bare.run("-m", "preflight", argument).assert_outcomes(
        passed=1, deselected=1 if argument == "test_toy.py" else 0
    )


def test_the_folder_as_argument_counts_as_none(bare: Toy) -> None:
    """`pytest -m preflight .` is the same."""
    assert bare.outcomes(bare.report("-m", "preflight", ".")) == {"toy_breaks": "error"}


def test_a_project_further_down_is_a_project(bare: Toy) -> None:
    """With a project file in a subfolder that is collected there is one."""
    bare.project('[model]\nkind = "base"\n', "sub/llmguard.toml")
    result = bare.run("-m", "preflight", "--llmguard-json", "r.json")
    assert bare.read("r.json")["project"] == "sub/llmguard.toml"
    assert GO_ON not in result.outlines


def test_last_failed_knows_them(bare: Toy) -> None:
    """They have node ids like any item."""
    bare.run("-m", "preflight")
    result = bare.run("-m", "preflight", "--lf", "--co", "-q")
    assert [line for line in result.outlines if "::" in line] == ["llmguard::toy_breaks"]


def test_real_checks_of_the_environment_run(bare: Toy) -> None:
    """The real ones, in a folder that has nothing: each passes, warns or says what it lacks; none breaks, none accuses."""
    bare.write("conftest.py", "")
    report = bare.report("-m", "preflight", only="not toy and not torch")
    assert {c["family"] for c in report["checks"]} <= {"environment", "storage", "source"}
    assert not [c for c in report["checks"] if c["outcome"] in ("failed", "error")]


@pytest.mark.parametrize(
    ("expression", "asked"),
    [
        ("preflight", True),
        ("preflight and not slow", True),
        ("preflight and environment", True),
        ("preflight or smoke", True),
        ("(preflight)", True),
        ("preflight and sentinel", False),
        ("preflight and tokens", False),
        ("not preflight", False),
        ("not slow", False),
        ("environment", False),
        ("preflight or not slow", False),
        ("environment or preflight", False),
        ("sentinel", False),
    ],
)
def test_what_asks_for_a_tier(expression: str, asked: bool) -> None:
    """An expression asks for a tier when the tier's name is what makes it take the check."""
    assert asked_for(expression, "preflight", "environment") is asked


def test_what_asks_for_the_sentinel() -> None:
    """Tier and family of one name are one marker."""
    assert asked_for("sentinel", "sentinel", "sentinel")
    assert not asked_for("preflight", "sentinel", "sentinel")
    assert not asked_for("not sentinel", "sentinel", "sentinel")
