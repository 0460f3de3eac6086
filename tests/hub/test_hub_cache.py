"""The model cache: whole caches pass, read-only ones too; each kind of damage and each lock is told, by planting it for real."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from support import weights
from support.matrix import Matrix, fault

from llmguard import probe
from llmguard.checks.hub_cache import (
    cached_model_is_whole,
    model_cache_is_not_locked,
    model_cache_takes_what_is_missing,
)
from llmguard.contract import Check
from llmguard.evidence import Evidence
from llmguard.evidence.hub_cache import HubCache
from llmguard.findings import Severity
from llmguard.hub import look as looking
from llmguard.project import load_project

ID = "owner/name"
CHECKS = (cached_model_is_whole, model_cache_is_not_locked, model_cache_takes_what_is_missing)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A Hugging Face home whose cache holds one model, laid out as huggingface_hub does: blobs, and a snapshot of links to them."""
    made = tmp_path / "home"
    place = made / "hub" / "models--owner--name"
    (place / "blobs").mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("c0ffee", "utf-8")
    snapshot = place / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    (place / "blobs" / "aaa").write_text('{"vocab_size": 8}', "utf-8")
    weights.write(place / "blobs" / "bbb", {"w": np.ones((2, 3), np.float32)})
    (snapshot / "config.json").symlink_to("../../blobs/aaa")
    (snapshot / "model.safetensors").symlink_to("../../blobs/bbb")
    return made


def cache(home: Path, *, offline: bool = True, remote_code: bool = False) -> HubCache:
    """The evidence, with the cache in `home`."""
    environ = {
        "HF_HOME": str(home),
        "HF_HUB_CACHE": None,
        "HUGGINGFACE_HUB_CACHE": None,
        "HF_MODULES_CACHE": None,
    }
    return HubCache(ID, remote_code, offline, environ=environ)


def blobs(home: Path) -> Path:
    return home / "hub" / "models--owner--name" / "blobs"


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
        with pytest.raises(OSError, match="Read-only"):
            (folder / "x").touch()
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True, capture_output=True)


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.name)
def test_a_whole_cache_is_right(home: Path, check: Check) -> None:
    """Nothing is said, and one model was looked at; what is no hub id is not looked at."""
    found = check(cache(home))
    assert ([f.message for f in found], found.looked_at) == ([], 1)
    assert check(HubCache("")).looked_at == 0


@fault("E4")
def test_a_whole_cache_may_be_read_only(home: Path, matrix: Matrix) -> None:
    """As it is on a shared volume, offline: right, whatever cannot be written there."""
    with read_only(home):
        found = cache(home)
        assert found.told["writable"][0] == 30
        matrix.saw(found.result)
        assert [f.message for check in CHECKS for f in check(found)] == []


@fault("E5")
def test_a_read_only_cache_that_lacks_a_file_is_told(home: Path, matrix: Matrix) -> None:
    """Which file it is, and that it cannot be fetched there."""
    (blobs(home) / "bbb").unlink()
    with read_only(home):
        found = cache(home)
        matrix.saw(found.result)
        (whole,) = cached_model_is_whole(found)
        (taken,) = model_cache_takes_what_is_missing(found)
    assert "model.safetensors is a link to ../../blobs/bbb, which is not there" in whole.message
    assert f"Read-only file system, errno 30, on {home}" in taken.message
    assert "1 of its files are missing or broken" in taken.message
    assert taken.severity is Severity.ERROR


@fault("E6")
def test_an_empty_read_only_cache_is_told(tmp_path: Path, matrix: Matrix) -> None:
    """Nothing of the model is there and nothing can be: EROFS is not taken for a cache that is merely old."""
    (tmp_path / "home" / "hub").mkdir(parents=True)
    with read_only(tmp_path / "home"):
        found = cache(tmp_path / "home", offline=False)
        matrix.saw(found.result)
        (told,) = model_cache_takes_what_is_missing(found)
    assert "the model is not in it" in told.message
    assert told.evidence["errno"] == 30


def test_a_cache_that_is_not_there_yet_is_right(tmp_path: Path) -> None:
    """The first run will make it."""
    assert [f.message for check in CHECKS for f in check(cache(tmp_path / "nothing", offline=False))] == []


def truncated(home: Path) -> None:
    with (blobs(home) / "bbb").open("rb+") as file:
        file.truncate(40)


def pointer(home: Path) -> None:
    (blobs(home) / "bbb").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "utf-8"
    )


def lost_shard(home: Path) -> None:
    folder = home / "hub/models--owner--name/snapshots/c0ffee"
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")


def no_blob(home: Path) -> None:
    (blobs(home) / "aaa").unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        pytest.param(truncated, "model.safetensors", marks=fault("E7")),
        pytest.param(pointer, "model.safetensors", marks=fault("E7")),
        pytest.param(lost_shard, "model-00002-of-00002.safetensors", marks=fault("E7")),
        pytest.param(
            no_blob, "config.json is a link to ../../blobs/aaa, which is not there", marks=fault("E8")
        ),
    ],
)
def test_damage_is_told_with_its_file(
    home: Path, matrix: Matrix, damage: Callable[[Path], None], said: str
) -> None:
    """Truncated, a pointer in its place, a missing shard, a link that leads nowhere."""
    damage(home)
    found = cache(home)
    (told,) = cached_model_is_whole(found)
    matrix.saw(found.result)
    assert told.severity is Severity.ERROR
    assert said in told.message


