"""The newest checkpoint is half written, and it is the one that is resumed from.

Symptom: a run that was killed while it saved cannot be resumed: "No such file", "incomplete metadata"; or it starts with a new optimizer.
Severity: high
Cause: transformers' get_last_checkpoint takes the folder with the highest number, whatever is in it.
First seen: transformers 5.23, `get_last_checkpoint`; read and measured there.
Cost: a night until somebody deletes the folder; where only the optimizer's state is missing, the momentum of the run, without a word.
Check: checkpoints_are_whole, llmguard_core.checkpoints.newest, llmguard_core.checkpoints.verify
Lesson: the newest checkpoint is the newest that is whole.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from support.small_runs import trainer_of
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint

from llmguard import checkpoints_are_whole, require
from llmguard.errors import CheckFailed
from llmguard.evidence.checkpoints import Checkpoints, read_checkpoint
from llmguard_core.checkpoints import newest, verify

KILLED = {
    "before the weights": ("config.json",),
    "in the weights": ("config.json", "half of model.safetensors"),
    "before the optimizer": ("config.json", "model.safetensors", "trainer_state.json", "training_args.bin"),
}
"""When the run was killed -> what of the files was there."""


def broken(output_dir: Path) -> str | None:
    """What `resume_from_checkpoint=True` takes."""
    found: str | None = get_last_checkpoint(output_dir)
    return found


def fixed(output_dir: Path) -> str | None:
    """The core's choice."""
    found = newest(output_dir)
    return str(found) if found else None


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of transformers' own Trainer, with two whole checkpoints."""
    folder = tmp_path_factory.mktemp("run")
    trainer_of(folder, steps=4, kind=Trainer, logging_steps=4).train()
    return folder


@pytest.fixture(params=KILLED)
def killed(request: pytest.FixtureRequest, whole: Path, tmp_path: Path) -> Path:
    """The same run, killed while it wrote the second one."""
    shutil.copytree(whole, tmp_path / "run")
    last = tmp_path / "run" / "checkpoint-4"
    for file in last.iterdir():
        if f"half of {file.name}" in KILLED[request.param]:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        elif file.name not in KILLED[request.param]:
            file.unlink()
    return tmp_path / "run"


def test_witness(killed: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The half one is taken: resuming from it fails, or goes on without its optimizer and schedule and says nothing."""
    assert broken(killed) == str(killed / "checkpoint-4")
    assert fixed(killed) == str(killed / "checkpoint-2")
    caplog.clear()
    trainer = trainer_of(killed, steps=5, kind=Trainer)
    has_weights = (killed / "checkpoint-4" / "training_args.bin").exists()
    if has_weights:
        with caplog.at_level(logging.WARNING):
            trainer.train(resume_from_checkpoint=True)
        assert "optimizer" not in caplog.text
        (state,) = {int(s["step"]) for s in trainer.optimizer.state_dict()["state"].values()}
        assert state == 1, "the optimizer's own count of steps has begun anew"
    else:
        with pytest.raises(Exception, match=r"trainer_state|safetensors|header|metadata|checkpoint"):
            trainer.train(resume_from_checkpoint=True)


def test_check_rejects(killed: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With what is missing, in the log and on request; the one before is resumed from."""
    with caplog.at_level(logging.WARNING):
        assert newest(killed) == killed / "checkpoint-2"
    assert "checkpoint-4 is passed over: " in caplog.text
    assert verify(killed / "checkpoint-4")


@pytest.mark.parametrize("killed", [when for when in KILLED if "weights" in when], indirect=True)
def test_check_rejects_before_the_run(killed: Path) -> None:
    """From names, sizes and headers, where a config resumes."""
    with pytest.raises(CheckFailed, match=r"checkpoint-4: .*cannot be resumed from"):
        require(checkpoints_are_whole(_found(killed)))


def _found(folder: Path) -> Checkpoints:
    return Checkpoints([read_checkpoint(folder / f"checkpoint-{step}") for step in (2, 4)], resumed=True)


def test_check_accepts(whole: Path) -> None:
    """Both are whole: the newest is taken."""
    assert fixed(whole) == broken(whole) == str(whole / "checkpoint-4")
    assert verify(whole / "checkpoint-4") == []
    require(checkpoints_are_whole(_found(whole)), strict=True)
