"""The run is shorter than the way to its first checkpoint.

Symptom: the run ends early, or is killed near its end, and there is no checkpoint to go on from.
Severity: high
Cause: save_steps at its default of 500, and a run of a few hundred steps.
First seen: https://github.com/huggingface/transformers/issues/12685
Cost: the whole run, at its last step but one.
Check: run_saves_what_it_trains
Lesson: count the steps of a run, and save at least a few times within them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from support.small_runs import At, trainer_of
from transformers import Trainer

from llmguard import require, run_saves_what_it_trains
from llmguard.errors import CheckFailed
from llmguard_core.config import make_config

STEPS, KILLED = 9, 8


class Killed(Exception):
    """The machine goes away."""


def broken() -> dict[str, Any]:
    """The default."""
    return {"output_dir": "out", "max_steps": STEPS, "save_steps": 500, "per_device_train_batch_size": 2}


def fixed() -> dict[str, Any]:
    """What the core's settings say of such a run."""
    settings = make_config({"train": {"max_steps": STEPS, "save_steps": 3}}).train
    return {**broken(), "save_steps": settings.save_steps}


def _left(config: dict[str, Any], folder: Path) -> list[str]:
    """The checkpoints that are there after the run was ended at its last step but one."""

    def end() -> None:
        raise Killed

    more = {
        n: v for n, v in config.items() if n not in ("output_dir", "max_steps", "per_device_train_batch_size")
    }
    trainer = trainer_of(folder, steps=STEPS, kind=Trainer, callbacks=[At(KILLED, end)], **more)
    with pytest.raises(Killed):
        trainer.train()
    return sorted(p.name for p in folder.glob("checkpoint-*"))


def test_witness(tmp_path: Path) -> None:
    """Nothing; against two checkpoints."""
    assert _left(broken(), tmp_path / "broken") == []
    assert _left(fixed(), tmp_path / "fixed") == ["checkpoint-3", "checkpoint-6"]


def _check(folder: Path, config: dict[str, Any]) -> Any:
    (folder / "run.yaml").write_text(yaml.safe_dump(config), "utf-8")
    return run_saves_what_it_trains(folder / "run.yaml")


def test_check_rejects(tmp_path: Path) -> None:
    """With both numbers."""
    with pytest.raises(CheckFailed, match="save_steps is 500, the run has 9 steps"):
        require(_check(tmp_path, broken()), strict=True)


def test_check_accepts(tmp_path: Path) -> None:
    """Three times."""
    require(_check(tmp_path, fixed()), strict=True)
