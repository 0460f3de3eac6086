"""Arguments of a training run that are harmless on a CPU with a few rows: no GPU, no reports, no processes, a folder that goes away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["BATCH", "harmless", "rows_of_steps"]

BATCH, ACCUMULATION = 2, 2
EPOCHS, STEPS = 4, 3
"""What shorter runs are made: two steps must be in it, and a third to go on to."""
GPU_OPTIMIZERS = ("8bit", "4bit", "paged", "bnb", "apex", "npu", "xla", "galore", "apollo", "lomo")
SAFE: dict[str, Any] = {
    "report_to": "none", "push_to_hub": False, "use_cpu": True, "bf16": False, "fp16": False, "tf32": None,
    "bf16_full_eval": False, "fp16_full_eval": False, "torch_compile": False, "torch_compile_backend": None, "torch_compile_mode": None,
    "deepspeed": None, "fsdp_config": None, "parallelism_config": None, "use_liger_kernel": False, "use_vllm": False,
    "dataloader_num_workers": 0, "dataloader_persistent_workers": False, "dataloader_prefetch_factor": None,
    "dataloader_pin_memory": False, "dataloader_multiprocessing_context": None, "dataset_num_proc": None, "auto_find_batch_size": False,
    "save_total_limit": None, "disable_tqdm": True, "resume_from_checkpoint": None, "local_rank": -1,
}  # fmt: skip
"""What arguments are here, where a class has them: nothing of it is a matter of a CPU with a few rows."""
MOST = {
    "per_device_train_batch_size": BATCH,
    "per_device_eval_batch_size": BATCH,
    "gradient_accumulation_steps": ACCUMULATION,
}
TOLD = ("bf16", "fp16", "tf32", "torch_compile", "deepspeed", "fsdp", "use_liger_kernel", "use_vllm", "optim")


def harmless(
    output: Path, note: Callable[[str, Any, Any], None], original: Callable[..., None]
) -> Callable[..., None]:
    """The `__post_init__` of arguments that are harmless here and write into `output`; what is wrong in them stays wrong.

    `note` is told what was another setting, what it was, and what it is here.
    """

    def after(self: Any) -> None:
        for name, value in _harmless(self).items():
            was = getattr(self, name)
            setattr(self, name, value)
            if name in TOLD and was and was != value:
                note(name, getattr(was, "value", was), value)
        self.output_dir = str(output)
        original(self)

    return after


def rows_of_steps(args: Any, steps: int) -> int:
    """Rows that so many optimizer steps train on; those of the largest batch here, where the arguments do not say it."""
    batch, times = (
        getattr(args, n, None) for n in ("per_device_train_batch_size", "gradient_accumulation_steps")
    )
    sizes = [
        n if isinstance(n, int) and n > 0 else most for n, most in ((batch, BATCH), (times, ACCUMULATION))
    ]
    return steps * sizes[0] * sizes[1]


def _harmless(args: Any) -> dict[str, Any]:
    found = {n: v for n, v in SAFE.items() if hasattr(args, n)}
    if hasattr(args, "fsdp"):
        found["fsdp"] = getattr(type(args), "fsdp", None)  # none is written in another way in each version
    for name, most in MOST.items():
        if type(getattr(args, name, None)) is int and getattr(args, name) > most:
            found[name] = most
    epochs, steps = getattr(args, "num_train_epochs", None), getattr(args, "max_steps", None)
    if isinstance(epochs, (int, float)) and 0 < epochs < EPOCHS:
        found["num_train_epochs"] = float(EPOCHS)
    if isinstance(steps, int) and 0 < steps < STEPS:
        found["max_steps"] = STEPS
    optimizer = str(getattr(args.optim, "value", args.optim)) if hasattr(args, "optim") else ""
    if any(word in optimizer for word in GPU_OPTIMIZERS):
        found["optim"] = "adamw_torch"
    return found
