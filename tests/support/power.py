"""Power losses while checkpoints are saved: what was safe must be there afterwards, whole and unchanged."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from llmguard_core.checkpoints import atomic_folder, checkpoints, newest, verify
from llmguard_core.checkpoints.folder import remove_folder
from support.checkpoint_files import is_exactly, write_checkpoint
from support.lost_writes import Recorder

__all__ = ["power_losses", "save"]


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
