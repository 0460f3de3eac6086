"""The test script loads the adapter of the run that failed.

Symptom: after training the model answers exactly as before, or as last week's did; every score is the base model's.
Severity: critical
Cause: a path written into the test script: the folder of a run that ended before its first step, or of one on older data, holds an adapter
    as well, and loading it raises nothing.
First seen: written down by a fine-tuning project as critical; https://github.com/hiyouga/LlamaFactory/issues/6105
Cost: an evaluation that measured the base model, and the doubts about a training that had worked.
Check: adapter_is_trained, adapter_is_newer_than_its_data, adapter_belongs_to_its_base
Lesson: an adapter is identified by what is in it: trained, of this base, newer than its data; a path says nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from support.learning import answer, learnt

from llmguard import adapter_belongs_to_its_base, adapter_is_newer_than_its_data, adapter_is_trained, require
from llmguard.errors import CheckFailed
from llmguard.evidence.adapter import read_adapter
from llmguard.evidence.model import read_model
from llmguard.project import load_project
from llmguard_core.encoding import Encoder
from llmguard_core.errors import LoadRefused
from llmguard_core.formats import format_for
from llmguard_core.loading import load_base

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"
)  # peft asks for it
HOUR = 3600
PROJECT = '[model]\npath = "base"\nkind = "base"\nadapter = "{adapter}"\n[data]\ntrain = "train.jsonl"\n'


def _wrapped(path: Any, seed: int = 0) -> Any:
    """The lab's base model with a fresh adapter of PEFT."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(path)
    told = {"r": 32, "lora_alpha": 64, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    return get_peft_model(base, LoraConfig(**told))


@pytest.fixture(scope="module")
def runs(
    lab_path: Any, tokenizer: Any, rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A project with two runs: one failed before its first step, one learnt all answers; both have saved an adapter."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "train.jsonl").write_text('{"prompt": "What is 1 + 1?", "response": "2"}\n', "utf-8")
    made = _wrapped(lab_path.base)
    made.save_pretrained(folder / "runs" / "monday")
    encoder = Encoder(tokenizer, format_for(tokenizer, "alpaca"))
    tuned = learnt(made, list(encoder.rows(rows)), rate=3e-3)
    tuned.save_pretrained(folder / "runs" / "tuesday")
    return folder


def broken(runs: Path, base: Any) -> Any:
    """The test script: PEFT, and the path that is written there."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), runs / "runs" / "monday")


def fixed(runs: Path, base: Any, run: str = "tuesday") -> Any:
    """The core's: an adapter is looked at before it is put on a model."""
    return load_base(
        base, adapter=runs / "runs" / run, dtype="float32", device="cpu", environment=False
    ).model


def test_witness(runs: Path, lab_path: Any, tokenizer: Any, model: Any, rows: list[dict[str, str]]) -> None:
    """The script's model is the base model to the last bit; the other answers every question."""
    import torch

    prompts = Encoder(tokenizer, format_for(tokenizer, "alpaca")).prompts(rows)
    ids = torch.tensor([prompts[0]])
    with torch.inference_mode():
        assert torch.equal(broken(runs, lab_path.base)(ids).logits, model(ids).logits)
    tuned = fixed(runs, lab_path.base)
    assert [answer(tuned, tokenizer, p) for p in prompts] == [row["response"] for row in rows]


def test_check_rejects(runs: Path, lab_path: Any) -> None:
    """By the values in its file; and the core refuses to load it."""
    with pytest.raises(CheckFailed, match="B matrices are zero: the adapter does nothing"):
        require(adapter_is_trained(read_adapter(runs / "runs" / "monday")))
    with pytest.raises(LoadRefused, match="the adapter does nothing"):
        fixed(runs, lab_path.base, "monday")


def test_check_rejects_what_is_older_than_its_data(runs: Path) -> None:
    """A trained one, of before the data were corrected."""
    project, adapter = _project(runs, "tuesday"), runs / "runs" / "tuesday"
    now = (runs / "train.jsonl").stat().st_mtime
    weights = adapter / "adapter_model.safetensors"
    saved = weights.stat().st_mtime
    os.utime(weights, (now - HOUR, now - HOUR))
    try:
        with pytest.raises(CheckFailed, match="older than the training data"):
            require(adapter_is_newer_than_its_data(read_adapter(adapter), project), strict=True)
    finally:
        os.utime(weights, (saved, saved))


def test_check_rejects_another_base(runs: Path, lab_path: Any, tmp_path: Path) -> None:
    """A trained one, on a base of another width."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(lab_path.base)
    config.hidden_size, config.intermediate_size = 96, 128
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "other")
    adapter = read_adapter(runs / "runs" / "tuesday")
    with pytest.raises(CheckFailed, match="in this model"):
        require(adapter_belongs_to_its_base(adapter, read_model(str(tmp_path / "other"))))


def _project(runs: Path, run: str) -> Any:
    (runs / "llmguard.toml").write_text(PROJECT.format(adapter=f"runs/{run}"), "utf-8")
    return load_project(runs / "llmguard.toml")


def test_check_accepts(runs: Path, lab_path: Any) -> None:
    """The adapter of the run that was meant."""
    adapter = read_adapter(runs / "runs" / "tuesday")
    require(adapter_is_trained(adapter), strict=True)
    require(adapter_belongs_to_its_base(adapter, read_model(str(lab_path.base))), strict=True)
    require(adapter_is_newer_than_its_data(adapter, _project(runs, "tuesday")), strict=True)
