"""Volumes that claim a petabyte and refuse, corrupt, stall or hang: each is told by what it does when it is written to."""

from __future__ import annotations

import errno
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import pytest
from support.matrix import Matrix, fault

from llmguard import Finding, Findings, Severity
from llmguard.checks.storage import output_dir_takes_a_checkpoint
from llmguard.probe.environment import Environment, Folder

MiB = 2**20


def _tried(point: Path, no_progress: float = 20.0, checkpoint_size: int | None = None) -> Findings:
    folder = Folder("output_dir", str(point / "out"))
    environment = Environment(
        "/", folders=(folder,), payload=2 * MiB, import_timeout=no_progress, checkpoint_size=checkpoint_size
    )
    # up to 3.11 a cached property of one class has one lock for all of its objects: threads would wait for each other
    environment.__dict__["writings"] = (environment._write(folder),)
    return output_dir_takes_a_checkpoint(environment)


def _only(findings: Findings) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


@pytest.fixture
def backing(tmp_path: Path) -> Path:
    """What lies behind the volume."""
    folder = tmp_path / "backing"
    folder.mkdir()
    return folder


def test_a_healthy_volume_passes(fuse: ModuleType, backing: Path, tmp_path: Path) -> None:
    """The file system itself is no fault; it cannot reserve, so that the checkpoint is written."""
    with fuse.mounted(tmp_path / "volume", backing) as point:
        assert _tried(point, checkpoint_size=4 * MiB) == []
    assert list(backing.iterdir()) == []


@fault("D2")
def test_a_quota_is_found_although_a_petabyte_is_claimed(
    fuse: ModuleType, backing: Path, tmp_path: Path, matrix: Matrix
) -> None:
    """EDQUOT after 1 MiB, which no look at the free space can know."""
    with fuse.mounted(tmp_path / "volume", backing, quota=MiB) as point:
        found = _only(_tried(point))
    assert found.severity is Severity.ERROR
    assert "writing failed with EDQUOT" in found.message
    assert "1,024.0 TiB are said to be free, 1.0 MiB were accepted" in found.message
    assert f"on {tmp_path / 'volume'} (fuse.faulty from faulty)" in found.message
    assert list(backing.iterdir()) == []
    matrix.saw("EDQUOT")


def test_a_quota_above_the_payload_is_found_by_the_size_of_a_checkpoint(
    fuse: ModuleType, backing: Path, tmp_path: Path
) -> None:
    """2 MiB are taken, the checkpoint of 6 MiB is not."""
    with fuse.mounted(tmp_path / "volume", backing, quota=4 * MiB) as point:
        found = _only(_tried(point, checkpoint_size=6 * MiB))
    assert "EDQUOT" in found.message
    assert "4.0 MiB were accepted" in found.message


@fault("D7")
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.ESTALE])
def test_an_error_that_comes_only_with_fsync_is_found(
    fuse: ModuleType, backing: Path, tmp_path: Path, number: int, matrix: Matrix
) -> None:
    """Writes are taken into memory; the disk speaks up later."""
    with fuse.mounted(tmp_path / "volume", backing, fsync_error=number) as point:
        found = _only(_tried(point))
    assert f"syncing to the disk failed with {errno.errorcode[number]}" in found.message
    matrix.saw("EIO, ENOSPC or ESTALE while syncing")


@fault("D8")
def test_a_volume_that_gives_back_other_bytes_is_found(
    fuse: ModuleType, backing: Path, tmp_path: Path, matrix: Matrix
) -> None:
    """Without an error of any call."""
    with fuse.mounted(tmp_path / "volume", backing, corrupt=1) as point:
        found = _only(_tried(point))
    assert "other bytes came back" in found.message
    matrix.saw("other bytes came back")


@fault("D12")
def test_a_slow_volume_is_told_by_its_rate(
    fuse: ModuleType, backing: Path, tmp_path: Path, matrix: Matrix
) -> None:
    """Slow is no error; a checkpoint that takes hours is worth a warning."""
    with fuse.mounted(tmp_path / "volume", backing, delay=0.004) as point:
        folder = Folder("output_dir", str(point))
        environment = Environment("/", folders=(folder,), payload=MiB)
        assert output_dir_takes_a_checkpoint(environment) == []
    told = environment.writings[0].told
    again = Environment("/", folders=(folder,), payload=MiB, checkpoint_size=2**40)
    again.__dict__["writings"] = environment.writings
    found = _only(output_dir_takes_a_checkpoint(again))
    assert found.severity is Severity.WARNING
    assert told["seconds"] >= 8 * 0.004
    assert "minutes" in found.message
    matrix.saw("slow: minutes for a checkpoint")


@fault("D10", "D11")
def test_volumes_that_hang_are_told_by_the_step(
    fuse: ModuleType, backing: Path, tmp_path: Path, matrix: Matrix
) -> None:
    """In time, with the step that hung; three volumes at once, each with a call that it never answers."""
    steps = {fuse.WRITE: "writing", fuse.FSYNC: "syncing to the disk", fuse.RENAME: "renaming a file"}
    started = time.monotonic()
    with ExitStack() as volumes, ThreadPoolExecutor() as threads:
        points = [
            volumes.enter_context(fuse.mounted(tmp_path / f"{call}", backing, hang=call)) for call in steps
        ]
        found = list(threads.map(lambda point: _tried(point, no_progress=1.0), points))
    assert time.monotonic() - started < 30.0
    for findings, step in zip(found, steps.values(), strict=True):
        assert findings[0].severity is Severity.ERROR
        assert f"last step: {step}" in findings[0].message
        assert findings[0].actual == "hung_fs"
        assert "could not be killed" in findings[0].message
    matrix.saw("hung_fs, with the step")


def test_a_volume_that_never_answers_says_what_is_left_behind(
    fuse: ModuleType, backing: Path, tmp_path: Path
) -> None:
    """Not even the removal can be tried; the path is told."""
    with fuse.mounted(tmp_path / "volume", backing, dead=1) as point:
        found = _tried(point, no_progress=1.0)
    assert [finding.severity for finding in found] == [Severity.ERROR, Severity.WARNING]
    assert f"{point}" in found[0].message
    assert "could not be removed" in found[1].message
