"""What a setting must be: its kind, its range, and why that matters; one line a setting, used for configs and for sources."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["RULES", "STRATEGIES", "Rule"]


@dataclass(frozen=True)
class Rule:
    """One setting.

    `kind`: `int`, `float`, `steps` (a whole number, or a share below 1), `bool`, `choice` or `text`. `low` and `high` are inside the
    range unless `open_low`/`open_high`; `required`: None is no value for it; `library`: the range holds only where a training
    library reads the file, a user's own config may mean something else.
    """

    kind: str
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    required: bool = False
    library: bool = False
    choices: tuple[str, ...] = ()
    why: str = ""
    remedy: str = ""

    @property
    def range(self) -> str:
        """`1e-06 to 0.01`, `more than 0`, …"""
        low, high = f"{self.low:g}", f"{self.high:g}"
        if math.isinf(self.high):
            return f"more than {low}" if self.open_low else f"{low} or more"
        upper = f"less than {high}" if self.open_high else high
        return f"more than {low}, up to {upper}" if self.open_low else f"{low} to {upper}"

    def holds(self, value: float) -> bool:
        """Whether a number is in range; NaN never is."""
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)


STRATEGIES = ("no", "steps", "epoch")
_WIDE = (
    "a share of the steps or of the weights outside its range is refused, or silently trains something else"
)
_LENGTH = "a short limit cuts the responses and their terminators away, a long one runs out of memory"
_STEP = "the optimizer step is made of batch size times accumulation: 0 trains nothing, a huge one runs out of memory"
_STRATEGY = "the strategy decides whether anything is saved or evaluated at all"

RULES: dict[str, Rule] = {
    "learning_rate": Rule("float", 1e-6, 1e-2, required=True,
                          why="0 trains nothing, a tiny rate almost nothing, a large one makes the loss diverge"),
    "per_device_train_batch_size": Rule("int", 1, 128, required=True, why=_STEP),
    "per_device_eval_batch_size": Rule("int", 1, why="evaluation needs at least one row a batch"),
    "batch_size": Rule("int", 1, 128, required=True, why=_STEP),
    "gradient_accumulation_steps": Rule("int", 1, 128, required=True, why=_STEP),
    "num_train_epochs": Rule("float", 0, open_low=True, required=True,
                             why="the Trainer compares it with 0 and multiplies the steps of an epoch by it"),
    "max_steps": Rule("int", -1, library=True, why="it replaces the number of epochs; -1 leaves it to them"),
    "max_length": Rule("int", 128, 32768, why=_LENGTH),
    "lora_r": Rule("int", 1, 1024, why="rank 0 adapts nothing, a huge rank is a full matrix"),
    "lora_alpha": Rule("float", 0, open_low=True, why="alpha / r scales the adapter: with 0 it changes nothing"),
    "lora_dropout": Rule("float", 0, 1, open_high=True, why="a dropout of 1 drops the whole input of the adapter"),
    "warmup_ratio": Rule("float", 0, 1, why=_WIDE),
    "warmup_steps": Rule("steps", 0, why=_WIDE),
    "weight_decay": Rule("float", 0, 1, why=_WIDE),
    "max_grad_norm": Rule("float", 0, why="gradients are clipped to this norm: a negative one turns them round"),
    "adam_beta1": Rule("float", 0, 1, open_high=True, why=_WIDE),
    "adam_beta2": Rule("float", 0, 1, open_high=True, why=_WIDE),
    "adam_epsilon": Rule("float", 0, 0.01, open_low=True, why="it keeps the update from a division by zero"),
    "label_smoothing_factor": Rule("float", 0, 1, open_high=True, why=_WIDE),
    "neftune_noise_alpha": Rule("float", 0, why="noise of a negative size means nothing"),
    "seed": Rule("int", 0, 2**32 - 1, library=True, why="numpy refuses a seed outside 32 bits"),
    "data_seed": Rule("int", 0, 2**32 - 1, library=True, why="numpy refuses a seed outside 32 bits"),
    "logging_steps": Rule("steps", 0, open_low=True, library=True, why="the Trainer refuses 0 when it logs by steps"),
    "save_steps": Rule("steps", 0, why="checkpoints are written every so many steps"),
    "eval_steps": Rule("steps", 0, why="the evaluation runs every so many steps"),
    "save_total_limit": Rule("int", why="old checkpoints are deleted beyond this number"),
    "dataloader_num_workers": Rule("int", 0, why="it is a number of processes"),
    "val_set_size": Rule("steps", 0, library=True, why="it is a share of the rows, or a number of them"),
    "val_size": Rule("steps", 0, library=True, why="it is a share of the rows, or a number of them"),
    "beta": Rule("float", why="it weighs the preference loss against the reference model"),
    "eval_strategy": Rule("choice", choices=STRATEGIES, why=_STRATEGY),
    "save_strategy": Rule("choice", choices=(*STRATEGIES, "best"), why=_STRATEGY),
    "logging_strategy": Rule("choice", choices=STRATEGIES, library=True, why=_STRATEGY),
    "lr_scheduler_type": Rule("choice", library=True, why="the schedule decides the learning rate of every step"),
    "optim": Rule("choice", library=True, why="the library looks the optimizer up by this name"),
    "flash_attn": Rule("choice", library=True, why="the library looks the attention kernel up by this name"),
    "report_to": Rule("text", library=True, why="the Trainer looks its reporters up by these names"),
    "bf16": Rule("bool", why="a text is true whatever it says"),
    "fp16": Rule("bool", why="a text is true whatever it says"),
    "packing": Rule("bool", why="a text is true whatever it says"),
    "gradient_checkpointing": Rule("bool", why="a text is true whatever it says"),
    "load_best_model_at_end": Rule("bool", why="a text is true whatever it says"),
}  # fmt: skip

WORDS = frozenset({"auto", "none", "full", "half", "unsloth", "offload", "offload_disk", "true", "false"})
"""Texts that some library admits for a switch."""
