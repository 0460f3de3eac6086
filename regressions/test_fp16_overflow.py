"""fp16 for a model whose weights are bfloat16: values go beyond what fp16 holds.

Symptom: the loss is nan after some steps, or from the first one; the adapter that was saved is empty or NaN.
Severity: high
Cause: `fp16: true` from an older GPU's config; bfloat16 reaches 3e38 and fp16 65,504, and activations of such models use it.
First seen: https://github.com/huggingface/transformers/issues/25021
Cost: runs that end in NaN, and learning rates lowered for nothing.
Check: precision_settings_agree
Lesson: train in the precision that the weights were made in; where the GPU has no bfloat16, watch the loss.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.runs import model, rows

from llmguard import precision_settings_agree, require
from llmguard.errors import CheckFailed

LARGE = 2e4
"""How much larger some channels of a bfloat16 model's activations are."""


def broken() -> dict[str, Any]:
    """The config of the older GPU."""
    return {"model_name_or_path": "base", "output_dir": "out", "fp16": True, "per_device_train_batch_size": 4}


def fixed() -> dict[str, Any]:
    """bfloat16, as the weights are."""
    return {**{n: v for n, v in broken().items() if n != "fp16"}, "bf16": True}


def _loss(config: dict[str, Any]) -> float:
    """The loss of one row under the config's precision, of a model with a few large channels."""
    net = model().eval()
    with torch.no_grad():
        net.model.layers[0].mlp.down_proj.weight[:4] *= LARGE
        net.model.layers[0].mlp.up_proj.weight *= LARGE
    dtype = torch.float16 if config.get("fp16") else torch.bfloat16
    row = rows(1)[0]
    batch = {name: torch.tensor([row[name]]) for name in ("input_ids", "labels")}
    with torch.inference_mode():
        return float(net.to(dtype)(**batch).loss)


def test_witness() -> None:
    """One row, one model, two precisions: no number, and a number."""
    assert not torch.isfinite(torch.tensor(_loss(broken())))
    assert torch.isfinite(torch.tensor(_loss(fixed())))


def _check(folder: Path, config: dict[str, Any], dtype: str) -> Any:
    (folder / "base").mkdir(exist_ok=True)
    (folder / "base" / "config.json").write_text(
        json.dumps({"model_type": "llama", "torch_dtype": dtype}), "utf-8"
    )
    (folder / "run.yaml").write_text(yaml.safe_dump(config), "utf-8")
    return precision_settings_agree(folder / "run.yaml")


def test_check_rejects(tmp_path: Path) -> None:
    """By the model's own config."""
    with pytest.raises(CheckFailed, match="fp16 is true for a model whose weights are bfloat16"):
        require(_check(tmp_path, broken(), "bfloat16"), strict=True)


def test_check_accepts(tmp_path: Path) -> None:
    """bfloat16 for it; and fp16 for a model of fp16."""
    require(_check(tmp_path, fixed(), "bfloat16"), strict=True)
    require(_check(tmp_path, broken(), "float16"), strict=True)
