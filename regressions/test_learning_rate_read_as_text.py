"""YAML reads 1e-4 as text, and the optimizer is given a word.

Symptom: TypeError: '<=' not supported between instances of 'float' and 'str', once model and data are loaded.
Severity: medium
Cause: YAML 1.1 wants a dot in a number with an exponent: `1e-4` is a string, `1.0e-4` is a number.
First seen: https://github.com/hiyouga/LlamaFactory/issues/4014
Cost: a start for nothing; where a script compares instead of computing, a run with another rate.
Check: every_config_value_has_its_type, training_arguments_are_valid
Lesson: judge the types of a config before anything is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from llmguard import every_config_value_has_its_type, require, training_arguments_are_valid
from llmguard.errors import CheckFailed
from llmguard_core.config import make_config
from llmguard_core.errors import SettingsError

TEXT = "output_dir: out\nlearning_rate: {rate}\n"


def broken(text: str) -> Any:
    """The script's reader."""
    return yaml.safe_load(text)["learning_rate"]


def fixed(text: str) -> float:
    """The core's."""
    return float(make_config({"train": yaml.safe_load(text)}).train.learning_rate)


def test_witness() -> None:
    """It is a text; the optimizer raises, where the number makes an optimizer."""
    import torch

    weights = [torch.nn.Parameter(torch.ones(2))]
    rate = broken(TEXT.format(rate="1e-4"))
    assert rate == "1e-4"
    with pytest.raises(TypeError, match="'float' and 'str'"):
        torch.optim.AdamW(weights, lr=rate)
    with pytest.raises(SettingsError, match='the text "1e-4", not a number'):
        fixed(TEXT.format(rate="1e-4"))
    assert torch.optim.AdamW(weights, lr=fixed(TEXT.format(rate="1.0e-4"))).defaults["lr"] == 1e-4


def test_check_rejects(tmp_path: Path) -> None:
    """In a config; and in a call that was written with it."""
    (tmp_path / "run.yaml").write_text(TEXT.format(rate="1e-4"), "utf-8")
    with pytest.raises(CheckFailed, match='it is the text "1e-4", not a number'):
        require(every_config_value_has_its_type(tmp_path / "run.yaml"))
    source = tmp_path / "train.py"
    source.write_text(
        "from transformers import TrainingArguments\nTrainingArguments('out', learning_rate='1e-4')\n",
        "utf-8",
    )
    with pytest.raises(CheckFailed, match="learning_rate"):
        require(training_arguments_are_valid(source))


@pytest.mark.parametrize("rate", ["1.0e-4", "0.0001", "1"])
def test_check_accepts(tmp_path: Path, rate: str) -> None:
    """Numbers, a whole one included."""
    (tmp_path / "run.yaml").write_text(TEXT.format(rate=rate), "utf-8")
    require(every_config_value_has_its_type(tmp_path / "run.yaml"), strict=True)
