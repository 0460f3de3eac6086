"""The leak guard on real memory: each planted class is found, and what only looks like a leak is not; on a GPU, and on a process' heap."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

LEAKS = ("h1", "h2", "h6", "h7", "h8", "h9", "h10")
CLEAN = ("h4", "h5", "h13", "h15", "h18", "clean")
HERE = Path(__file__).parent


def outcomes(text: str) -> dict[str, set[str]]:
    """Class -> what pytest's summary says of its test."""
    found: dict[str, set[str]] = {}
    for outcome, name in re.findall(
        r"^(PASSED|FAILED|ERROR|SKIPPED) \S*::test_([a-z0-9]+)", text, re.MULTILINE
    ):
        found.setdefault(name, set()).add(outcome)
    return found


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a pytest of its own says of the plants."""
    folder = tmp_path_factory.mktemp("plants")
    shutil.copy(HERE / "plants.py", folder / "test_plants.py")
    (folder / "pytest.ini").write_text("[pytest]\n")
    environ: Mapping[str, str] = {
        **os.environ, "PLANTS_DEVICE": request.param, "COLUMNS": "300", **({"CUDA_VISIBLE_DEVICES": ""} if request.param == "cpu" else {}),
    }  # fmt: skip
    quiet = ("-p", "no:hypothesispytest", "-p", "no:cacheprovider", "-p", "no:xdist")
    asked = ("--gpu",) if request.param == "cuda" else ()
    command = [sys.executable, "-m", "pytest", *quiet, *asked, "-rA", "-q", "test_plants.py"]
    done = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, timeout=600, check=False
    )
    assert outcomes(done.stdout), done.stdout + done.stderr
    return done.stdout


@pytest.mark.needs_torch
def test_every_planted_class_is_found(told: str) -> None:
    """Its test passes, and is an error for what it leaves behind."""
    found = outcomes(told)
    assert {name: found.get(name) for name in LEAKS} == {name: {"PASSED", "ERROR"} for name in LEAKS}, told


@pytest.mark.needs_torch
def test_nothing_else_is_accused(told: str) -> None:
    """Fixtures that live on, arguments, warm-up, other processes, memory that comes back late, and a test that leaves nothing."""
    found = outcomes(told)
    ran = {name: found[name] for name in CLEAN if name in found}  # -rA tells skips by their line alone
    assert set(CLEAN) - set(ran) in (set(), {"h15", "h18"})
    assert ran == {name: {"PASSED"} for name in ran}, told


@pytest.mark.needs_torch
def test_a_failing_test_is_judged_without_its_frames(told: str) -> None:
    """Its locals are no leak: one failure is enough."""
    assert outcomes(told)["h3"] == {"FAILED"}, told