@fault("E7")
def test_downloads_that_broke_off_are_told(home: Path, matrix: Matrix) -> None:
    """Beside a whole model a note; one that is under way says nothing."""
    half = blobs(home) / "ccc.incomplete"
    half.write_bytes(b"x" * 1000)
    assert cached_model_is_whole(cache(home)) == []
    os.utime(half, (time.time() - 7200,) * 2)
    found = cache(home)
    (told,) = cached_model_is_whole(found)
    matrix.saw(found.result)
    assert told.severity is Severity.NOTE
    assert "1 downloads were broken off (1,000 bytes of ccc.incomplete, 2 hours ago)" in told.message


def test_a_download_that_broke_off_before_there_was_a_model_is_a_warning(home: Path) -> None:
    """Nothing of the model can be used yet: whoever believes that it was fetched finds out when the run starts."""
    shutil.rmtree(home / "hub/models--owner--name/snapshots")
    shutil.rmtree(home / "hub/models--owner--name/refs")
    half = blobs(home) / "ccc.incomplete"
    half.write_bytes(b"x" * 1000)
    os.utime(half, (time.time() - 7200,) * 2)
    (told,) = cached_model_is_whole(cache(home, offline=False))
    assert told.severity is Severity.WARNING
    assert "1 downloads were broken off" in told.message


def test_a_config_alone_is_no_fault_while_the_rest_can_be_fetched(home: Path) -> None:
    """Preflight itself may have fetched it; offline it is an error."""
    (home / "hub/models--owner--name/snapshots/c0ffee/model.safetensors").unlink()
    (online,) = cached_model_is_whole(cache(home, offline=False))
    (offline,) = cached_model_is_whole(cache(home))
    assert (online.severity, offline.severity) == (Severity.NOTE, Severity.ERROR)


@fault("E12")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_weights_of_another_user_are_told(
    home: Path, matrix: Matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mode 0600, as safetensors writes them: root would read them, so the look is taken as nobody, and shown to fail there."""
    (blobs(home) / "bbb").chmod(0o600)
    for folder in (home, *home.parents):
        if str(folder).startswith("/tmp/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    nobody = 65534
    child = os.fork()
    if not child:
        os.setuid(nobody)
        code = 0
        try:
            (blobs(home) / "bbb").read_bytes()
            code = 1
        except PermissionError:
            os.environ["HF_HOME"] = str(home)
            told = dict(looking.look(ID)["problems"])
            code = 0 if "may not be read: mode 0600, owner 0" in told.get("model.safetensors", "") else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    matrix.saw("may not be read: mode 0600")


@fault("E13")
def test_a_folder_for_remote_code_that_takes_nothing_is_told(home: Path, matrix: Matrix) -> None:
    """Only where the project lets remote code run."""
    with read_only(home):
        found = cache(home, remote_code=True)
        (told,) = model_cache_takes_what_is_missing(found)
        matrix.saw(found.result)
        assert model_cache_takes_what_is_missing(cache(home)) == []
    assert "copies the model's code there" in told.message


@fault("E2")
def test_a_lock_that_a_living_process_holds_is_told(home: Path, matrix: Matrix) -> None:
    """With its number, its command and its age; once it is let go nothing is said of the file that stays."""
    folder = home / "hub" / ".locks" / "models--owner--name"
    folder.mkdir(parents=True)
    lock = folder / "bbb.lock"
    code = f"import fcntl, sys; f = open({str(lock)!r}, 'w'); fcntl.flock(f, 2); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout
        holder.stdout.readline()
        with lock.open() as mine, pytest.raises(BlockingIOError):
            fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = cache(home)
        (told,) = model_cache_is_not_locked(found)
        matrix.saw(found.result)
        assert told.severity is Severity.WARNING
        assert f"process {holder.pid} (" in told.message
        holder.communicate(b"")
    assert model_cache_is_not_locked(cache(home)) == []
    assert lock.exists()


def test_a_lock_file_without_locks_is_an_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On volumes without flock the file is the lock: huggingface_hub waits for it for ever."""
    folder = home / "hub" / ".locks" / "models--owner--name"
    folder.mkdir(parents=True)
    (folder / "bbb.lock").write_text("4711\npod-7\n", "utf-8")

    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(looking.fcntl, "flock", refuse)
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    found = cache(home)
    found.__dict__["result"] = type("Done", (), {"ok": True, "payload": looking.look(ID)})()
    (told,) = model_cache_is_not_locked(found)
    assert told.severity is Severity.ERROR
    assert "on a file system without locks (Function not implemented)" in told.message
    assert "4711\\npod-7" in told.message


@pytest.mark.parametrize(
    ("path", "id_"),
    [("owner/name", "owner/name"), ("./models/base", ""), ("models/of/mine", ""), ("gpt2", "")],
)
def test_only_hub_ids_have_a_cache(tmp_path: Path, path: str, id_: str) -> None:
    """Folders are judged by the checks of the model."""
    (tmp_path / "llmguard.toml").write_text(f'[model]\npath = "{path}"\n', "utf-8")
    loaded = load_project(tmp_path, environ={})
    assert Evidence(loaded).get("hub_cache").hub_id == id_


def test_a_look_that_breaks_accuses_nobody(home: Path) -> None:
    """What was seen is shown; nothing is said about volumes, and the other checks judge nothing."""
    found = cache(home)
    found.__dict__["result"] = probe.run("raise ValueError('odd')", timeout=20)
    (told,) = cached_model_is_whole(found)
    assert "ValueError: odd" in told.message
    assert "unknown; the line above is all that was seen" in told.message
    assert "volume" not in told.message
    assert model_cache_is_not_locked(found).looked_at == 0
