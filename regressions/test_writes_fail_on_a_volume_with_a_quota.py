"""A volume says that it has space, and refuses the checkpoint.

Symptom: "Disk quota exceeded" or "CAS service error" at the first checkpoint, while df shows terabytes free.
Severity: critical
Cause: a quota or a limit of this user; free space is a claim about the server, and nobody tried to write.
First seen: written down by a fine-tuning project as critical (MooseFS under a rented pod)
Cost: the hours before the first checkpoint, and the old checkpoint, which was overwritten in place.
Check: output_dir_takes_a_checkpoint
Lesson: a folder takes what it has been seen to take: write a checkpoint's worth before training.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from llmguard import output_dir_takes_a_checkpoint, probe
from llmguard.probe import Limits
from llmguard.probe.environment import Environment, Folder

pytestmark = pytest.mark.needs_torch  # the core's checkpoints come with the core

MiB = 2**20
CHECKPOINT = 4 * MiB
CHILD = """
import json, sys
sys.path.insert(0, sys.argv[1])
import test_writes_fail_on_a_volume_with_a_quota as it
print(json.dumps(getattr(it, sys.argv[2])(sys.argv[3])))
"""


def broken(folder: str) -> None:
    """Ask for the free space, and write over the old checkpoint."""
    if shutil.disk_usage(folder).free < CHECKPOINT:
        raise RuntimeError("the disk is full")
    Path(folder, "model.bin").write_bytes(bytes(CHECKPOINT))


def fixed(folder: str) -> None:
    """The core's: written beside, and given its name only when all of it is there."""
    from llmguard_core.checkpoints import atomic_folder

    with atomic_folder(Path(folder, "checkpoint"), needs=CHECKPOINT) as beside:
        (beside / "model.bin").write_bytes(bytes(CHECKPOINT))


def attempts(folder: str) -> dict[str, Any]:
    """What both leave of an old checkpoint, and why they failed."""
    for old in ("model.bin", "checkpoint/model.bin"):
        Path(folder, old).parent.mkdir(exist_ok=True)
        Path(folder, old).write_bytes(b"old")
    told = {}
    for save in (broken, fixed):
        try:
            save(folder)
        except Exception as failed:
            told[save.__name__] = f"{type(failed).__name__}: {failed}"
    left = [Path(folder, old).read_bytes() == b"old" for old in ("model.bin", "checkpoint/model.bin")]
    return {**told, "left": left}


def judged(folder: str) -> list[list[str]]:
    """The check's words."""
    made = Environment(
        "/", folders=(Folder("output_dir", folder),), payload=CHECKPOINT, checkpoint_size=CHECKPOINT
    )
    return [[f.severity.value, f.message] for f in output_dir_takes_a_checkpoint(made)]


def _under_a_quota(function: str, folder: Path) -> Any:
    """A function of this file in a process whose files may not grow over 1 MiB: what a quota does, and needs no root."""
    argv = [sys.executable, "-c", CHILD, str(Path(__file__).parent), function, str(folder)]
    result = probe.run(argv, timeout=60, limits=Limits(file_size=MiB))
    assert result.ok, (result.explain(), result.output)
    return json.loads(result.output.strip().splitlines()[-1])


def test_witness(tmp_path: Path) -> None:
    """There is space, and the write fails: the broken save has destroyed the old checkpoint, the core's has kept it."""
    assert shutil.disk_usage(tmp_path).free > CHECKPOINT
    told = _under_a_quota("attempts", tmp_path)
    assert told["broken"].startswith("OSError: [Errno 27]")
    assert told["fixed"].startswith("CheckpointError")
    assert "EFBIG" in told["fixed"]
    assert told["left"] == [False, True]


def test_check_rejects(tmp_path: Path) -> None:
    """Before training: what was accepted, and what is said to be free."""
    ((severity, message),) = _under_a_quota("judged", tmp_path)
    assert severity == "error"
    assert "EFBIG" in message
    assert "1.0 MiB were accepted" in message
    assert list(tmp_path.iterdir()) == []


def test_check_accepts(tmp_path: Path) -> None:
    """The same folder without the limit, to which the core then saves."""
    assert judged(str(tmp_path)) == []
    fixed(str(tmp_path))
    assert (tmp_path / "checkpoint" / "model.bin").stat().st_size == CHECKPOINT
