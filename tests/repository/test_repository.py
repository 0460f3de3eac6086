"""The project's git repository: what keeps git from working there is told, by planting it in a real repository."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.matrix import Matrix, fault

from llmguard import Finding, probe
from llmguard.checks.repository import repository_takes_a_commit
from llmguard.evidence.repository import STEPS, Repository
from llmguard.findings import Severity

pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="needs git")


def git(folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """git, untouched by the settings of this machine."""
    who = [
        "-c",
        "user.name=n",
        "-c",
        "user.email=e@x",
        "-c",
        "commit.gpgsign=false",
        "-c",
        "init.defaultBranch=main",
    ]
    env = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "LC_ALL": "C"}
    command = ["git", *who, "-C", str(folder), *arguments]
    return subprocess.run(command, check=check, capture_output=True, text=True, env=env)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository with one commit."""
    made = tmp_path / "clone"
    made.mkdir()
    git(made, "init", "-q")
    (made / "train.py").write_text("print('train')\n", "utf-8")
    git(made, "add", ".")
    git(made, "commit", "-qm", "first")
    return made


def asked(folder: Path, matrix: Matrix | None = None, seconds: float = 10.0) -> list[Finding]:
    """What the check says of a folder."""
    told = Repository(
        str(folder), seconds, {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    )
    started = time.monotonic()
    found = repository_takes_a_commit(told)
    if matrix:
        matrix.saw(
            told.told.get("state", "no answer"), seconds=time.monotonic() - started, deadline=seconds * STEPS
        )
    return list(found)


def only(found: list[Finding]) -> Finding:
    assert len(found) == 1, [f.message for f in found]
    return found[0]


def test_a_repository_in_order_is_right(clone: Path) -> None:
    """Nothing is said, nothing is left behind; nor is anything said of a folder that is in none."""
    before = sorted((clone / ".git" / "objects").rglob("*"))
    assert asked(clone) == []
    assert sorted((clone / ".git" / "objects").rglob("*")) == before
    (clone / "below").mkdir()
    assert asked(clone / "below") == []
    assert repository_takes_a_commit(Repository(str(clone.parent))).looked_at == 0


def test_a_repository_without_a_commit_is_right(tmp_path: Path) -> None:
    """The first day of a project."""
    git(tmp_path, "init", "-q")
    assert asked(tmp_path) == []


@fault("F1")
def test_a_lock_that_was_left_behind_is_told(clone: Path, matrix: Matrix) -> None:
    """First shown to stop git; a lock that a process has open is nobody's fault."""
    lock = clone / ".git" / "index.lock"
    lock.touch()
    assert "File exists" in git(clone, "add", ".", check=False).stderr
    os.utime(lock, (time.time() - 7200,) * 2)
    told = only(asked(clone, matrix))
    assert "a lock file 2.0 hours old stands in the way" in told.message
    assert told.where.file == str(lock)
    with lock.open():
        assert asked(clone) == []


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder mounted read-only over itself, which binds root too; skipped where mounting is not allowed."""
    if (
        os.geteuid()
        or subprocess.run(["mount", "--bind", folder, folder], check=False, capture_output=True).returncode
    ):
        pytest.skip("mounting needs root")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True, capture_output=True)
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True, capture_output=True)


@fault("F2")
def test_a_read_only_repository_is_a_warning(clone: Path, matrix: Matrix) -> None:
    """`git status` still works there, so that it is no proof; a read-only copy may be meant."""
    with read_only(clone):
        assert git(clone, "status").returncode == 0
        assert (
            "Read-only file system" in git(clone, "commit", "--allow-empty", "-qm", "x", check=False).stderr
        )
        told = only(asked(clone, matrix))
    assert told.severity is Severity.WARNING
    assert told.evidence["errno"] == errno.EROFS


def fill(file: Path) -> None:
    """Until there is no room."""
    with file.open("wb", buffering=0) as opened:
        while opened.write(b"x" * 4096):
            pass


@fault("F3")
def test_a_full_volume_is_told(tmp_path: Path, matrix: Matrix) -> None:
    """No room for objects, found out by writing."""
    place = tmp_path / "full"
    place.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "t", place], check=False).returncode
    ):
        pytest.skip("mounting needs root")
    try:
        git(place, "init", "-q")
        with pytest.raises(OSError, match="No space left"):
            fill(place / "filler")
        told = only(asked(place, matrix))
    finally:
        subprocess.run(["umount", "-l", place], check=True)
    assert told.evidence["errno"] == errno.ENOSPC
    assert f"on {place}" in told.message


@fault("F4")
def test_a_repository_of_another_user_is_told(clone: Path, matrix: Matrix) -> None:
    """git itself refuses it first."""
    if os.geteuid():
        pytest.skip("needs root, to give the repository away")
    for path in (clone, *clone.rglob("*")):
        os.chown(path, 12345, 12345)
    assert "dubious ownership" in git(clone, "status", check=False).stderr
    told = only(asked(clone, matrix))
    assert "it belongs to user 12345, and this is user 0" in told.message
    assert f"--add safe.directory {clone}" in told.message


@fault("F5")
@pytest.mark.parametrize("damage", ["index", "object"])
def test_damage_is_told_in_the_words_of_git(clone: Path, matrix: Matrix, damage: str) -> None:
    """An index that is no index; the tree of HEAD as an empty file."""
    if damage == "index":
        (clone / ".git" / "index").write_bytes(b"DIRX" + bytes(64))
    else:
        tree = git(clone, "rev-parse", "HEAD^{tree}").stdout.strip()
        file = clone / ".git" / "objects" / tree[:2] / tree[2:]
        file.chmod(stat.S_IRUSR | stat.S_IWUSR)
        file.write_bytes(b"")
    told = only(asked(clone, matrix))
    assert told.severity is Severity.ERROR
    assert "git cannot read the repository" in told.message


@fault("F6")
def test_what_is_in_no_commit_is_a_note(clone: Path, tmp_path: Path, matrix: Matrix) -> None:
    """Changed files, commits that nobody else has, a HEAD on no branch; untracked files are not counted."""
    git(tmp_path, "clone", "-q", str(clone), "second")
    second = tmp_path / "second"
    (second / "new.txt").touch()
    assert asked(second) == []
    git(second, "commit", "--allow-empty", "-qm", "mine")
    (second / "train.py").write_text("print('changed')\n", "utf-8")
    told = only(asked(second, matrix))
    assert told.severity is Severity.NOTE
    assert "1 files are changed and in no commit; 1 commits were not pushed" in told.message
    git(second, "checkout", "-q", "--detach")
    assert "HEAD is on no branch" in only(asked(second)).message


@fault("F7")
def test_a_monitor_that_never_answers_is_told(clone: Path, tmp_path: Path, matrix: Matrix) -> None:
    """A file system monitor that sleeps: shown to keep git, then cut off, and nothing of it is left."""
    hook = tmp_path / "monitor"
    hook.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(600)\n", "utf-8")
    hook.chmod(0o755)
    git(clone, "config", "core.fsmonitor", str(hook))
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(["git", "-C", str(clone), "status"], timeout=0.7, capture_output=True, check=False)
    subprocess.run(["pkill", "-f", str(hook)], check=False)
    told = only(asked(clone, matrix, seconds=1.0))
    assert "`git status --porcelain=v2 --branch` gave no answer within 1 s" in told.message
    assert subprocess.run(["pgrep", "-f", str(hook)], check=False, capture_output=True).stdout == b""


def test_without_git_nothing_is_judged(clone: Path) -> None:
    """A container without git has no use for a repository."""
    assert repository_takes_a_commit(Repository(str(clone), environ={"PATH": "/nowhere"})).looked_at == 0


def test_a_look_that_breaks_is_told_and_accuses_nobody(clone: Path) -> None:
    """What was seen of it, and the command to try by hand; never a repository that is called right."""
    told = Repository(str(clone))
    told.__dict__["result"] = probe.run("raise ValueError('odd')", timeout=20)
    (found,) = repository_takes_a_commit(told)
    assert found.severity is Severity.ERROR
    assert "ValueError: odd" in found.message
    assert "git status" in found.remedy
