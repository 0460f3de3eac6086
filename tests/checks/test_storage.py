"""Storage: folders are tried by writing; what the disk says is told with its mount, and nothing stays behind."""

from __future__ import annotations

import errno
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from support.matrix import Matrix, fault

from llmguard import Finding, Findings, Severity, probe
from llmguard.checks.storage import output_dir_takes_a_checkpoint
from llmguard.errors import MissingEvidence
from llmguard.evidence import Evidence
from llmguard.probe import Limits, ProbeResult, Verdict, writing
from llmguard.probe.environment import Environment, Folder, Writing
from llmguard.project import load_project

MiB = 2**20
CHECK = """
import json, sys
from llmguard.checks.storage import output_dir_takes_a_checkpoint
from llmguard.probe.environment import Environment, Folder
folder, payload, size = sys.argv[1:]
found = Environment("/", folders=(Folder("output_dir", folder),), payload=int(payload), checkpoint_size=int(size) or None)
print(json.dumps([[finding.severity.value, finding.message] for finding in output_dir_takes_a_checkpoint(found)]))
"""


def _tried(*folders: Folder, **other: Any) -> Findings:
    return output_dir_takes_a_checkpoint(
        Environment("/project", folders=folders, **{"payload": MiB, **other})
    )


def _only(findings: Findings) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


def _told(folder: Folder, environment: dict[str, Any] | None = None, **told: Any) -> Findings:
    """The check on what a probe has told."""
    result = ProbeResult(Verdict.OK, f"writing to {folder.path}", 1.0, 120.0)
    facts = {
        "accepted": MiB,
        "written": MiB,
        "seconds": 0.1,
        "corrupt": False,
        "claimed": 2**50,
        "asked": MiB,
    }
    found = Environment("/project", folders=(folder,), **(environment or {}))
    found.__dict__["writings"] = (
        Writing(folder, result, {**facts, "mount": ["/vol", "fuse.mfs", "mfs:9421"], **told}),
    )
    return output_dir_takes_a_checkpoint(found)


OUT = Folder("output_dir", "/vol/out")
CACHE = Folder("cache_dirs", "/vol/cache")


def test_a_folder_that_takes_it_passes(tmp_path: Path) -> None:
    """And is left as it was."""
    (tmp_path / "mine").write_text("keep")
    found = _tried(
        Folder("output_dir", str(tmp_path)), Folder("cache_dirs", str(tmp_path)), checkpoint_size=8 * MiB
    )
    assert found == []
    assert found.looked_at == 2
    assert [one.name for one in tmp_path.iterdir()] == ["mine"]


