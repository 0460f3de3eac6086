"""A bit of a checkpoint has changed on the disk, and it loads without an error.

Symptom: a copied or resumed checkpoint answers nonsense, or a little worse, and every tool that opens it is content.
Severity: high
Cause: safetensors has no checksums: a header, and bytes as they are; a bad disk, a copy that was cut and filled up, or bad memory shows in
    the values alone.
First seen: safetensors as installed, measured here
Cost: a result that cannot be had again, and a search in the training code for what lies in the storage.
Check: llmguard_core.checkpoints.verify, llmguard_core.checkpoints.newest
Lesson: hash what is written at the moment it is written, and compare before it is used.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.small_runs import model_of, trainer_of
from transformers import Trainer

from llmguard_core.checkpoints import newest, verify

EXPONENT = 0x40
"""A bit of a float's exponent: 0.1 becomes 3e37."""


def broken(folder: Path) -> Path:
    """A checkpoint as transformers' own Trainer saves it."""
    return _trained(folder, Trainer)


def fixed(folder: Path) -> Path:
    """A checkpoint of the core: with the hash of every file."""
    from llmguard_core.checkpoints import VerifiedTrainer

    return _trained(folder, VerifiedTrainer)


def _trained(folder: Path, kind: Any) -> Path:
    trainer_of(folder, steps=2, kind=kind, logging_steps=2).train()
    return folder / "checkpoint-2"


def flip(checkpoint: Path) -> Path:
    """One bit in the middle of the weights."""
    file = checkpoint / "model.safetensors"
    changed = bytearray(file.read_bytes())
    changed[-len(changed) // 2 // 4 * 4 - 1] ^= EXPONENT
    file.write_bytes(changed)
    return checkpoint


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both checkpoints, untouched; a test that flips a bit takes a copy."""
    folder = tmp_path_factory.mktemp("runs")
    return {made.__name__: made(folder / made.__name__) for made in (broken, fixed)}


def _copy(saved: dict[str, Path], name: str, folder: Path) -> Path:
    shutil.copytree(saved[name].parent, folder / name)
    return folder / name / "checkpoint-2"


def test_witness(saved: dict[str, Path], tmp_path: Path) -> None:
    """Everything loads, one number is another, and the loss is."""
    right, wrong = saved["broken"], flip(_copy(saved, "broken", tmp_path))
    one, other = (load_file(each / "model.safetensors") for each in (right, wrong))
    assert sum(int((one[name] != other[name]).sum()) for name in one) == 1
    batch = {"input_ids": torch.arange(3, 11)[None], "labels": torch.arange(3, 11)[None]}
    losses = []
    for state in (one, other):
        model = model_of().eval()
        model.load_state_dict(state)
        losses.append(float(model(**batch).loss.detach()))
    assert losses[0] != losses[1]


def test_witness_of_the_format(tmp_path: Path) -> None:
    """No file of safetensors tells, whoever wrote it: there is no field for it."""
    save_file({"a": torch.ones(1000)}, tmp_path / "model.safetensors")
    assert set(load_file(flip(tmp_path) / "model.safetensors")["a"].tolist()) != {1.0}


def test_check_rejects(saved: dict[str, Path], tmp_path: Path) -> None:
    """By the hash in the manifest; and it is not resumed from."""
    checkpoint = flip(_copy(saved, "fixed", tmp_path))
    (problem,) = verify(checkpoint)
    assert problem.startswith("model.safetensors: ")
    assert newest(checkpoint.parent) is None


def test_check_accepts(saved: dict[str, Path]) -> None:
    """As it was saved; without a manifest, too, where nothing can be said against it."""
    assert verify(saved["fixed"]) == []
    assert newest(saved["fixed"].parent) == saved["fixed"]
    assert verify(saved["broken"]) == []
