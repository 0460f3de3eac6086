"""Paths of a project on file systems that do not answer: found without touching them, told once, and nothing else hangs."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import ModuleType

import pytest
from support.matrix import Matrix, fault

from llmguard import probe
from llmguard.auditing import audit
from llmguard.checks.mounts import named_paths_answer
from llmguard.evidence import Evidence
from llmguard.evidence.mounts import Mounts
from llmguard.probe import Verdict, mounts
from llmguard.probe.mounts import PIPE, Named, silent_among, where_it_lies
from llmguard.project import load_project

TABLE = "1 0 0:1 / / rw - ext4 /dev/a rw\n2 1 0:2 / /mnt/nas rw - nfs4 nas:/vol rw\n3 1 0:3 / /mnt/disk rw - xfs /dev/b rw\n"


@pytest.fixture
def backing(tmp_path: Path) -> Path:
    """What lies behind the mount."""
    made = tmp_path / "backing"
    made.mkdir()
    (made / "train.jsonl").write_text('{"prompt": "a", "response": "b"}\n', "utf-8")
    (made / "train.yaml").write_text("learning_rate: 0.0001\n", "utf-8")
    return made


def project(folder: Path, data: Path) -> Path:
    """A project whose data and config lie elsewhere."""
    file = folder / "llmguard.toml"
    file.write_text(
        f'[data]\ntrain = "{data}/train.jsonl"\nprompt = "prompt"\nresponse = "response"\n[config]\nfiles = "{data}/train.yaml"\n'
        "[environment]\nimport_timeout = 1.0\n",
        "utf-8",
    )
    return file


@fault("G13")
def test_a_config_and_data_on_a_silent_file_system_hang_nobody(
    fuse: ModuleType, tmp_path: Path, backing: Path, matrix: Matrix
) -> None:
    """One failed check names the mount; what would touch it is skipped with the reason; the environment is checked all the same."""
    with fuse.mounted(tmp_path / "dead", backing, dead=1) as point:
        witness = probe.run(
            "import sys; open(sys.argv[1])", [f"{point}/train.yaml"], timeout=0.5, kill_grace=0
        )
        assert witness.verdict in (Verdict.HUNG_FS, Verdict.UNKILLABLE), "the fault did not fire"
        loaded = load_project(project(tmp_path, point))
        started = time.monotonic()
        (silent,) = Evidence(loaded).get("mounts").silent
        matrix.saw(
            silent.result,
            seconds=time.monotonic() - started,
            deadline=1.0,
            survivors=len(silent.result.survivors),
        )
        results = {(r.check, r.target): r for r in audit(loaded).checks}
    told = results["named_paths_answer", ""]
    assert told.outcome.value == "failed"
    assert f"{point} (fuse" in told.findings[0].message
    assert told.findings[0].where.key == "[data] train"
    config = results["config_file_is_readable", ""]
    assert (config.outcome.value, "does not answer" in config.reason) == ("skipped", True)
    assert results["data_files_are_readable", ""].outcome.value == "skipped"
    assert results["python_is_supported", ""].outcome.value == "passed"


def test_a_link_to_a_silent_file_system_is_followed_without_touching_it(
    fuse: ModuleType, tmp_path: Path, backing: Path
) -> None:
    """As `data -> /mnt/nas/data` is; relative links and links to links too."""
    with fuse.mounted(tmp_path / "dead", backing, dead=1) as point:
        (tmp_path / "data").symlink_to(point)
        (tmp_path / "again").symlink_to("data/train.jsonl")
        for path in ("data/train.jsonl", "again", "data/../dead/x"):
            assert where_it_lies(f"{tmp_path}/{path}")[0] == str(point), path


def test_a_network_volume_that_answers_is_right(fuse: ModuleType, tmp_path: Path, backing: Path) -> None:
    """A slow one too, and one where the file is missing: that is the business of other checks."""
    with fuse.mounted(tmp_path / "slow", backing, delay=0.01) as point:
        named = [Named("[data] train", f"{point}/{name}") for name in ("train.jsonl", "missing", "")]
        assert [s.result.explain() for s in silent_among(named, 5.0)] == []
        assert mounts._ask(named, str(point), 5.0).wait().ok, (
            "it is right because it answered, not because the probe broke"
        )
        found = named_paths_answer(Mounts(tuple(named), ()))
        assert (list(found), found.looked_at, found.unit) == ([], 3, "paths")


def test_paths_on_local_disks_cost_no_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is there, and whatever is not."""
    monkeypatch.setattr("llmguard.probe.mounts.start", None)
    assert silent_among([Named("a", str(tmp_path)), Named("b", "/nowhere/at/all")], 1.0, TABLE) == ()


def test_a_pipe_that_somebody_writes_into_answers(tmp_path: Path) -> None:
    """And what is in it is still there for those who read it; without a writer it is silent, also behind a link."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(pipe)
    named = [Named("[data] train", str(tmp_path / "link"))]
    (silent,) = silent_among(named, 0.5)
    assert (silent.name, silent.kind) == (f"{tmp_path / 'link'} (named pipe)", PIPE)
    both = os.open(pipe, os.O_RDWR)
    try:
        os.write(both, b"rows")
        assert silent_among(named, 20.0) == ()
        assert os.read(both, 4) == b"rows"
    finally:
        os.close(both)


@pytest.mark.parametrize(
    ("path", "point"),
    [
        ("/mnt/nas/a/b", "/mnt/nas"),
        ("/mnt/nasty", "/"),
        ("/mnt/disk/x", "/mnt/disk"),
        ("/", "/"),
        ("/mnt/disk/../nas", "/mnt/nas"),
    ],
)
def test_the_longest_mount_point_decides(path: str, point: str) -> None:
    """From the kernel's table alone; names that only begin alike do not count."""
    assert where_it_lies(path, TABLE)[0] == point


def test_links_that_lead_in_a_circle_end(tmp_path: Path) -> None:
    """The kernel refuses them too; here nothing waits."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert where_it_lies(f"{tmp_path}/a/x", TABLE)[0] == "/"
