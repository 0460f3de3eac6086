"""Crashes at any point: killed processes, lost writes, flipped bits. The newest whole checkpoint always loads, and is right."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from support.checkpoint_files import is_exactly, write_checkpoint
from support.matrix import fault
from support.power import save

from llmguard_core.checkpoints import newest, verify


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
