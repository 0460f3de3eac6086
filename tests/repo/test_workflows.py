"""The workflows: no rights that they do not need, actions pinned, and the one script that a contributor runs."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.fixture(scope="module", params=["ci.yml", "gpu.yml"])
def workflow(root: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    """One workflow."""
    found: dict[str, Any] = yaml.safe_load((root / ".github" / "workflows" / request.param).read_text())
    return found


def test_a_workflow_may_read_and_nothing_else(workflow: dict[str, Any]) -> None:
    """No token that could write."""
    assert workflow["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in workflow["jobs"].values())


def test_actions_are_pinned_and_checkouts_keep_no_credentials(workflow: dict[str, Any]) -> None:
    """Every action names its major version."""
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    used = [step["uses"] for step in steps if "uses" in step]
    assert all(re.fullmatch(r"actions/[\w\-]+@v\d+", each) for each in used), used
    checkouts = [step for step in steps if step.get("uses", "").startswith("actions/checkout")]
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_every_job_ends_by_itself(workflow: dict[str, Any]) -> None:
    """A job that hangs is cut short."""
    slow = {name for name, job in workflow["jobs"].items() if name != "gate"}
    assert all(workflow["jobs"][name].get("timeout-minutes") for name in slow)


def test_the_gpu_workflow_is_not_for_strangers(root: Path) -> None:
    """A self-hosted machine runs no pull request."""
    text = (root / ".github" / "workflows" / "gpu.yml").read_text()
    triggers = yaml.safe_load(text)[True]  # YAML 1.1 reads `on` as true
    assert set(triggers) == {"workflow_dispatch", "push"}


def test_the_gpu_script_writes_every_report(root: Path) -> None:
    """JUnit, JSON and HTML, from `pytest --gpu -n auto`."""
    text = (root / "ci" / "gpu.sh").read_text()
    assert all(
        each in text
        for each in ("--gpu", "-n ", ":-auto", "--junitxml", "--llmguard-json", "--llmguard-html")
    )


@pytest.mark.parametrize("script", [".ci/run", "ci/venv.sh", "ci/compat.sh", "ci/gpu.sh"])
def test_scripts_stop_at_the_first_error_and_can_be_run(root: Path, script: str) -> None:
    """Executable, bash, and strict."""
    path = root / script
    assert os.access(path, os.X_OK)
    lines = path.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines


def test_make_names_its_targets(root: Path) -> None:
    """The targets that the README and CONTRIBUTING name are there, each with a word of help."""
    helped = set(re.findall(r"^(\w+):.*## \S", (root / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test", "lint", "bench", "gpu", "lab", "clean"} <= helped
    pages = "\n".join((root / page).read_text() for page in ("README.md", "CONTRIBUTING.md"))
    assert set(re.findall(r"`?make (\w+)", pages)) - helped - {"sense", "sure"} == set()
