"""max_steps is left from a trial run, and the epochs count for nothing.

Symptom: a run of three epochs is over in minutes; the learning rate is still warming up at its end.
Severity: medium
Cause: where max_steps is set the Trainer does not look at num_train_epochs; the warm-up was counted for the epochs.
First seen: https://github.com/vllm-project/speculators/pull/1104; https://github.com/huggingface/trl/issues/455
Cost: a model that has seen a tenth of its data, and is reported as trained for three epochs.
Check: max_steps_agrees_with_epochs, warmup_ends_within_the_run
Lesson: say the length of a run once; and compute its steps from rows and batch before it starts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from support.runs import collate, model, rows

from llmguard import max_steps_agrees_with_epochs, require, warmup_ends_within_the_run
from llmguard.errors import CheckFailed
from llmguard_core.config import make_config

ROWS, EPOCHS, TRIAL, WARMUP = 32, 3, 4, 12
WHOLE = ROWS // 4 * EPOCHS


def broken() -> dict[str, Any]:
    """The config after the trial."""
    return {**fixed(), "max_steps": TRIAL}


def fixed() -> dict[str, Any]:
    """The config as it was meant."""
    return {
        "output_dir": "out", "num_train_epochs": EPOCHS, "per_device_train_batch_size": 4, "learning_rate": 1e-3,
        "warmup_steps": WARMUP, "lr_scheduler_type": "constant_with_warmup",
    }  # fmt: skip


def _trained(config: dict[str, Any], folder: Path) -> tuple[int, float]:
    """Steps that a Trainer does, and the highest learning rate that it reaches, as a share of what the config says."""
    from transformers import Trainer, TrainingArguments

    quiet: dict[str, Any] = {
        "save_strategy": "no", "report_to": [], "use_cpu": True, "disable_tqdm": True, "logging_steps": 1,
        "remove_unused_columns": False, "dataloader_pin_memory": False,
    }  # fmt: skip
    arguments = TrainingArguments(**{**config, **quiet, "output_dir": str(folder)})
    trainer = Trainer(model(), arguments, train_dataset=rows(ROWS), data_collator=collate)
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    return int(trainer.state.global_step), max(rates) / config["learning_rate"]


def test_witness(tmp_path: Path) -> None:
    """Four steps of twenty-four, at a third of the rate at most."""
    steps, reached = _trained(broken(), tmp_path)
    assert steps == TRIAL
    assert reached < 0.4
    steps, reached = _trained(fixed(), tmp_path)
    assert steps == WHOLE
    assert reached == pytest.approx(1)


def _file(folder: Path, config: dict[str, Any]) -> Path:
    (folder / "rows.jsonl").write_text('{"prompt": "what is 1?", "response": "one"}\n' * ROWS, "utf-8")
    (folder / "run.yaml").write_text(
        yaml.safe_dump({**config, "train_file": "rows.jsonl"}, sort_keys=False), "utf-8"
    )
    return folder / "run.yaml"


def test_check_rejects(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With the arithmetic, and with how far the rate gets; the core says so when it reads both."""
    with pytest.raises(
        CheckFailed, match=r"max_steps = 4 overrides num_train_epochs = 3, which is 0\.50 epochs"
    ):
        require(max_steps_agrees_with_epochs(_file(tmp_path, broken())), strict=True)
    with pytest.raises(CheckFailed, match="the warm-up takes 12 of the run's 4 steps"):
        require(warmup_ends_within_the_run(_file(tmp_path, broken())))
    make_config({"train": {"max_steps": 4, "epochs": 3}})
    assert "max_steps 4 wins over epochs 3" in caplog.text


def test_check_accepts(tmp_path: Path) -> None:
    """Epochs alone."""
    require(max_steps_agrees_with_epochs(_file(tmp_path, fixed())), strict=True)
    require(warmup_ends_within_the_run(_file(tmp_path, fixed())), strict=True)
