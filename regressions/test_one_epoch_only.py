"""One epoch over a small data set: the run ends while the loss still falls.

Symptom: the responses after training look untrained; the loss was still falling when the run ended.
Severity: high
Cause: 7,888 rows and one epoch, a number of epochs meant for a hundred thousand rows.
First seen: written down by a fine-tuning project as high
Cost: models judged that had hardly been trained.
Check: training_budget_fits_the_data
Lesson: count the optimizer steps of a run before it starts; below 10,000 rows one epoch is few.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmguard import require, training_budget_fits_the_data
from llmguard.errors import CheckFailed

ROWS = 7_888


def broken() -> dict[str, Any]:
    """The config of the run."""
    train = {"method": "full", "learning_rate": 2e-5, "epochs": 1, "batch_size": 8, "accumulation": 2}
    return {"data": {"train": "rows.jsonl"}, "train": train}


def fixed() -> dict[str, Any]:
    """The same with three epochs."""
    return {**broken(), "train": {**broken()["train"], "epochs": 3}}


def steps(config: dict[str, Any]) -> int:
    """Optimizer steps of a run, as the core counts them."""
    from llmguard_core.config import make_config, steps_of

    return steps_of(make_config({"train": config["train"]}).train, ROWS)


def _learnt(count: int, rate: float) -> float:
    """The share of held-out items that a linear model answers after so many steps of 16 rows, its rate decaying to 0."""
    made = np.random.default_rng(0)
    truth, weights = made.normal(size=(128, 64)), np.zeros((128, 64))
    rows, held_out = made.normal(size=(ROWS, 128)), made.normal(size=(2_000, 128))
    answers = np.eye(64)[(rows @ truth).argmax(1)]
    for step in range(count):
        at = np.arange(step * 16, step * 16 + 16) % ROWS
        scores = np.exp(rows[at] @ weights)
        wrong = scores / scores.sum(1, keepdims=True) - answers[at]
        weights -= rate * (1 - step / count) * rows[at].T @ wrong / 16
    return float(((held_out @ weights).argmax(1) == (held_out @ truth).argmax(1)).mean())


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_witness(rate: float) -> None:
    """What 493 steps leave unlearnt, 1,479 steps over the same rows learn, at either rate: the rows had more to teach."""
    assert (steps(broken()), steps(fixed())) == (493, 1_479)
    assert _learnt(steps(fixed()), rate) - _learnt(steps(broken()), rate) > 0.05


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """Write a config beside rows of its number."""
    import yaml

    (tmp_path / "rows.jsonl").write_text('{"prompt": "What is 1 + 1?", "response": "2"}\n' * ROWS, "utf-8")

    def write(config: dict[str, Any]) -> Path:
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(config), "utf-8")
        return tmp_path / "run.yaml"

    return write


def test_check_rejects(written: Any) -> None:
    """A warning with the arithmetic."""
    with pytest.raises(CheckFailed, match=r"1 epochs over 7,888 rows: .*493"):
        require(training_budget_fits_the_data(written(broken())), strict=True)


def test_check_accepts(written: Any) -> None:
    """Three epochs over the same rows."""
    found = training_budget_fits_the_data(written(fixed()))
    require(found, strict=True)
    assert found.looked_at == ROWS
