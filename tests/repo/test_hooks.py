"""The hooks that projects get for pre-commit: each entry run as pre-commit runs it, where all is sound and where it is not."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmguard.sources.undefined import find_ruff

KEYS = {
    "id",
    "name",
    "description",
    "entry",
    "args",
    "language",
    "pass_filenames",
    "require_serial",
    "types_or",
    "files",
}
GOOD = {
    "llmguard.toml": '[config]\nfiles = ["train.yaml"]\ndialect = "transformers"\n[environment]\nsources = ["train.py"]\n'
    '[pipeline]\ntrainer = "train:build"\n',
    "train.yaml": "output_dir: out\nlearning_rate: 2.0e-5\nnum_train_epochs: 3\n",
    "train.py": "def build():\n    steps = 3\n    return steps\n\n\nraise SystemExit('this file was run')\n",
    "conftest.py": "raise SystemExit('this file was run')\n",
    "pytest.ini": "[pytest]\naddopts = --no-such-option\n",
}
BAD = {
    "llmguard-config": {"train.yaml": "learning_rate: 2.0e-5\nnum_train_epochz: 3\n"},
    "llmguard-source": {"train.py": "def build():\n    print(steps)\n    steps = 3\n"},
    "llmguard-ledger": {
        "regressions/test_it_broke.py": '"""It broke.\n\nSymptom: it broke.\n"""\n\n\ndef test_witness():\n    pass\n'
    },
}
SAID = {
    "llmguard-config": "did you mean `num_train_epochs`",
    "llmguard-source": "`steps` is used in line 2, before line 3 sets it",
    "llmguard-ledger": "no whole regression yet",
}


@pytest.fixture(scope="module")
def hooks(root: Path) -> dict[str, dict[str, Any]]:
    """The hooks by id."""
    return {hook["id"]: hook for hook in yaml.safe_load((root / ".pre-commit-hooks.yaml").read_text("utf-8"))}


def repository(folder: Path, files: dict[str, str]) -> Path:
    """A git repository with these files added."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True)
    return folder


def run(hook: dict[str, Any], folder: Path) -> subprocess.CompletedProcess[str]:
    """A hook as pre-commit runs it: no shell, at the top of the repository, `python` that of the environment in use."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    return subprocess.run(
        [*shlex.split(hook["entry"]), *hook["args"]],
        cwd=folder,
        env={**environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def sound(root: Path, folder: Path) -> Path:
    """A repository in which nothing is wrong; its sources would say so if they were run."""
    regression = "regressions/test_placeholders_left_in_text.py"
    return repository(folder, {**GOOD, regression: (root / regression).read_text("utf-8")})


@pytest.mark.parametrize("name", BAD)
def test_a_sound_repository_passes(
    hooks: dict[str, dict[str, Any]], root: Path, tmp_path: Path, name: str
) -> None:
    """Exit status 0 with something looked at; nothing of the project is run, and nothing is left in its folder."""
    folder = sound(root, tmp_path)
    done = run(hooks[name], folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^[1-9]\d* passed", done.stdout, re.MULTILINE)
    assert "was run" not in done.stdout + done.stderr
    seen = subprocess.run(
        ["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, check=True
    )
    assert "??" not in seen.stdout


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_stops_the_commit(
    hooks: dict[str, dict[str, Any]], root: Path, tmp_path: Path, name: str
) -> None:
    """Exit status 1, with the file, the line and the remedy."""
    if name == "llmguard-source" and find_ruff() is None:
        pytest.skip("ruff is not installed")
    folder = repository(sound(root, tmp_path), BAD[name])
    done = run(hooks[name], folder)
    assert done.returncode == 1, done.stdout + done.stderr
    assert SAID[name] in done.stdout
    assert next(iter(BAD[name])).rpartition("/")[2] in done.stdout
    assert "Traceback" not in done.stdout


def test_hooks_are_what_pre_commit_takes(hooks: dict[str, dict[str, Any]]) -> None:
    """Keys, and files that they are for; where pre-commit is installed, its own schema."""
    assert set(hooks) == set(BAD)
    for hook in hooks.values():
        assert set(hook) <= KEYS
        assert hook["language"] == "system"
        assert hook["pass_filenames"] is False
        assert "types_or" in hook or re.compile(hook["files"])
    assert re.search(hooks["llmguard-ledger"]["files"], "regressions/test_it_broke.py")
    assert not re.search(hooks["llmguard-ledger"]["files"], "tests/regressions/test_it_broke.py")


def test_the_page_names_every_hook(hooks: dict[str, dict[str, Any]], root: Path) -> None:
    """docs/pre-commit.md, in its table and in its example."""
    page = (root / "docs/pre-commit.md").read_text("utf-8")
    for name in hooks:
        assert f"| `{name}` |" in page
        assert f"- id: {name}\n" in page
