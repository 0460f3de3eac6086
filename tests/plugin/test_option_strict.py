"""`--llmguard-strict`: warnings fail, too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Toy


def test_warnings_fail(toy: Toy) -> None:
    """A check with a warning fails, and its text shows the warning; a note does not fail."""
    toy.checks("toy_warns toy_notes")
    result = toy.run("--llmguard-strict", "--llmguard-json", "r.json")
    assert toy.outcomes(toy.read("r.json")) == {"toy_warns": "failed", "toy_notes": "passed"}
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["*toy_warns*", "warning: key 'lr': lr = 0.3 is high.", "Remedy: append the EOS token."]
    )


def test_without_it_they_are_shown_and_pass(toy: Toy) -> None:
    """The same project is green, with the warning in the summary."""
    toy.checks("toy_warns toy_notes")
    result = toy.run()
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["warned: toy_warns: key 'lr': lr = 0.3 is high."])


def test_from_the_ini_file_and_back(toy: Toy) -> None:
    """`llmguard_strict = true` fails; `--no-llmguard-strict` takes it back."""
    toy.checks("toy_warns")
    toy.write("pytest.ini", "[pytest]\nllmguard_strict = true\n")
    assert toy.run().ret == pytest.ExitCode.TESTS_FAILED
    assert toy.run("--no-llmguard-strict").ret == pytest.ExitCode.OK
