"""Nothing judged the config: its mistakes were found one by one, each after hours.

Symptom: the run ends after hours, at a path that is not there or a batch of 0; corrected, it ends at the next mistake.
Severity: high
Cause: yaml.safe_load and a dictionary: no key, type, range or path was looked at before it was used.
First seen: written down by a fine-tuning project as high
Cost: a night for each mistake of the file.
Check: every_config_key_is_known, every_config_value_is_in_range, every_config_path_exists
Lesson: a config is judged as a whole, in under a second, before anything heavy is imported.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.utils.data import DataLoader

from llmguard import (
    every_config_key_is_known,
    every_config_path_exists,
    every_config_value_is_in_range,
    require,
)
from llmguard.errors import CheckFailed

BAD = """\
model: {path: ./models/bsae}
data: {train: rows.jsonl}
train: {method: lora, learning_rate: 2.0, batch_size: 0, accumulaton: 4}
"""
GOOD = """\
model: {path: ./models/base}
data: {train: rows.jsonl}
train: {method: lora, learning_rate: 2.0e-4, batch_size: 1, accumulation: 1, max_steps: 8, save_steps: 4}
"""
PROGRAM = """
import sys
from llmguard_core.config import SettingsError, load_config
try:
    load_config(sys.argv[1], objective="sft")
except SettingsError as refused:
    print(refused)
print("torch" in sys.modules)
"""


def broken(file: Path) -> dict[str, Any]:
    """What the script did: whatever is in the file."""
    found: dict[str, Any] = yaml.safe_load(file.read_text("utf-8"))
    return found


def fixed(file: Path) -> Any:
    """The core's."""
    from llmguard_core import load_config

    return load_config(file, objective="sft")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a base model and rows, and both configs."""
    (tmp_path / "models" / "base").mkdir(parents=True)
    (tmp_path / "models" / "base" / "config.json").write_text('{"model_type": "llama"}', "utf-8")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "What is 1 + 1?", "response": "2"}\n' * 64, "utf-8")
    (tmp_path / "bad.yaml").write_text(BAD, "utf-8")
    (tmp_path / "good.yaml").write_text(GOOD, "utf-8")
    return tmp_path


def _run(config: dict[str, Any], project: Path, done: list[str]) -> None:
    """The order of every training script: data, model, loader."""
    rows = (project / config["data"]["train"]).read_text("utf-8").splitlines()
    done.append("rows")
    if not (project / config["model"]["path"]).is_dir():
        raise FileNotFoundError(config["model"]["path"])
    done.append("model")
    DataLoader(rows, batch_size=config["train"]["batch_size"])


def test_witness(project: Path) -> None:
    """The broken reader takes the file; the mistakes come out one a run, each later than the one before."""
    config, done = broken(project / "bad.yaml"), list[str]()
    with pytest.raises(FileNotFoundError, match="bsae"):
        _run(config, project, done)
    config["model"]["path"] = "./models/base"
    with pytest.raises(ValueError, match="batch_size should be a positive integer"):
        _run(config, project, done)
    assert done == ["rows", "rows", "model"]


def test_check_rejects(project: Path) -> None:
    """The core refuses it with all four mistakes at once, and no torch was loaded for that; the checks name them, too."""
    argv = [sys.executable, "-c", PROGRAM, str(project / "bad.yaml")]
    told = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout
    assert told.endswith("False\n")
    for mistake in ("model.path", "train.learning_rate", "train.accumulaton", "train.batch_size"):
        assert f"`{mistake}`" in told
    for check, said in ((every_config_path_exists, "bsae"), (every_config_value_is_in_range, "batch_size")):
        with pytest.raises(CheckFailed, match=said):
            require(check(project / "bad.yaml"))


def test_check_rejects_a_misspelt_key(project: Path) -> None:
    """In a config of transformers, where the argument parser may or may not complain."""
    (project / "hf.yaml").write_text(
        "output_dir: out\nlearning_rate: 2.0e-4\nper_device_train_batch_size: 4\nnum_train_epochs: 3\ngradient_accumulaton_steps: 4\n"
    )
    with pytest.raises(CheckFailed, match="gradient_accumulation_steps"):
        require(every_config_key_is_known(project / "hf.yaml"))


def test_check_accepts(project: Path) -> None:
    """The config as it was meant."""
    assert fixed(project / "good.yaml").train.max_steps == 8
    for check in (every_config_path_exists, every_config_value_is_in_range, every_config_key_is_known):
        require(check(project / "good.yaml"), strict=True)
