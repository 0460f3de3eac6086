"""TRL cuts rows at 1024 tokens unless it is told otherwise.

Symptom: long answers end in mid-sentence after training, although nobody has set a length.
Severity: high
Cause: SFTConfig's max_length is 1024 by default, whatever context the model has; it was the model's context before.
First seen: https://github.com/huggingface/trl/issues/2400
Cost: the ends of all long rows, their terminators with them.
Check: max_length_agrees_with_the_project, trainer_agrees_about_max_length
Lesson: a length that cuts data is written down in one place, and compared with what the Trainer really has.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from support.importing import imported

from llmguard import max_length_agrees_with_the_project, require, trainer_agrees_about_max_length
from llmguard.errors import CheckFailed
from llmguard.project import load_project

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:`gradient_checkpointing`:FutureWarning"
)
WANTED, DEFAULT = 4096, 1024
PROJECT = '[data]\ntrain = "train.jsonl"\n[pipeline]\nmax_length = 4096\n'


def broken() -> dict[str, Any]:
    """Everything but the length."""
    return {
        "output_dir": "out", "completion_only_loss": True, "dataset_num_proc": 1, "packing": False, "learning_rate": 1e-5,
        "per_device_train_batch_size": 4, "num_train_epochs": 3,
    }  # fmt: skip


def fixed() -> dict[str, Any]:
    """And the length."""
    return {**broken(), "max_length": WANTED}


def _arguments(config: dict[str, Any], folder: Path) -> Any:
    told = {**config, "output_dir": str(folder), "report_to": [], "use_cpu": True, "bf16": False}
    return imported("trl").SFTConfig(**told)


def test_witness(tmp_path: Path) -> None:
    """What TRL makes of both."""
    assert _arguments(broken(), tmp_path).max_length == DEFAULT
    assert _arguments(fixed(), tmp_path).max_length == WANTED


def _of_config(folder: Path, config: dict[str, Any]) -> Any:
    imported("trl")
    (folder / "sft.yaml").write_text(yaml.safe_dump(config), "utf-8")
    return max_length_agrees_with_the_project(folder / "sft.yaml", WANTED)


def _of_trainer(folder: Path, config: dict[str, Any]) -> Any:
    (folder / "train.jsonl").touch()
    (folder / "llmguard.toml").write_text(PROJECT, "utf-8")
    arguments = {"max_length": _arguments(config, folder).max_length}
    return trainer_agrees_about_max_length({"arguments": arguments}, load_project(folder / "llmguard.toml"))


def test_check_rejects(tmp_path: Path) -> None:
    """In the config, which says nothing; and in the Trainer's own arguments."""
    with pytest.raises(
        CheckFailed, match="max_length is not set, and trl cuts at its default of 1024 tokens"
    ):
        require(_of_config(tmp_path, broken()), strict=True)
    with pytest.raises(CheckFailed, match="the Trainer cuts rows at 1024 tokens"):
        require(_of_trainer(tmp_path, broken()))


def test_check_accepts(tmp_path: Path) -> None:
    """The length, said."""
    require(_of_config(tmp_path, fixed()), strict=True)
    require(_of_trainer(tmp_path, fixed()), strict=True)
