"""The page on GPU runners: what it names is there, and the script of the runner does what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmguard.placement import LONGEST, PATIENCE
from pytest_llmguard.markers import MARKERS
from pytest_llmguard.options import OPTIONS


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    """Its text."""
    return (root / "docs" / "gpu-runners.md").read_text("utf-8")


@pytest.fixture(scope="module")
def commands(page: str) -> str:
    """What stands in its blocks of shell commands."""
    return "\n".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL))


def test_options_that_it_names_are_there(commands: str) -> None:
    """Every option of every pytest command, as `pytest --help` lists them."""
    lines = [line.split("#")[0] for line in commands.splitlines() if re.search(r"\bpytest -", line)]
    named = {option for line in lines for option in re.findall(r"(?<!\S)--[a-z][a-z-]+", line)}
    helped = subprocess.run(
        [sys.executable, "-m", "pytest", "--help"], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    assert len(lines) >= 6
    assert {"--gpu", "--llmguard-model", "--llmguard-json"} <= named
    assert [option for option in named if option not in helped] == []


def test_settings_that_it_names_are_there(page: str) -> None:
    """Keys of the project file, extras, the marker, options in its text, the time that one waits."""
    from llmguard.project.schema import Environment

    for key in ("gpu_name", "gpu_count", "gpu_memory", "output_dir", "checkpoint_size", "remote"):
        assert f"{key}`" in page
        assert key in Environment.model_fields
    assert set(re.findall(r"--llmguard-([a-z-]+)", page)) <= {name.replace("_", "-") for name in OPTIONS}
    assert "gpu(count=2)" in MARKERS["gpu"]
    assert f"after {PATIENCE / 60:.0f} minutes" in page
    assert LONGEST > PATIENCE


def test_links_lead_somewhere(page: str, root: Path) -> None:
    """Every relative one; and the README and the page for contributors lead here."""
    links = re.findall(r"\]\(([^)#]+)\)", page)
    assert [link for link in links if not (root / "docs" / link).exists()] == []
    for other in ("README.md", "CONTRIBUTING.md"):
        assert "docs/gpu-runners.md" in (root / other).read_text("utf-8")


def test_its_batch_script_is_shell(page: str) -> None:
    """As bash reads it."""
    (script,) = (block for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) if "#SBATCH" in block)
    assert script.startswith("#!/bin/bash\n#SBATCH")
    subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=30)


PYTHON = """#!/bin/sh
cat >/dev/null
if [ "$FAKE_DEVICES" = hang ]; then exit 124; fi
echo "$FAKE_DEVICES"
"""
PYTEST = """#!/bin/sh
echo "$@" >>"$FAKE_LOG"
case "$*" in *count=2*) exit "${FAKE_SEVERAL:-0}";; esac
exit "${FAKE_STATUS:-0}"
"""


@pytest.mark.parametrize(
    ("environ", "runs", "status"),
    [
        ({"FAKE_DEVICES": "1"}, 1, 0),
        ({"FAKE_DEVICES": "1", "FAKE_STATUS": "1"}, 1, 1),
        ({"FAKE_DEVICES": "4"}, 2, 0),
        ({"FAKE_DEVICES": "4", "FAKE_STATUS": "1"}, 2, 1),
        ({"FAKE_DEVICES": "4", "FAKE_SEVERAL": "1"}, 2, 1),
        ({"FAKE_DEVICES": "0", "FAKE_STATUS": "4"}, 1, 4),
        ({"FAKE_DEVICES": "hang"}, 0, 124),
    ],
)
def test_the_script_of_the_runner(
    root: Path, tmp_path: Path, environ: dict[str, str], runs: int, status: int
) -> None:
    """Tests of several GPUs are a run of their own where there are several; what failed is its exit status, a hang too."""
    for name, text in (("python", PYTHON), ("pytest", PYTEST)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    log = tmp_path / "log"
    environ = {
        **os.environ,
        "BIN": str(tmp_path),
        "REPORTS": str(tmp_path / "reports"),
        "FAKE_LOG": str(log),
        **environ,
    }
    done = subprocess.run(
        ["bash", str(root / "ci" / "gpu.sh"), "-k", "memory"],
        env=environ,
        capture_output=True,
        timeout=60,
        check=False,
    )
    said = log.read_text().splitlines() if log.exists() else []
    assert (len(said), done.returncode) == (runs, status)
    assert all(line.startswith("--gpu -n auto ") and line.endswith("-k memory") for line in said[:1])
    assert all(line.startswith("--gpu -n 0 -m gpu(count=2) ") for line in said[1:])
