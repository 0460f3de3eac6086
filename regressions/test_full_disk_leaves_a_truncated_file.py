"""The disk is full, and torch.save has left half a file under the name of the old one.

Symptom: "PytorchStreamReader failed reading zip archive" when the run is resumed; the checkpoint before is gone as well.
Severity: high
Cause: torch.save opens the final name and writes into it; when the disk is full it raises, and what was there before is already lost.
First seen: torch 2.13, measured here under a limit of the file's size; https://github.com/hiyouga/LlamaFactory/issues/5155
Cost: the run from its beginning.
Check: llmguard_core.checkpoints.atomic_folder, llmguard_core.checkpoints.verify
Lesson: write beside, flush, and rename; and verify a checkpoint before anything is built on it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from llmguard import probe
from llmguard.probe import Limits
from llmguard_core.checkpoints import verify

pytestmark = pytest.mark.needs_torch
MiB = 2**20
CHILD = """
import json, sys
sys.path.insert(0, sys.argv[1])
import test_full_disk_leaves_a_truncated_file as it
print(json.dumps(it.attempts(sys.argv[2])))
"""
OLD, NEW = 1_000, MiB
"""Numbers in the old state, and in the new one, which does not fit."""


def broken(folder: Path, count: int) -> None:
    """What a training script has at the end of each epoch."""
    import torch

    folder.mkdir(exist_ok=True)
    torch.save({"weights": torch.ones(count)}, folder / "optimizer.pt")


def fixed(folder: Path, count: int) -> None:
    """The core's: the folder gets its name when all of it is there."""
    import torch

    from llmguard_core.checkpoints import atomic_folder

    with atomic_folder(folder, needs=4 * count) as beside:
        torch.save({"weights": torch.ones(count)}, beside / "optimizer.pt")


def attempts(folder: str) -> dict[str, str]:
    """What both say when they write over what is there."""
    told = {}
    for save in (broken, fixed):
        try:
            save(Path(folder, save.__name__), NEW)
        except Exception as failed:
            told[save.__name__] = f"{type(failed).__name__}: {failed}"
    return told


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Both folders after a save that did not fit: in a process whose files may not grow over 1 MiB."""
    folder = tmp_path_factory.mktemp("full")
    broken(folder / "broken", OLD)
    fixed(folder / "fixed", OLD)
    argv = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(folder)]
    result = probe.run(argv, timeout=60, limits=Limits(file_size=MiB))
    assert result.ok, (result.explain(), result.output)
    return {"folder": folder, "told": json.loads(result.output.strip().splitlines()[-1])}


def _read(file: Path) -> int:
    import torch

    return int(torch.load(file, weights_only=True)["weights"].numel())


def test_witness(full: dict[str, Any]) -> None:
    """Both raise; one has lost old and new, the other still reads what was there."""
    assert set(full["told"]) == {"broken", "fixed"}
    half = full["folder"] / "broken" / "optimizer.pt"
    assert 0 < half.stat().st_size < 4 * NEW
    with pytest.raises(RuntimeError, match="failed finding central directory"):
        _read(half)
    assert _read(full["folder"] / "fixed" / "optimizer.pt") == OLD


def test_check_rejects(full: dict[str, Any]) -> None:
    """The half file is named, by what zip archives say of themselves."""
    (problem, *_) = verify(full["folder"] / "broken", resume=False)
    assert problem.startswith("optimizer.pt: ")


def test_check_accepts(full: dict[str, Any]) -> None:
    """The folder that was kept has its manifest, and nothing lies beside it."""
    problems = verify(full["folder"] / "fixed", resume=False)
    assert [p for p in problems if p.startswith(("optimizer.pt", "manifest"))] == []
    assert sorted(p.name for p in full["folder"].iterdir()) == ["broken", "fixed"]
