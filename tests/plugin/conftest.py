"""Projects with toy checks, run by pytest inside of pytest; the axis on which the plugin must behave alike."""

from __future__ import annotations

import functools
import importlib
import itertools
import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import llmguard.checks
import llmguard.evidence
import llmguard.reporting
import pytest_llmguard

for _package in (llmguard.checks, llmguard.evidence, llmguard.reporting, pytest_llmguard):
    for _module in pkgutil.walk_packages(_package.__path__, f"{_package.__name__}."):
        # pytester forgets what an inner session loads: loading it again would take most of the time, and NumPy cannot be loaded twice
        importlib.import_module(_module.name)

TOYS = Path(__file__).with_name("toychecks.py").read_text("utf-8")
DEFAULT = "toy_holds toy_fails toy_warns toy_notes toy_needs toy_needs_too toy_is_accepted toy_breaks toy_runs_a_model toy_runs_on_a_gpu"
CONFTEST = """
import toychecks

def pytest_llmguard_checks(config):
    return [toychecks.entry(name) for name in {names!r}]
"""
PROJECT = """
[model]
kind = "base"
[accept]
toy_is_accepted = { reason = "full-sequence training on purpose", until = 2999-01-31 }
"""

AXES = {
    "bare": ("-p", "no:xdist"),
    "one-process": ("-n", "0"),
    "two-workers": ("-n", "2"),
}


STRICT = ("--strict-markers", "-W", "error")


@pytest.fixture(params=AXES)
def axis(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """How pytest is run: without xdist, with xdist and no worker, with two workers; always strict."""
    return (*AXES[request.param], *STRICT)


class Toy:
    """A folder with toy checks (and the real ones, which `-k toy` leaves out), in which pytest is run."""

    def __init__(self, path: Path, pytester: pytest.Pytester | None = None) -> None:
        self.path, self.pytester = path, pytester
        self.write("toychecks.py", TOYS)
        self.checks(DEFAULT)
        self.project(PROJECT)

    def checks(self, names: str, more: str = "") -> None:
        """Which toys the conftest hands in, and what else stands in it."""
        self.write("conftest.py", CONFTEST.format(names=names.split()) + more)

    def project(self, text: str, name: str = "llmguard.toml") -> Path:
        """The project file."""
        return self.write(name, text)

    def write(self, name: str, text: str) -> Path:
        """A file in the folder."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return path

    def run(self, *arguments: str, only: str = "toy") -> pytest.RunResult:
        """Run pytest on it, in this process."""
        assert self.pytester is not None
        return quick(self.pytester, *_selecting(only), *arguments)

    def report(self, *arguments: str, only: str = "toy") -> dict[str, Any]:
        """Run pytest on it and read the JSON report."""
        self.run("--llmguard-json", "report.json", *arguments, only=only)
        return self.read("report.json")

    def process(self, *arguments: str, only: str = "toy", **environ: str) -> subprocess.CompletedProcess[str]:
        """Run pytest on it, in a process of its own."""
        command = [sys.executable, "-m", "pytest", *QUIET, *_selecting(only), *arguments]
        env = (
            {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV"))}
            | {"PY_COLORS": "0"}
            | environ
        )
        return subprocess.run(
            command, cwd=self.path, env=env, capture_output=True, text=True, timeout=120, check=False
        )

    def read(self, name: str) -> dict[str, Any]:
        """A JSON file of the folder."""
        found: dict[str, Any] = json.loads((self.path / name).read_text("utf-8"))
        return found

    def exists(self, name: str) -> bool:
        """Whether a file is there."""
        return (self.path / name).exists()

    @staticmethod
    def outcomes(report: dict[str, Any]) -> dict[str, str]:
        """Check (with its target) -> outcome."""
        return {
            c["check"] + (f"[{c['target']}]" if c["target"] else ""): c["outcome"] for c in report["checks"]
        }


QUIET = ("-p", "no:hypothesispytest", "-p", "no:anyio")
"""Other people's plugins, which would take most of the time of a short session."""


def _selecting(only: str) -> tuple[str, ...]:
    return ("-k", only) if only else ()


def quick(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run pytest in this process, with as few plugins as may be."""
    return pytester.runpytest_inprocess(*QUIET, *arguments)


@pytest.fixture
def inner(pytester: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    """Run pytest in an empty folder."""
    return functools.partial(quick, pytester)


@pytest.fixture
def apart(
    pytester: pytest.Pytester, root: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., pytest.RunResult]:
    """Run pytest in an empty folder, in a process of its own, where little has to be looked through when garbage is collected."""
    monkeypatch.setenv("PYTHONPATH", str(root / "tests"))
    return functools.partial(pytester.runpytest_subprocess, *QUIET)


@pytest.fixture
def toy(pytester: pytest.Pytester) -> Toy:
    """A folder with a project file and toy checks."""
    return Toy(pytester.path, pytester)


@dataclass(frozen=True)
class Ran:
    """One run of pytest over all the toys, with every report."""

    code: int
    out: str
    err: str
    report: dict[str, Any]
    junit: ElementTree.Element
    path: Path

    def check(self, name: str) -> dict[str, Any]:
        """The record of a check in the JSON report."""
        return next(c for c in self.report["checks"] if c["check"] == name)

    def section(self, title: str) -> str:
        """The text of a section of the terminal output, from its title line to the next section."""
        lines = self.out.splitlines()
        start = next(i for i, line in enumerate(lines) if line.startswith("=") and title in line)
        rest = itertools.takewhile(lambda line: not line.startswith("==="), lines[start + 1 :])
        return "\n".join(rest)


@pytest.fixture(scope="session", params=AXES)
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """One run over all the toys for each way to run pytest; shared by all tests that only look at what it said."""
    folder = Toy(tmp_path_factory.mktemp(f"ran-{request.param}"))
    folder.write("test_beside.py", "def test_beside():\n    assert True\n")
    reports = (
        "--llmguard-json",
        "out/new/report.json",
        "--llmguard-html",
        "report.html",
        "--llmguard-sarif",
        "report.sarif",
    )
    arguments = (
        *AXES[request.param],
        *STRICT,
        *reports,
        "--junit-xml",
        "junit.xml",
        "-v",
        "-rA",
        "-p",
        "timeout",
    )
    done = folder.process(*arguments, only="toy or beside")
    junit = ElementTree.parse(folder.path / "junit.xml").getroot()  # pytest wrote it just now
    return Ran(
        done.returncode, done.stdout, done.stderr, folder.read("out/new/report.json"), junit, folder.path
    )


@pytest.fixture
def seen(toy: Toy) -> Callable[..., dict[str, Any]]:
    """Run pytest on a project whose one check tells which model and adapter it sees; give what it told."""
    toy.checks("toy_tells")
    toy.project('[model]\npath = "owner/in-file"\nadapter = "in-file-adapter"\n')
    return lambda *arguments: dict(toy.report(*arguments)["checks"][0]["findings"][0]["evidence"])
