"""Guarded runs of transformers' own Trainer on tiny models, whose loss is made what a test wants it to be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from llmguard_core.training import Guards
from support.runs import collate, model, rows
from support.tiny import byte_level

__all__ = ["DATA", "finite", "from_step", "kinds", "trainer_of"]

DATA = rows(32)

Change = Callable[[torch.Tensor, int], torch.Tensor]


class Changed(Trainer):  # type: ignore[misc]  # transformers ships no types
    """A Trainer of somebody else that makes another loss of what the model gives: no hook on the model sees it."""

    outside: Change | None = None

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        found = super().compute_loss(*args, **kwargs)
        if self.outside is None or isinstance(found, tuple):
            return found
        return self.outside(found, self.state.global_step)


def trainer_of(
    folder: Path,
    guards: Guards,
    *,
    change: Change | None = None,
    outside: Change | None = None,
    data: Any = DATA,
    net: Any = None,
    **told: Any,
) -> Any:
    """transformers' own Trainer with the guards as a callback."""
    usual = {
        "max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "use_cpu": True, "report_to": "none", "logging_steps": 1,
        "save_strategy": "no", "disable_tqdm": True, "dataloader_pin_memory": False, "remove_unused_columns": False,
    }  # fmt: skip
    callbacks = [guards, *told.pop("callbacks", [])]
    validation = told.pop("validation", None)
    made = Changed(
        net or model(), TrainingArguments(str(folder), **{**usual, **told}), train_dataset=data, eval_dataset=validation,
        data_collator=collate, callbacks=callbacks, processing_class=byte_level(),
    )  # fmt: skip
    made.outside = outside

    def changed(module: Any, args: Any, output: Any) -> None:
        if torch.is_grad_enabled():
            output["loss"] = change(output["loss"], made.state.global_step) if change else output["loss"]

    if change is not None:
        made.model.register_forward_hook(changed)
    return made


def kinds(guards: Guards) -> list[str]:
    """The kinds of alarms, in order."""
    return [a.kind for a in guards.alarms]


def from_step(step: int, to: Any) -> Any:
    """A change of the loss from a step on."""
    return lambda loss, now: to(loss) if now >= step else loss


def finite(net: Any) -> bool:
    """Whether all weights are."""
    return all(bool(torch.isfinite(p).all()) for p in net.parameters())
