"""DPO's loss stays at 0.6931: its beta is 0.

Symptom: the loss of a preference run is 0.6931 from the first step to the last, all rewards are 0.
Severity: critical
Cause: beta = 0, copied from a GRPO config where it switches a penalty off; DPO multiplies its whole margin by it.
First seen: https://github.com/huggingface/trl/issues/1627
Cost: a preference run that changed nothing.
Check: every_config_value_is_in_range
Lesson: 0.6931 is ln 2, the loss of a model that prefers nothing: look at rewards, and judge beta before the run.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.runs import model
from support.tiny import byte_level

from llmguard import every_config_value_is_in_range, require
from llmguard.errors import CheckFailed
from llmguard_core.config import make_config
from llmguard_core.errors import SettingsError

PAIR = ("what is two?", " one two", " three four")


def broken() -> dict[str, Any]:
    """The settings of the run."""
    return {"output_dir": "out", "beta": 0.0, "loss_type": "sigmoid", "learning_rate": 1e-6}


def fixed() -> dict[str, Any]:
    """The core's default."""
    return {**broken(), "beta": float(make_config({}).dpo.beta)}


def _losses(beta: float) -> list[float]:
    """DPO's loss (Rafailov et al. 2023, equation 7) over steps on one pair, with plain gradient descent."""
    import torch

    policy, reference = model(), model()
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    prompt, *answers = (byte_level()(text)["input_ids"] for text in PAIR)

    def likelihood(net: Any, answer: list[int]) -> Any:
        ids = torch.tensor([prompt + answer])
        told = net(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        return told[range(len(answer)), answer].sum()

    losses = []
    for _ in range(5):
        chosen, rejected = (likelihood(policy, a) - likelihood(reference, a).detach() for a in answers)
        loss = -torch.nn.functional.logsigmoid(beta * (chosen - rejected))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_witness() -> None:
    """ln 2 at each step, to the last digit; with the core's beta it falls."""
    assert _losses(broken()["beta"]) == [pytest.approx(math.log(2), abs=1e-7)] * 5
    losses = _losses(fixed()["beta"])
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses[-1] < 0.5


def _file(folder: Path, config: dict[str, Any]) -> Path:
    file = folder / ("grpo.yaml" if "num_generations" in config else "dpo.yaml")
    file.write_text(yaml.safe_dump(config), "utf-8")
    return file


def test_check_rejects(tmp_path: Path) -> None:
    """In a config of TRL; and in one of the core."""
    with pytest.raises(CheckFailed, match=r"(?s)it is 0 in a preference run.*0\.6931"):
        require(every_config_value_is_in_range(_file(tmp_path, broken())))
    with pytest.raises(SettingsError, match=r"dpo\.beta"):
        make_config({"dpo": {"beta": 0}})


def test_check_accepts(tmp_path: Path) -> None:
    """A beta above nought; and GRPO, where nought is a choice."""
    require(every_config_value_is_in_range(_file(tmp_path, fixed())), strict=True)
    grpo = {"output_dir": "out", "beta": 0.0, "num_generations": 8, "max_completion_length": 64}
    require(every_config_value_is_in_range(_file(tmp_path, grpo)), strict=True)
