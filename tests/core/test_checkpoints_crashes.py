"""Crashes at any point: killed processes, lost writes, flipped bits. The newest whole checkpoint always loads, and is right."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.checkpoint_files import is_exactly, write_checkpoint
from support.lost_writes import Recorder
from support.matrix import fault

from llmguard_core.checkpoints import atomic_folder, checkpoints, folder, newest, verify
from llmguard_core.checkpoints.folder import remove_folder

TESTS = Path(__file__).resolve().parents[1]


def save(out: Path, step: int) -> None:
    with atomic_folder(out / f"checkpoint-{step}") as place:
        write_checkpoint(place, step)


def life(out: Path, done: Callable[[int], None]) -> None:
    """Three saves, one of them made again over itself, and the oldest deleted; `done` is told what is safe from then on."""
    for step in (2, 4, 6):
        save(out, step)
        done(step)
    remove_folder(out / "checkpoint-2")
    save(out, 6)


def power_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> list[str]:
    """What is wrong after each of `count` power losses at random moments; every sentence is one loss of something safe."""
    real, replayed = tmp_path / "real", tmp_path / "replayed"
    real.mkdir()
    safe: list[tuple[int, int]] = []
    recorder = Recorder(real)
    with recorder.recording(monkeypatch):
        life(real / "out", lambda step: safe.append((len(recorder.events), step)))
    draw, wrong = random.Random(5), list[str]()
    for _ in range(count):
        moment = draw.randint(0, len(recorder.events))
        recorder.crash(moment, draw, replayed)
        least = max((step for at, step in safe if at <= moment), default=0)
        found = newest(replayed / "out")
        step = int(found.name.partition("-")[2]) if found else 0
        if step < least:
            wrong.append(f"after {moment} acts: step {least} was safe, {step} is left")
        elif found and not is_exactly(found, step):
            wrong.append(f"after {moment} acts: {found.name} holds other bytes")
        halves = [c.name for c in checkpoints(replayed / "out") if verify(c)]
        if halves:
            wrong.append(f"after {moment} acts: {halves[0]} has its name and is not whole")
    return wrong


@fault("L2")
def test_edge_42_a_power_loss_never_takes_a_checkpoint_that_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """50 moments; whatever was not flushed may be lost, in any combination."""
    with caplog.at_level(logging.CRITICAL):
        assert power_losses(tmp_path, monkeypatch, 50) == []


@pytest.mark.soak
def test_edge_42_power_losses_by_the_thousand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same at 5,000 moments."""
    assert power_losses(tmp_path, monkeypatch, 5000) == []


@pytest.mark.parametrize("forgotten", ["files", "folders"])
def test_the_model_of_a_power_loss_sees_a_flush_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: str
) -> None:
    """Without the flushes of the files, or of the folders, the same losses do take what was saved."""
    real = folder.flush
    monkeypatch.setattr(
        folder, "flush", lambda path: real(path) if path.is_dir() == (forgotten == "files") else None
    )
    assert power_losses(tmp_path, monkeypatch, 50)


def flips(out: Path, step: int, count: int, same: Callable[[Path], bool]) -> dict[str, int]:
    """Flip single bits, one at a time, spread over the files of a checkpoint; counts what became of them."""
    target, draw = out / f"checkpoint-{step}", random.Random(9)
    files = sorted(p for p in target.rglob("*") if p.is_file() and p.stat().st_size)
    seen = {"detected": 0, "harmless": 0, "wrong": 0}
    for number in range(count):
        file = files[number % len(files)]
        before = file.read_bytes()
        changed = bytearray(before)
        changed[draw.randrange(len(before))] ^= 1 << draw.randrange(8)
        file.write_bytes(changed)
        found = newest(out)
        if found != target:
            seen["detected" if found is not None and verify(target) else "wrong"] += 1
        else:
            seen["harmless" if same(target) else "wrong"] += 1
        file.write_bytes(before)
    assert verify(target) == []
    return seen


@fault("L5")
def test_a_flipped_bit_is_detected_or_harmless(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """200 bits, one at a time, over every file of a checkpoint; the one before is taken instead."""
    save(tmp_path, 2)
    save(tmp_path, 4)
    with caplog.at_level(logging.CRITICAL):
        seen = flips(tmp_path, 4, 200, lambda target: is_exactly(target, 4))
    assert seen["wrong"] == 0
    assert seen["detected"] > 190


def test_without_a_manifest_flips_in_archives_are_never_silent(tmp_path: Path) -> None:
    """A checkpoint as transformers leaves it: torch's files carry checksums; what those do not cover torch refuses, or does not read."""
    import torch

    place = tmp_path / "checkpoint-2"
    place.mkdir()
    write_checkpoint(place, 2)
    state = {"state": {0: {"exp_avg": torch.arange(400.0)}}}
    torch.save(state, place / "optimizer.pt")
    draw, before, seen = random.Random(3), (place / "optimizer.pt").read_bytes(), 0
    for _ in range(100):
        changed = bytearray(before)
        changed[draw.randrange(len(before))] ^= 1 << draw.randrange(8)
        (place / "optimizer.pt").write_bytes(changed)
        if verify(place):
            seen += 1
            continue
        try:
            loaded = torch.load(place / "optimizer.pt", weights_only=True)
        except RuntimeError:
            continue
        assert torch.equal(loaded["state"][0]["exp_avg"], torch.arange(400.0))
    assert seen > 60


def crashes(folder: Path, mode: str, *args: str, before: tuple[str, ...] = ()) -> Any:
    """Run the supervisor of forked training processes; gives what it saw."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent / "src")])}
    done = subprocess.run(
        [*before, sys.executable, "-m", "support.crashes", mode, str(folder), *args],
        env={**environment, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def judge_kills(seen: dict[str, Any], kills: int) -> None:
    assert seen["wrong"] == []
    assert seen["kills"] == kills
    assert seen["while_saving"] > 0, "no kill fell into a save: nothing was shown"
    assert seen["finished"] > 0
    assert seen["most_lost"] <= seen["interval"]


@pytest.mark.needs_torch
@fault("L1")
def test_edge_41_killed_at_random_points_it_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """12 SIGKILLs at random moments: at most one interval is lost, every checkpoint found holds the weights of its step."""
    judge_kills(crashes(tmp_path, "kills", "12"), 12)


@pytest.mark.needs_torch
@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_edge_41_killed_at_200_random_points(tmp_path: Path) -> None:
    """The same, 200 times."""
    judge_kills(crashes(tmp_path, "kills", "200"), 200)


@pytest.mark.needs_torch
@fault("L10")
def test_edge_25_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    """A real file system of 1 MB: the error names path, errno and bytes; nothing half-written stays."""
    able = (
        shutil.which("unshare")
        and not subprocess.run(
            ["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(tmp_path)],
            capture_output=True,
            check=False,
        ).returncode
    )
    if not able:
        pytest.skip("this system gives no mount namespace: no small file system can be made")
    seen = crashes(tmp_path, "disk_full", before=("unshare", "-rm"))
    assert "No space left on device (errno 28, ENOSPC)" in seen["error"]
    assert "checkpoint-" in seen["error"]
    assert "bytes are needed" in seen["error"]
    assert seen["left"] == seen["before"], "a temporary folder stayed, or a checkpoint went"
    assert seen["newest"]