def test_a_folder_that_does_not_exist_is_not_made(tmp_path: Path) -> None:
    """It is tried in its nearest parent, to which it will belong."""
    environment = Environment("/", folders=(Folder("output_dir", str(tmp_path / "a" / "b")),), payload=MiB)
    assert output_dir_takes_a_checkpoint(environment) == []
    assert environment.writings[0].told["probed"] == str(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_whole_checkpoint_is_asked_for(tmp_path: Path) -> None:
    """The payload is written for real, the rest is reserved; never more than half of what is free."""
    asked = {"folder": str(tmp_path), "name": "probe", "payload": MiB}
    told = writing.try_folder(**asked, size=64 * MiB)
    assert (told["written"], told["accepted"], told["asked"]) == (MiB, 64 * MiB, 64 * MiB)
    told = writing.try_folder(**asked, size=2**60)
    assert told["accepted"] <= told["asked"] == told["claimed"] // 2
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_cannot_reserve_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For some seconds; then it is said that the rest was not tried."""
    monkeypatch.setattr(writing, "_fallocate", lambda file, size: errno.EOPNOTSUPP)
    asked = {"folder": str(tmp_path), "name": "probe", "payload": MiB}
    told = writing.try_folder(**asked, size=5 * MiB + 1)
    assert (told["accepted"], told["cut_short"]) == (5 * MiB + 1, False)
    monkeypatch.setattr(writing, "WRITE_SECONDS", 0.0)
    told = writing.try_folder(**asked, size=5 * MiB)
    assert (told["accepted"], told["cut_short"]) == (MiB, True)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    """ENOTDIR, which `os.makedirs` would report hours later."""
    (tmp_path / "out").write_text("a file")
    found = _only(_tried(Folder("output_dir", str(tmp_path / "out" / "deeper"))))
    assert found.severity is Severity.ERROR
    assert "ENOTDIR" in found.message
    assert found.where.key == "output_dir"


@fault("D19")
@pytest.mark.parametrize(("target", "name"), [("nowhere", "ENOENT"), ("out", "ELOOP")])
def test_links_that_lead_nowhere_are_named(tmp_path: Path, target: str, name: str, matrix: Matrix) -> None:
    """A dangling link and a circle of links."""
    (tmp_path / "out").symlink_to(tmp_path / target)
    found = _only(_tried(Folder("output_dir", str(tmp_path / "out"))))
    assert name in found.message
    assert "link" in found.message
    matrix.saw("ENOENT or ELOOP, a link")


def _limited(argv: list[str], **settings: Any) -> list[tuple[str, str]]:
    """The check in a process that is limited, or in namespaces of its own: severities and messages."""
    result = probe.run(argv, timeout=60, **settings)
    assert result.ok, (result.explain(), result.output)
    return [tuple(finding) for finding in json.loads(result.output.strip().splitlines()[-1])]


@fault("D14")
def test_a_limit_on_file_sizes_is_named(tmp_path: Path, matrix: Matrix) -> None:
    """EFBIG from RLIMIT_FSIZE, with how much was accepted before."""
    argv = [sys.executable, "-c", CHECK, str(tmp_path), str(4 * MiB), "0"]
    ((severity, message),) = _limited(argv, limits=Limits(file_size=MiB))
    assert severity == "error"
    assert "EFBIG" in message
    assert "1.0 MiB were accepted" in message
    assert list(tmp_path.iterdir()) == []
    matrix.saw("EFBIG")


def _in_namespace(
    tmp_path: Path, mount: str, payload: int = MiB, size: int = 0, under: str = ""
) -> list[tuple[str, str]]:
    """The check on a mount that only its own process sees; skipped where the system forbids that."""
    point = tmp_path / "volume"
    point.mkdir()
    able = probe.run(["unshare", "-Urm", "sh", "-c", f"mount -t tmpfs none {point}"], timeout=20)
    if not able.ok:
        pytest.skip(f"no user namespaces here: {able.explain()}")
    folder = f"{point}/{under}" if under else str(point)
    script = f'{mount.format(point=point)} && exec "$0" -c "$1" \'{folder}\' {payload} {size}'
    return _limited(["unshare", "-Urm", "sh", "-c", script, sys.executable, CHECK])


@fault("D1")
def test_a_full_disk_is_named(tmp_path: Path, matrix: Matrix) -> None:
    """ENOSPC although a little is said to be free: the reserve of a checkpoint does not fit."""
    found = _in_namespace(tmp_path, "mount -t tmpfs -o size=4m none {point}", payload=MiB, size=8 * MiB)
    assert ("error", True) in [(severity, "a checkpoint takes 8.0 MiB" in text) for severity, text in found]
    matrix.saw("ENOSPC")


@fault("D17")
def test_a_disk_without_room_for_a_second_checkpoint_is_a_warning(tmp_path: Path, matrix: Matrix) -> None:
    """The old one is removed only after the new one is there."""
    ((severity, message),) = _in_namespace(tmp_path, "mount -t tmpfs -o size=12m none {point}", size=8 * MiB)
    assert severity == "warning"
    assert "second checkpoint does not fit beside the first" in message
    assert "tmpfs from none" in message
    matrix.saw("no room for a second checkpoint")


@fault("D3")
def test_a_disk_without_file_entries_is_named(tmp_path: Path, matrix: Matrix) -> None:
    """ENOSPC with megabytes free: a checkpoint is many files."""
    ((severity, message),) = _in_namespace(tmp_path, "mount -t tmpfs -o size=16m,nr_inodes=6 none {point}")
    assert severity == "error"
    assert "making small files failed with ENOSPC" in message
    assert "df -i" in message
    matrix.saw("ENOSPC while making small files")


@fault("D5")
def test_a_read_only_disk_is_named(tmp_path: Path, matrix: Matrix) -> None:
    """EROFS, also for a folder that does not exist yet."""
    mount = "mount -t tmpfs none {point} && mount -o remount,ro {point}"
    ((severity, message),) = _in_namespace(tmp_path, mount, under="out")
    assert severity == "error"
    assert "making a folder failed with EROFS" in message
    assert "mounted read-only" in message
    matrix.saw("EROFS")


@fault("D6")
def test_a_folder_of_another_user_is_named(matrix: Matrix) -> None:
    """EACCES. Root may write everywhere, so that as root the probe becomes somebody else first."""
    code = """
import os, sys
from llmguard.probe import writing
if os.geteuid() == 0:
    os.setuid(65534)
report(writing.try_folder(sys.argv[1], "probe", 1024, 1024))
"""
    with tempfile.TemporaryDirectory() as folder:  # not below tmp_path, which nobody else may enter
        Path(folder).chmod(0o555)
        told = probe.run(code, [folder], timeout=60)
        assert list(Path(folder).iterdir()) == []
    assert told.ok, told.explain()
    found = _only(_told(OUT, **told.payload))
    assert "making a folder failed with EACCES" in found.message
    assert "another user owns the folder" in found.message
    matrix.saw("EACCES")


def test_a_cache_that_may_only_be_read_is_fine_offline() -> None:
    """A complete read-only cache is a good idea; nobody can tell here whether it is complete."""
    refused = {"failed": "making a folder", "errno": errno.EROFS, "message": "Read-only file system"}
    assert _only(_told(CACHE, {"offline": True}, **refused)).severity is Severity.NOTE
    assert _only(_told(CACHE, {"offline": False}, **refused)).severity is Severity.WARNING
    assert _only(_told(OUT, {"offline": True}, **refused)).severity is Severity.ERROR


@pytest.mark.parametrize(
    "number",
    [
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EACCES,
        errno.EIO,
        errno.ESTALE,
        errno.EFBIG,
        errno.EMFILE,
    ],
)
def test_every_errno_has_its_name_cause_and_remedy(number: int) -> None:
    """With the mount, and what was claimed beside what was accepted."""
    found = _only(_told(OUT, failed="writing", errno=number, message=os.strerror(number), accepted=3 * MiB))
    name = errno.errorcode[number]
    assert (
        f"writing failed with {name} ({os.strerror(number)}) on /vol (fuse.mfs from mfs:9421)"
        in found.message
    )
    assert "1,024.0 TiB are said to be free, 3.0 MiB were accepted" in found.message
    assert "unknown" not in found.message
    assert found.remedy
    assert json.dumps(found.to_json())


def test_other_bytes_are_an_error() -> None:
    """A disk that gives back something else."""
    found = _only(_told(OUT, corrupt=True))
    assert "other bytes came back" in found.message


@pytest.mark.parametrize(("seconds", "slow"), [(1.0, True), (0.01, False)])
def test_a_slow_disk_is_a_warning_when_the_checkpoint_is_large(seconds: float, slow: bool) -> None:
    """At 1 MiB/s a checkpoint of 1 GiB takes 17 minutes."""
    found = _told(OUT, {"checkpoint_size": 2**30}, seconds=seconds)
    assert ["takes 17 minutes" in finding.message for finding in found] == ([True] if slow else [])
    assert _told(OUT, seconds=seconds) == []


@pytest.mark.parametrize(("claimed", "severity"), [(9, Severity.ERROR), (15, Severity.WARNING), (20, None)])
def test_room_for_two_checkpoints_is_needed(claimed: int, severity: Severity | None) -> None:
    """One beside the one before; of a cache nothing of the kind is asked."""
    size = {"checkpoint_size": 10 * MiB}
    found = _told(OUT, size, claimed=claimed * MiB)
    assert [finding.severity for finding in found] == ([severity] if severity else [])
    assert _told(CACHE, size, claimed=claimed * MiB) == []


def test_a_project_without_folders_is_told_what_to_add() -> None:
    """Skipped, never green."""
    with pytest.raises(MissingEvidence, match="output_dir"):
        output_dir_takes_a_checkpoint(Environment("/project"))


def test_an_ended_probe_leaves_nothing(tmp_path: Path) -> None:
    """SIGTERM in the middle of the payload: its folder is removed on the way out."""
    asked = {"folder": str(tmp_path), "name": "probe", "payload": 2**33, "size": 2**33}
    running = probe.start("llmguard.probe.writing", [json.dumps(asked)], timeout=60, kill_grace=5)
    while not (tmp_path / "probe").exists():
        assert not running.done
    running.cancel()
    assert list(tmp_path.iterdir()) == []


@fault("D16")
def test_the_folder_that_the_training_config_names_is_tried_too(tmp_path: Path, matrix: Matrix) -> None:
    """What was checked and what is written may be two volumes: both are tried, each once, and the second says who names it."""
    (tmp_path / "there").write_text("a file where a folder is meant", "utf-8")
    (tmp_path / "train.yaml").write_text("output_dir: there/out\nlearning_rate: 0.0001\n", "utf-8")
    (tmp_path / "same.yaml").write_text("output_dir: here\nlearning_rate: 0.0001\n", "utf-8")
    (tmp_path / "open.yaml").write_text("output_dir: ${oc.env:OUT}\nlearning_rate: 0.0001\n", "utf-8")
    project = (
        '[environment]\noutput_dir = "here"\n[config]\nfiles = ["train.yaml", "same.yaml", "open.yaml"]\n'
    )
    (tmp_path / "llmguard.toml").write_text(project, "utf-8")
    found = output_dir_takes_a_checkpoint(Evidence(load_project(tmp_path)).get("environment"))
    assert found.looked_at == 2
    told = _only(found)
    assert told.where.what == "train.yaml:1"
    assert told.where.file == str(tmp_path / "there" / "out")
    matrix.saw("ENOTDIR in the folder of train.yaml")
