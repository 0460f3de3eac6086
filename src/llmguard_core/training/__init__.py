"""Training through transformers' Trainer and TRL's DPOTrainer: exact loss, guarded steps, nothing NaN ever saved.

    from llmguard_core.training import Guards
    Trainer(..., callbacks=[Guards()])      # the guards alone, for any Trainer

Importing this package loads no torch: each name loads its module when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "Alarm": "alarms",
    "CoreTrainer": "trainer",
    "Guards": "guards",
    "Limits": "alarms",
    "Monitor": "monitoring",
    "TrainResult": "run",
    "Watchdog": "heartbeat",
    "classify": "oom",
    "dpo": "preferences",
    "halving": "oom",
    "is_oom": "oom",
    "sft": "run",
    "train": "run",
}

__all__ = [
    "Alarm", "CoreTrainer", "Guards", "Limits", "Monitor", "TrainResult", "Watchdog", "classify", "dpo", "halving", "is_oom", "sft",
    "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
