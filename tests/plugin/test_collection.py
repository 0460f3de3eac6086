"""Which project files are collected, once each, and as what."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Toy


def items(result: pytest.RunResult) -> list[str]:
    """The node ids that `--collect-only -q` lists."""
    return [line for line in result.outlines if "::" in line and not line.startswith(("ERROR", " "))]


def collect(toy: Toy, *arguments: str, only: str = "toy_holds") -> list[str]:
    return items(toy.run("--collect-only", "-q", *arguments, only=only))


def test_the_file_in_the_folder_is_collected(toy: Toy) -> None:
    """A plain `pytest` collects llmguard.toml: one item a check, named `file::check`."""
    assert collect(toy) == ["llmguard.toml::toy_holds"]


@pytest.mark.parametrize("argument", ["llmguard.toml", ".", "llmguard.toml::toy_holds"])
def test_arguments_name_files_folders_and_checks(toy: Toy, argument: str) -> None:
    """The file, its folder and a single check can be given as arguments."""
    assert collect(toy, argument) == ["llmguard.toml::toy_holds"]


def test_an_argument_elsewhere_leaves_it_out(toy: Toy) -> None:
    """Somebody who asks for one test file gets that file alone."""
    toy.write("tests/test_holds.py", "def test_toy_holds(): pass\n")
    assert collect(toy, "tests") == ["tests/test_holds.py::test_toy_holds"]


def test_testpaths_do_not_hide_it(toy: Toy) -> None:
    """With `testpaths` set and no argument the project file of the root is collected, too."""
    toy.write("pytest.ini", "[pytest]\ntestpaths = tests\n")
    toy.write("tests/test_holds.py", "def test_toy_holds(): pass\n")
    assert sorted(collect(toy)) == ["llmguard.toml::toy_holds", "tests/test_holds.py::test_toy_holds"]


def test_a_subfolder_finds_the_root(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started in a subfolder without arguments, pytest still checks the project of its root."""
    toy.write("pytest.ini", "[pytest]\n")
    toy.write("tests/test_holds.py", "def test_toy_holds(): pass\n")
    monkeypatch.chdir(toy.path / "tests")
    assert sorted(collect(toy)) == ["llmguard.toml::toy_holds", "tests/test_holds.py::test_toy_holds"]


def test_pyproject_is_collected_for_its_table(toy: Toy) -> None:
    """`[tool.llmguard]` in pyproject.toml is a project file; a pyproject.toml without it is not."""
    (toy.path / "llmguard.toml").rename(toy.path / "other.toml")
    toy.write("pyproject.toml", "[tool.other]\nx = 1\n")
    assert collect(toy) == []
    toy.write("pyproject.toml", '[tool.llmguard.model]\nkind = "base"\n')
    assert collect(toy) == ["pyproject.toml::toy_holds"]


def test_llmguard_toml_wins_over_pyproject(toy: Toy) -> None:
    """Of two project files in one folder llmguard.toml speaks; the other is collected only by name."""
    toy.write("pyproject.toml", '[tool.llmguard.model]\nkind = "base"\n')
    assert collect(toy) == ["llmguard.toml::toy_holds"]
    assert collect(toy, "pyproject.toml") == ["pyproject.toml::toy_holds"]


def test_several_projects_in_one_tree(toy: Toy) -> None:
    """Each folder's project file is collected under its own path."""
    toy.project('[model]\nkind = "chat"\n', "sub/llmguard.toml")
    assert sorted(collect(toy)) == ["llmguard.toml::toy_holds", "sub/llmguard.toml::toy_holds"]


def test_what_is_ignored_stays_ignored(toy: Toy) -> None:
    """`--ignore` and `collect_ignore` hold for project files, also for the one of the root."""
    assert collect(toy, "--ignore", "llmguard.toml") == []
    toy.checks("toy_holds", 'collect_ignore = ["llmguard.toml"]\n')
    assert collect(toy) == []


def test_there_is_one_item_a_target(toy: Toy) -> None:
    """A check over splits is one item for each split that the project names."""
    toy.project('[data]\ntrain = "a.jsonl"\ntest = "b.jsonl"\n')
    expected = ["llmguard.toml::toy_needs[train]", "llmguard.toml::toy_needs[test]"]
    assert collect(toy, only="toy_needs and not too") == expected


@pytest.mark.parametrize("arguments", [(), ("llmguard.toml",), ("llmguard.toml", "llmguard.toml")])
def test_a_file_is_collected_once(toy: Toy, arguments: tuple[str, ...]) -> None:
    """However often it is named, each check is there once in the report."""
    report = toy.report(*arguments)
    assert len(report["checks"]) == len(toy.outcomes(report)) == 10


def test_an_invalid_file_is_one_clean_error(toy: Toy, axis: tuple[str, ...]) -> None:
    """Every problem of the project file at once, each with its key; no traceback; the exit code of a collection error."""
    toy.project('[model]\nkid = "base"\n[pipeline]\nmax_length = "long"\n')
    result = toy.run(*axis, "--llmguard-json", "r.json")
    assert result.ret in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.TESTS_FAILED)  # xdist says the second
    text = result.stdout.str()
    assert "llmguard.toml: 2 problems in the project file" in text
    assert "unknown key `model.kid`: did you mean `model.kind`?" in text
    assert "`pipeline.max_length`" in text
    assert "Traceback" not in text
    assert "load.py" not in text
    assert "2 problems in the project file" in toy.read("r.json")["error"]


def test_a_file_that_is_no_toml_is_one_clean_error(toy: Toy) -> None:
    """Nor does a syntax error show a traceback."""
    toy.project("[model\n")
    result = toy.run()
    result.stdout.fnmatch_lines(["*llmguard.toml: 1 problem in the project file*", "*is not TOML: *line 1*"])
    result.stdout.no_fnmatch_line("*Traceback*")


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("", "toy"),
        ("train", "toy[train]"),
        ("a b/c.yaml", "toy[a b/c.yaml]"),
        ("a\x1b[31m\n.yaml", "toy[a\\x1b[31m\\n.yaml]"),
        ("é.yaml", "toy[é.yaml]"),
    ],
)
def test_names_cannot_break_the_terminal(target: str, name: str) -> None:
    """A target stands in the item's name as it is, control characters escaped."""
    from llmguard.catalogue import Entry
    from pytest_llmguard.items import item_name

    assert item_name(Entry("toy", "m", "config"), target) == name


HEAVY = """

import sys
def pytest_unconfigure():
    heavy = {"numpy", "torch", "transformers", "pyarrow", "jinja2", "yaml"}
    print("HEAVY", sorted(heavy & set(sys.modules)))
"""
FULL = """
[model]
path = "m"
adapter = "a"
[data]
train = "a.jsonl"
[config]
files = ["c.yaml"]
[pipeline]
encode = "a:b"
collate = "a:c"
"""


def test_collecting_loads_nothing_heavy(toy: Toy) -> None:
    """`--collect-only` reads the project file with pydantic and loads no numpy, torch or transformers."""
    toy.project(FULL)
    toy.checks("toy_holds", HEAVY)
    done = toy.process("--collect-only", "-q", only="")
    assert "llmguard.toml::collator_keeps_labels" in done.stdout
    assert "HEAVY []" in done.stdout
