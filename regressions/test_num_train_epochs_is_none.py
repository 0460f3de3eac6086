"""num_train_epochs=None: the Trainer compares None with 0.

Symptom: TypeError: '>' not supported between instances of 'NoneType' and 'int' (or unsupported operand for *), once the model is loaded.
Severity: critical
Cause: num_train_epochs=None beside max_steps, to say that the steps count; the Trainer computes with both.
First seen: written down by a fine-tuning project as critical
Cost: a run that ended before its first step, with the model loaded and the data encoded.
Check: training_arguments_are_valid, every_config_value_has_its_type
Lesson: leave a setting out instead of giving it None, and judge types before the model is loaded.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

from llmguard import every_config_value_has_its_type, require, training_arguments_are_valid
from llmguard.errors import CheckFailed

ROWS = [{"x": [1.0, 2.0], "labels": [0.5]}] * 4


class Line(torch.nn.Module):
    """The smallest thing that a Trainer trains."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.device = torch.nn.Linear(2, 1), torch.device("cpu")

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.layer(x) - labels).square().mean()}


def broken(folder: str, model: Any) -> TrainingArguments:
    """Steps, and None for the epochs that do not count."""
    assert model is not None
    return TrainingArguments(
        output_dir=folder, max_steps=2, num_train_epochs=None, report_to=[], use_cpu=True
    )


def fixed(folder: str, model: Any) -> TrainingArguments:
    """The core's arguments of a run of two steps."""
    from llmguard_core.config import make_config
    from llmguard_core.training.arguments import arguments

    settings = make_config({"train": {"output_dir": folder, "method": "full", "max_steps": 2}}).train
    made: TrainingArguments = arguments(settings, model, validates=False, report_to=[])
    return made


def _train(made: TrainingArguments, model: Line) -> int:
    trainer = Trainer(model=model, args=made, train_dataset=ROWS)
    return int(trainer.train().global_step)


def test_witness(tmp_path: Path) -> None:
    """The arguments are made without a word; the Trainer, which needs the model, raises. The core's train two steps."""
    model = Line()
    made = broken(str(tmp_path), model)
    with pytest.raises(TypeError, match="NoneType"):
        _train(made, model)
    assert _train(fixed(str(tmp_path), model), model) == 2


def _source(folder: Path, text: str) -> Path:
    (folder / "train.py").write_text(f"from transformers import TrainingArguments\n\n\n{text}", "utf-8")
    return folder / "train.py"


def test_check_rejects(tmp_path: Path) -> None:
    """In the call above, as it stands in its source."""
    source = _source(tmp_path, inspect.getsource(broken))
    with pytest.raises(CheckFailed, match="num_train_epochs"):
        require(training_arguments_are_valid(source))


@pytest.mark.parametrize("written", ["null", "None", "'None'"])
def test_check_rejects_in_a_config(tmp_path: Path, written: str) -> None:
    """YAML's null, and the word None, which YAML reads as text."""
    file = tmp_path / "train.yaml"
    file.write_text(f"output_dir: out\nmax_steps: 2\nnum_train_epochs: {written}\n", "utf-8")
    with pytest.raises(CheckFailed, match="`num_train_epochs`"):
        require(every_config_value_has_its_type(file))


def test_check_accepts(tmp_path: Path) -> None:
    """What the core makes, written down as a call and as a config."""
    made = fixed(str(tmp_path), Line())
    values = {n: getattr(made, n) for n in ("max_steps", "num_train_epochs", "learning_rate")}
    text = ", ".join(f"{name}={value!r}" for name, value in values.items())
    found = training_arguments_are_valid(_source(tmp_path, f"made = TrainingArguments('out', {text})\n"))
    require(found, strict=True)
    require(every_config_value_has_its_type({"output_dir": "out", **values}), strict=True)
    assert found.looked_at
