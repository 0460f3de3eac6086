"""The command line as a program: quick to start, light, and without tracebacks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from llmguard import __version__

Run = Callable[..., Any]


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_names_the_commands(run: Run, arguments: list[str]) -> None:
    """Without arguments, and when asked, the commands are listed."""
    said = run(*arguments)
    assert said.code == 0
    assert all(command in said.out for command in ("init", "show", "explain"))


@pytest.mark.parametrize("command", ["init", "show", "explain"])
def test_every_command_has_help(run: Run, command: str) -> None:
    """Every option of every command is described."""
    said = run(command, "--help")
    assert said.code == 0
    assert "--help" in said.out


def test_the_version_is_told(run: Run) -> None:
    """`--version` says the distribution and its version."""
    assert run("--version").out == f"pytest-llmguard {__version__}\n"


def test_an_unknown_command_is_a_mistake(run: Run) -> None:
    """The message names it; exit code 2."""
    said = run("shwo")
    assert said.code == 2
    assert "shwo" in said.err


@pytest.mark.parametrize("arguments", [["--help"], ["init", "--dry-run", "."], ["--version"]])
def test_nothing_heavy_is_loaded(arguments: list[str]) -> None:
    """Help and `init` start without torch, transformers, numpy or pytest."""
    heavy = ("torch", "transformers", "numpy", "pytest", "datasets")
    code = f"import sys\nfrom llmguard.cli import main\nmain({arguments})\nprint([m for m in {heavy} if m in sys.modules], file=sys.stderr)"
    done = python(code)
    assert done.stderr.strip().endswith("[]"), done.stderr


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_a_missing_library_is_named(missing: str) -> None:
    """Without the library that it stands on, the command line says what to install, in one line."""
    done = python(
        f"import sys\nsys.modules['{missing}'] = None\nfrom llmguard.cli import main\nsys.exit(main(['explain']))"
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"llmguard: the command line needs {missing}: pip install")
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_is_no_error() -> None:
    """`llmguard explain | head -1` ends quietly."""
    code = "import sys\nfrom llmguard.cli import main\nsys.exit(main(['explain', '--json']))"
    writer = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    if writer.stdout is None or writer.stderr is None:
        pytest.fail("no pipes")
    writer.stdout.close()
    said = writer.stderr.read()
    writer.stderr.close()
    writer.wait(60)
    assert "Traceback" not in said
    assert "Exception ignored" not in said


def test_a_terminal_of_few_characters_gets_escapes() -> None:
    """Output in an encoding that lacks a character does not end the command."""
    explained = "main(['explain', 'terminator_is_trained'])"
    code = f"import sys\nsys.stdout.reconfigure(encoding='ascii')\nfrom llmguard.cli import main\nsys.exit({explained})"
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert "masking \\xb7 preflight" in done.stdout
