"""A package is imported and declared nowhere: it works where it was written, and on no other machine.

Symptom: ModuleNotFoundError: No module named 'chromadb' on a fresh machine, when the last stage of the run begins.
Severity: medium
Cause: the package was installed by hand and never written into requirements.txt; its import stands inside a function.
First seen: written down by a fine-tuning project as medium
Cost: a run that ended behind its training, before its results were stored.
Check: imports_are_declared
Lesson: what a script imports and what its requirements declare are compared by a tool, not by memory.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llmguard import imports_are_declared, require
from llmguard.errors import CheckFailed
from llmguard.sources.read import Sources, read_sources

SCRIPT = """\
import datasets

print("trained", flush=True)


def store(rows):
    import chromadb

    return chromadb, datasets, rows


store([])
print("stored")
"""
FRESH = "import runpy, sys; sys.path.insert(0, 'installed'); runpy.run_path('train.py')"


def _project(folder: Path, *requirements: str) -> Path:
    (folder / "train.py").write_text(SCRIPT, "utf-8")
    (folder / "requirements.txt").write_text("\n".join(requirements) + "\n", "utf-8")
    return folder


def broken(folder: Path) -> Path:
    """A project that declares half of what it imports."""
    return _project(folder, "datasets>=2")


def fixed(folder: Path) -> Path:
    """The same with both."""
    return _project(folder, "datasets>=2", "chromadb>=0.5")


def on_a_fresh_machine(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the script where nothing is installed but what is declared (each as an empty package of that name)."""
    (folder / "installed").mkdir()
    for line in (folder / "requirements.txt").read_text("utf-8").split():
        (folder / "installed" / f"{line.partition('>')[0]}.py").touch()
    argv = [sys.executable, "-I", "-S", "-c", FRESH]
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_witness(tmp_path: Path) -> None:
    """Where only the requirements are installed, the broken project trains and then loses what it trained."""
    for name in ("broken", "fixed"):
        (tmp_path / name).mkdir()
    lost, kept = (
        on_a_fresh_machine(broken(tmp_path / "broken")),
        on_a_fresh_machine(fixed(tmp_path / "fixed")),
    )
    assert (lost.returncode, lost.stdout) == (1, "trained\n")
    assert "ModuleNotFoundError: No module named 'chromadb'" in lost.stderr
    assert (kept.returncode, kept.stdout) == (0, "trained\nstored\n")


def _sources(folder: Path) -> Sources:
    return read_sources(folder, ["train.py"], ["requirements.txt"])


def test_check_rejects(tmp_path: Path) -> None:
    """The import inside the function is found, at its line."""
    with pytest.raises(CheckFailed, match=r"train\.py:7: `chromadb` is imported here and declared nowhere"):
        require(imports_are_declared(_sources(broken(tmp_path))))


def test_check_accepts(tmp_path: Path) -> None:
    """Both imports are declared."""
    found = imports_are_declared(_sources(fixed(tmp_path)))
    require(found, strict=True)
    assert found.looked_at == 2
