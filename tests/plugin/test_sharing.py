"""Workers of one session share what children bring back, and none ends a child that another waits for."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llmguard.sharing import enter, wait_for_others

if TYPE_CHECKING:
    from tests.plugin.conftest import Toy

TELLS = """

import os, pytest, time

@pytest.hookimpl(tryfirst=True)
def pytest_llmguard_outcome(item, result):
    options = item._ready_audit().evidence.options
    share = options.share
    print(f"SHARE {share} {oct(share.stat().st_mode)[-3:] if share else None} {sorted(p.name for p in share.iterdir()) if share else None}")

def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        import tempfile, glob
        print("LEFT", glob.glob(tempfile.gettempdir() + "/llmguard-*"))
"""


def worker(name: str) -> Any:
    return SimpleNamespace(workerinput={"workerid": name})


def test_workers_share_a_folder_that_goes_with_the_session(toy: Toy, tmp_path: Path) -> None:
    """One folder, for this user alone, signed by each worker; removed when the session ends."""
    toy.checks("toy_holds toy_warns toy_notes toy_needs", TELLS)
    (tmp_path / "temp").mkdir()
    done = toy.process("-n", "2", "-rP", TMPDIR=str(tmp_path / "temp"))
    told = [line.split(" ", 2)[1:] for line in done.stdout.splitlines() if line.startswith("SHARE ")]
    assert len({share for share, _ in told}) == 1
    assert "700 ['worker-gw0.pid', 'worker-gw1.pid']" in [signed for _, signed in told]
    assert "LEFT []" in done.stdout
    assert list((tmp_path / "temp").glob("llmguard-*")) == []


SCRATCH = """

import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_llmguard_outcome(item, result):
    print("SCRATCH", item._ready_audit().evidence.scratch.is_dir())
"""


@pytest.mark.parametrize("workers", ["0", "1"])
def test_evidence_is_closed_with_the_session(toy: Toy, tmp_path: Path, workers: str) -> None:
    """What the evidence keeps on disk while the session runs is gone when it ends, in every process."""
    toy.checks("toy_holds", SCRATCH)
    (tmp_path / "temp").mkdir()
    done = toy.process("-n", workers, "-rP", TMPDIR=str(tmp_path / "temp"))
    assert "SCRATCH True" in done.stdout
    assert list((tmp_path / "temp").glob("llmguard-*")) == []


def test_one_process_shares_nothing(toy: Toy) -> None:
    """Without workers there is nobody to share with."""
    toy.checks("toy_holds", TELLS)
    assert "SHARE None None None" in toy.process("-rP").stdout


def test_a_worker_waits_for_the_others(tmp_path: Path) -> None:
    """It lets go when the last other worker has."""
    share = tmp_path / "share"
    enter(share, worker("gw0"))
    enter(share, worker("gw1"))
    waiting = threading.Thread(target=wait_for_others, args=(share, worker("gw0")))
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    wait_for_others(share, worker("gw1"))
    waiting.join(5)
    assert not waiting.is_alive()


def test_a_worker_that_died_is_not_waited_for(tmp_path: Path) -> None:
    """Its sign is still there; its process is not."""
    share = tmp_path / "share"
    enter(share, worker("gw0"))
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    (share / "worker-gw1.pid").write_text(str(dead.pid))
    (share / "worker-gw2.pid").write_text("")
    started = time.monotonic()
    wait_for_others(share, worker("gw0"))
    assert time.monotonic() - started < 2
    assert sorted(sign.name for sign in share.iterdir()) == ["worker-gw1.pid", "worker-gw2.pid"]
