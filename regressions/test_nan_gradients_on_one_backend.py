"""Gradients are NaN on one backend, and the log shows a loss of 0.0.

Symptom: the loss collapses to 0.0 and stays there, as if everything were learnt; the saved model writes one token for ever.
Severity: critical
Cause: a kernel of one backend (MPS) gives NaN where the CPU gives numbers; the Trainer's `logging_nan_inf_filter`, which is on by default,
    puts the loss of such steps down as nothing, and the optimizer makes every weight NaN.
First seen: written down by a fine-tuning project as critical (MPS); https://github.com/pytorch/pytorch/issues/167515
Cost: a finished run whose weights are all NaN, and its log says that it went well.
Check: dry_run_loss_is_finite, adapter_is_trained, llmguard_core.Guards
Lesson: a loss of exactly 0.0 is no success: look at loss and gradients before each optimizer step, not at the log.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs import collate, model, rows
from transformers import Trainer, TrainingArguments

from llmguard import adapter_is_trained, dry_run_loss_is_finite, require
from llmguard.errors import CheckFailed
from llmguard.evidence.adapter import read_adapter
from llmguard_core.errors import TrainingStopped
from llmguard_core.training import Guards

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"
)  # peft asks for it
STEPS, FIRST = 6, 3


class Backend(torch.autograd.Function):
    """A kernel that is right forwards, and whose backward gives NaN: as that of a backend that nobody tested."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0] * math.nan


def broken(folder: Path, net: Any, callbacks: Any = ()) -> Trainer:
    """A Trainer with its usual settings, on that backend from the third step on."""
    arguments = TrainingArguments(
        str(folder), max_steps=STEPS, per_device_train_batch_size=4, learning_rate=1e-3, logging_steps=1, save_strategy="no",
        report_to=[], use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False, remove_unused_columns=False,
    )  # fmt: skip
    trainer = Trainer(
        net, arguments, train_dataset=rows(32), data_collator=collate, callbacks=list(callbacks)
    )

    def called(layer: Any, given: Any, output: Any) -> Any:
        return (
            Backend.apply(output)
            if trainer.state.global_step >= FIRST and torch.is_grad_enabled()
            else output
        )

    net.get_output_embeddings().register_forward_hook(called)
    return trainer


def fixed(folder: Path, net: Any, guards: Guards) -> Trainer:
    """The same with the core's guards."""
    return broken(folder, net, [guards])


def _finite(net: Any) -> bool:
    return all(bool(torch.isfinite(p).all()) for p in net.parameters())


def test_witness(tmp_path: Path) -> None:
    """The run ends without a word; from then on its log shows 0.0, and every weight is NaN."""
    net = model()
    trainer = broken(tmp_path, net)
    assert trainer.args.logging_nan_inf_filter
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert min(losses[: FIRST + 1]) > 1
    assert losses[FIRST + 1 :] == [0.0] * (STEPS - FIRST - 1)
    assert not any(bool(torch.isfinite(p).all()) for p in net.parameters())


def test_check_rejects(tmp_path: Path) -> None:
    """In the step in which it happens, before the optimizer takes it; the batch is on the disk."""
    net, guards = model(), Guards()
    trainer = fixed(tmp_path, net, guards)
    with pytest.raises(TrainingStopped, match=r"a gradient is nan \(the log would have shown it as 0\.0"):
        trainer.train()
    assert trainer.state.global_step == FIRST
    assert _finite(net)
    (written,) = tmp_path.glob("stopped-at-step-*.json")
    assert len(json.loads(written.read_text("utf-8"))["rows"]) == 4


def test_check_rejects_in_a_dry_run(tmp_path: Path) -> None:
    """What a few steps beforehand show: the losses are numbers, and a gradient is not."""
    with pytest.raises(CheckFailed, match="gradient norm"):
        require(dry_run_loss_is_finite(_seen(broken(tmp_path, model()))))


def _seen(trainer: Trainer) -> dict[str, Any]:
    """What a dry run sees of a Trainer's steps before their losses are NaN as well."""
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry][: FIRST + 1]
    return {"train": {"losses": [entry["loss"] for entry in logs], "logs": logs}}


def test_check_rejects_what_was_saved(tmp_path: Path) -> None:
    """Where such a run has saved an adapter, its values tell."""
    from peft import LoraConfig, get_peft_model

    net = get_peft_model(model(), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    broken(tmp_path, net).train()
    net.save_pretrained(tmp_path / "adapter")
    with pytest.raises(CheckFailed, match="hold NaN or infinite values"):
        require(adapter_is_trained(read_adapter(tmp_path / "adapter")))


def test_check_accepts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a backend whose kernel is right the guards let the run through."""
    monkeypatch.setattr(Backend, "backward", staticmethod(lambda ctx, *gradients: gradients[0]))
    net, guards = model(), Guards()
    trainer = fixed(tmp_path, net, guards)
    assert trainer.train().global_step == STEPS
    assert guards.alarms == []
    assert _finite(net)
    require(dry_run_loss_is_finite(_seen(broken(tmp_path, model()))), strict=True)
