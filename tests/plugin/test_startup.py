"""What being installed costs a session that does not use us: nothing heavy, no output, looked at where the session ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pytest_llmguard

if TYPE_CHECKING:
    from tests.plugin.conftest import Toy

CONFTEST = """
import sys

def pytest_unconfigure(config):
    print("LOADED", *sys.modules)
"""
START = {
    f"pytest_llmguard{name}" for name in ("", ".plugin", ".options", ".markers", ".hookspecs", ".fixtures")
}
LIMIT = 260
"""Lines of code, without docstrings and comments, that are loaded at start-up: each is parsed anew where no bytecode is kept."""


@pytest.fixture
def session(tmp_path: Path) -> Path:
    """A folder with a test, a pyproject.toml and a conftest that tells what is loaded when the session ends."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pyproject.toml").write_text("[tool.other]\nname = 1\n")
    (tmp_path / "test_a.py").write_text(
        "import pytest\n@pytest.mark.parametrize('x', [1, 2])\ndef test_a(x, tmp_path): assert x\n"
    )
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV"))}
    command = [sys.executable, "-m", "pytest", "-p", "no:hypothesispytest", "-p", "no:anyio", *arguments]
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False
    )


def loaded(done: subprocess.CompletedProcess[str]) -> set[str]:
    return set(done.stdout.split("LOADED", 1)[1].split("\n")[0].split())


@pytest.mark.parametrize(
    "arguments", [("-m", "not slow", "-W", "error"), ("--co", "-q"), ("--fixtures",), ("-n", "1")]
)
def test_a_session_that_does_not_use_us_loads_nothing(session: Path, arguments: tuple[str, ...]) -> None:
    """At `pytest_unconfigure` our start-up modules are all that is there more than without us; nothing was printed.

    Under xdist the controller keeps a place for results besides, and still loads no library.
    """
    without, done = run(session, "-p", "no:llmguard", *arguments), run(session, *arguments)
    beside = {"pytest_llmguard.manager"} if "-n" in arguments else set()
    assert loaded(done) - loaded(without) == START | beside
    assert done.stderr == ""
    assert (
        "llmguard" not in done.stdout.split("LOADED")[0].replace("llmguard-", "") or "--fixtures" in arguments
    )


def test_start_up_code_is_short() -> None:
    """Where no bytecode is written pytest parses our modules at every start: they stay small, whatever the machine."""
    import ast

    folder = Path(pytest_llmguard.__file__).parent
    count = 0
    for name in START:
        file = folder / f"{name.partition('.')[2] or '__init__'}.py"
        count += len(
            {
                node.lineno
                for node in ast.walk(ast.parse(file.read_text("utf-8")))
                if isinstance(node, (ast.stmt, ast.expr))
            }
        )
    assert count < LIMIT


def test_a_session_that_uses_us_loads_no_torch(toy: Toy) -> None:
    """Running the project's checks leaves torch and transformers out of the process that runs them."""
    toy.checks(
        "toy_holds",
        "\n\nimport sys\ndef pytest_unconfigure():\n    print('HEAVY', sorted({'torch', 'transformers'} & set(sys.modules)))\n",
    )
    done = toy.process("-m", "preflight", only="")
    assert done.returncode == 0, done.stdout
    assert "HEAVY []" in done.stdout
