"""YAML reads `no` as False, and a strategy that is called "no" is gone.

Symptom: ValueError: False is not a valid SaveStrategy; or a wrapper that takes False for "not said" saves and evaluates all the same.
Severity: medium
Cause: in YAML 1.1 no, off, yes and on are booleans; the names of transformers' strategies are not quoted in the config.
First seen: https://github.com/axolotl-ai-cloud/axolotl/pull/1653
Cost: a start for nothing, or a disk full of checkpoints that nobody wanted.
Check: every_config_value_has_its_type
Lesson: quote words in YAML that are also switches, and judge the types of a config before anything is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from llmguard import every_config_value_has_its_type, require
from llmguard.errors import CheckFailed
from llmguard_core.config import make_config
from llmguard_core.errors import SettingsError

TEXT = "output_dir: {folder}\nsave_strategy: {word}\n"


def broken(text: str) -> Any:
    """The script: whatever is in the file goes to the Trainer's arguments."""
    from transformers import TrainingArguments

    return TrainingArguments(**yaml.safe_load(text), report_to=[], use_cpu=True)


def fixed(text: str) -> Any:
    """The core's settings of a schedule: a word is a word there, and is refused by name where a switch stands."""
    return make_config({"train": yaml.safe_load(text)}).train.scheduler


def test_witness(tmp_path: Path) -> None:
    """Unquoted it is False, which is no strategy; quoted it is the word. The core says what it is before anything is made."""
    with pytest.raises(ValueError, match="False is not a valid"):
        broken(TEXT.format(folder=tmp_path, word="no"))
    assert broken(TEXT.format(folder=tmp_path, word='"no"')).save_strategy == "no"
    with pytest.raises(SettingsError, match=r"train\.scheduler"):
        fixed("scheduler: off")
    assert fixed("scheduler: constant") == "constant"


@pytest.mark.parametrize("word", ["no", "off", "No"])
def test_check_rejects(tmp_path: Path, word: str) -> None:
    """With what it became, and the names that there are."""
    (tmp_path / "run.yaml").write_text(TEXT.format(folder="out", word=word), "utf-8")
    with pytest.raises(CheckFailed, match="it is False where a name is needed"):
        require(every_config_value_has_its_type(tmp_path / "run.yaml"))


@pytest.mark.parametrize("word", ['"no"', "steps", "epoch"])
def test_check_accepts(tmp_path: Path, word: str) -> None:
    """Words."""
    (tmp_path / "run.yaml").write_text(TEXT.format(folder="out", word=word), "utf-8")
    require(every_config_value_has_its_type(tmp_path / "run.yaml"), strict=True)
