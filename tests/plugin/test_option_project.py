"""`--llmguard-project FILE`: that file is the project, collected once, wherever it lies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Toy

BASE = '[model]\nkind = "base"\n'


@pytest.fixture
def elsewhere(toy: Toy) -> Toy:
    """The folder's project file, and another one in a folder that pytest does not look into."""
    toy.checks("toy_holds")
    toy.project(BASE, ".hidden/other.toml")
    return toy


@pytest.mark.parametrize(
    "arguments", [(), (".",), (".hidden/other.toml",), ("tests",), (".hidden/other.toml", ".")]
)
def test_it_is_collected_exactly_once(elsewhere: Toy, arguments: tuple[str, ...]) -> None:
    """When it is no argument, when it lies in one, and when it is one."""
    elsewhere.write("tests/test_a.py", "def test_toy_a(): pass\n")
    result = elsewhere.run("--collect-only", "-q", "--llmguard-project", ".hidden/other.toml", *arguments)
    assert [line for line in result.outlines if line.endswith("::toy_holds")] == [
        ".hidden/other.toml::toy_holds"
    ]


def test_it_is_collected_exactly_once_under_xdist(elsewhere: Toy, axis: tuple[str, ...]) -> None:
    """Each worker collects it, and the report has each check once."""
    report = elsewhere.report(*axis, "--llmguard-project", ".hidden/other.toml", ".")
    assert (report["project"], elsewhere.outcomes(report)) == (".hidden/other.toml", {"toy_holds": "passed"})


def test_the_file_of_the_folder_is_left_out(elsewhere: Toy) -> None:
    """Who names a project means that one; another is collected only when it is named as an argument, too."""
    option = ("--llmguard-project", ".hidden/other.toml")
    assert elsewhere.report(*option)["project"] == ".hidden/other.toml"
    assert elsewhere.report(*option, "llmguard.toml")["project"] == ".hidden/other.toml, llmguard.toml"


def test_it_lies_outside_of_the_root(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A file outside of pytest's root has its path from there as node id."""
    toy.checks("toy_holds")
    outside = tmp_path_factory.mktemp("outside") / "llmguard.toml"
    outside.write_text(BASE, "utf-8")
    report = toy.report(f"--llmguard-project={outside}", "--rootdir", str(toy.path))
    assert report["project"].startswith("../")
    assert report["project"].endswith("/llmguard.toml")
    assert toy.outcomes(report) == {"toy_holds": "passed"}


def test_a_folder_means_the_file_in_it(elsewhere: Toy) -> None:
    """Of a folder its project file is taken; a folder without one is a usage error that says what to do."""
    elsewhere.project(BASE, "sub/llmguard.toml")
    assert elsewhere.report("--llmguard-project", "sub")["project"] == "sub/llmguard.toml"
    result = elsewhere.run("--llmguard-project", ".hidden")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: --llmguard-project: no project file in *.hidden*; `llmguard init` writes one"]
    )


def test_a_file_that_is_not_there_is_a_usage_error(toy: Toy, axis: tuple[str, ...]) -> None:
    """Told before anything runs, once, with what to do."""
    result = toy.run(*axis, "--llmguard-project", "nowhere.toml")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: --llmguard-project: no such file: *nowhere.toml*; `llmguard init` writes one"]
    )


def test_the_conftest_beside_it_is_heard(toy: Toy) -> None:
    """Checks that a conftest beside the named file hands in are run, as for any test file."""
    toy.checks("toy_holds")
    toy.project(BASE, "sub/llmguard.toml")
    toy.write(
        "sub/conftest.py",
        "import toychecks\ndef pytest_llmguard_checks(config):\n    return [toychecks.entry('toy_warns')]\n",
    )
    toy.write("test_toy.py", "def test_toy(): pass\n")
    report = toy.report("--llmguard-project", "sub/llmguard.toml", "test_toy.py")
    assert toy.outcomes(report) == {"toy_holds": "passed", "toy_warns": "warned"}


def test_a_broken_conftest_beside_it_is_a_collection_error(toy: Toy) -> None:
    """It is reported like any conftest that cannot be imported; nothing is quietly left out."""
    toy.project(BASE, "sub/llmguard.toml")
    toy.write("sub/conftest.py", "raise RuntimeError('broken beside')\n")
    toy.write("test_toy.py", "def test_toy(): pass\n")
    result = toy.run("--llmguard-project", "sub/llmguard.toml", "test_toy.py")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert "broken beside" in result.stdout.str()


def test_from_the_ini_file(elsewhere: Toy) -> None:
    """The twin, from the ini file's folder."""
    elsewhere.write("pytest.ini", "[pytest]\nllmguard_project = .hidden/other.toml\n")
    assert elsewhere.report()["project"] == ".hidden/other.toml"
