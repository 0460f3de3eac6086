"""Small training runs on a CPU: a random model of two layers with dropout, a few rows, transformers' Trainer made safe."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
import transformers
from packaging.version import Version
from transformers import TrainerCallback, TrainingArguments, set_seed

from llmguard_core.checkpoints import VerifiedTrainer

__all__ = ["ARCHITECTURES", "At", "model_of", "rows", "trainer_of", "weights_hash"]

VOCABULARY, LENGTH = 48, 8
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "attention_dropout": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Llama": {"num_key_value_heads": 2},
    "Qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "GPTNeoX": {"hidden_dropout": 0.2},
    "Mixtral": {"num_key_value_heads": 2, "num_local_experts": 4},
}
"""Tied weights, dropout of other kinds, and weights that transformers 5 saves in another layout than it holds them in."""


def model_of(architecture: str = "Llama", **other: Any) -> Any:
    """A random model, always the same one."""
    set_seed(7)
    config = getattr(transformers, f"{architecture}Config")
    sizes = {**SIZES, **ARCHITECTURES[architecture], **other}
    return getattr(transformers, f"{architecture}ForCausalLM")(config(**sizes))


ROWS = 22 if Version(transformers.__version__) >= Version("4.46") else 24
"""Eleven batches an epoch, the last step of one alone; 4.45 counts batches over epochs, and resumes wrongly from such a rest."""


def rows(count: int = ROWS) -> list[dict[str, torch.Tensor]]:
    """Token ids to train on, always the same ones."""
    draw = torch.Generator().manual_seed(11)
    ids = [torch.randint(3, VOCABULARY, (LENGTH,), generator=draw) for _ in range(count)]
    return [{"input_ids": each, "labels": each.clone()} for each in ids]


def trainer_of(
    output: Path,
    *,
    model: Any = None,
    steps: int = 9,
    callbacks: Any = (),
    kind: Any = VerifiedTrainer,
    **more: Any,
) -> Any:
    """A Trainer of two rows a batch and two batches a step: six steps an epoch of 22 rows, the last one of a single batch."""
    settings: dict[str, Any] = {
        "max_steps": steps,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "lr_scheduler_type": "cosine",
        "save_steps": 2,
        "logging_steps": 1,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 3,
        **more,
    }
    arguments = TrainingArguments(str(output), **settings)
    return kind(
        model=model if model is not None else model_of(),
        args=arguments,
        train_dataset=rows(),
        eval_dataset=rows(4),
        callbacks=list(callbacks),
    )


def weights_hash(model: Any) -> str:
    """SHA-256 over the name and the bytes of every tensor."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class At(TrainerCallback):
    """Do something at the end of one step."""

    def __init__(self, step: int, do: Any) -> None:
        self.step, self.do = step, do

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step == self.step:
            self.do()
