"""A run's settings as the arguments of the Trainer, whatever version of transformers is installed."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from typing import Any

import torch
from transformers import TrainingArguments

from llmguard_core.errors import SettingsError
from llmguard_core.settings import LoraSettings, TrainSettings

__all__ = ["arguments", "lora_config"]

NO_CLIP = 1e38  # the norm is measured and told, and nothing is cut


def arguments(
    settings: TrainSettings, model: Any, *, validates: bool, kind: type = TrainingArguments, **more: Any
) -> Any:
    """TrainingArguments (or a subclass) of a run; `validates`: there is a validation split, and the best checkpoint is kept."""
    known = {f.name for f in dataclasses.fields(kind)}
    wanted = {
        **_training(settings, known),
        **_moments(settings, validates),
        **_hardware(settings, model, known),
        **more,
    }
    return kind(**{name: value for name, value in wanted.items() if name in known})


def _training(s: TrainSettings, known: set[str]) -> dict[str, Any]:
    if s.warmup_steps is not None:
        warmup: dict[str, Any] = {"warmup_steps": s.warmup_steps}
    else:  # from transformers 5 on, a ratio is warm-up steps below one
        warmup = {"warmup_ratio" if "warmup_ratio" in known else "warmup_steps": s.warmup_ratio}
    optimizer = {"adamw_8bit": "adamw_bnb_8bit", "paged_adamw_8bit": "paged_adamw_8bit"}.get(
        s.optimizer, s.optimizer
    )
    return {
        **warmup, "optim": optimizer, "num_train_epochs": s.epochs, "max_steps": s.max_steps or -1, "learning_rate": s.learning_rate,
        "per_device_train_batch_size": s.batch_size, "per_device_eval_batch_size": s.eval_batch_size or s.batch_size,
        "gradient_accumulation_steps": s.accumulation, "lr_scheduler_type": s.scheduler, "weight_decay": s.weight_decay,
        "max_grad_norm": s.grad_clip or NO_CLIP, "seed": s.seed, "data_seed": s.seed, "dataloader_num_workers": s.workers,
        "remove_unused_columns": False, "prediction_loss_only": True, "label_names": ["labels"],
        "average_tokens_across_devices": False,  # the trainer counts for itself
    }  # fmt: skip


def _moments(s: TrainSettings, validates: bool) -> dict[str, Any]:
    """When to log, evaluate and save. The best checkpoint can be kept only where evaluations and saves fall on the same steps."""
    evaluate = s.eval_steps or s.save_steps
    save = s.save_steps or evaluate
    if validates and evaluate and save and save % evaluate:
        save = evaluate
    return {
        "output_dir": str(s.output_dir), "logging_steps": s.logging_steps, "logging_first_step": True, "logging_nan_inf_filter": False,
        "save_strategy": "steps" if save else "epoch", "save_steps": save or 500, "save_total_limit": s.save_total_limit,
        "eval_strategy": ("steps" if evaluate else "epoch") if validates else "no", "eval_steps": evaluate,
        "load_best_model_at_end": validates, "metric_for_best_model": "eval_loss" if validates else None, "greater_is_better": False,
        "report_to": ["tensorboard"] if importlib.util.find_spec("tensorboard") else "none",
        "disable_tqdm": not sys.stderr.isatty(),
    }  # fmt: skip


def _hardware(s: TrainSettings, model: Any, known: set[str]) -> dict[str, Any]:
    on_cpu = model.device.type == "cpu"  # the loader chose the device
    checkpointing = (
        "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
    )
    return {
        "use_cpu": on_cpu, "bf16": s.dtype == "bfloat16" or (s.dtype == "auto" and _mixed(model)),
        "fp16": s.dtype == "float16" and not on_cpu,
        "dataloader_pin_memory": not on_cpu, checkpointing: s.gradient_checkpointing,
        f"{checkpointing}_kwargs": {"use_reentrant": False} if s.gradient_checkpointing else None,
    }  # fmt: skip


def _mixed(model: Any) -> bool:
    """Whether to compute in bfloat16 where nobody says: on a GPU that has it, when the weights themselves are float32."""
    on_gpu = model.device.type == "cuda" and torch.cuda.is_bf16_supported()
    return bool(on_gpu and model.dtype == torch.float32)


def lora_config(settings: LoraSettings, model: Any) -> Any:
    """A LoraConfig of the `lora` section of a run.

    Raises:
        SettingsError: a target that the model has not; PEFT would leave it out without a word where another one is found.
    """
    from peft import LoraConfig

    modules = dict(model.named_modules())
    unknown = [
        t
        for t in settings.targets
        if t != "all-linear" and not any(f".{n}".endswith(f".{t}") for n in modules)
    ]
    if unknown:
        known = sorted({n.rpartition(".")[2] for n, m in modules.items() if isinstance(m, torch.nn.Linear)})
        raise SettingsError(
            f"the model has no module named {', '.join(map(repr, unknown))}",
            where="lora.targets",
            remedy=f"Its linear layers are {', '.join(known)}; all-linear takes all of them but the head.",
        )
    targets = settings.targets[0] if settings.targets == ["all-linear"] else settings.targets
    return LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=targets, use_rslora=settings.rslora,
        task_type="CAUSAL_LM",
    )  # fmt: skip
