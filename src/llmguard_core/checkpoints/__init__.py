"""Checkpoints that are whole and verified: saved, chosen, resumed from; importing this loads no torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from llmguard_core.checkpoints.folder import atomic_folder
from llmguard_core.checkpoints.verify import checkpoints, newest, verify

if TYPE_CHECKING:
    from llmguard_core.checkpoints.matching import describe_mismatch, refuse_another_model
    from llmguard_core.checkpoints.signals import SaveOnSignal
    from llmguard_core.checkpoints.trainer import VerifiedTrainer

__all__ = [
    "SaveOnSignal",
    "VerifiedTrainer",
    "atomic_folder",
    "checkpoints",
    "describe_mismatch",
    "newest",
    "refuse_another_model",
    "verify",
]
LATE = {
    "SaveOnSignal": "signals",
    "VerifiedTrainer": "trainer",
    "describe_mismatch": "matching",
    "refuse_another_model": "matching",
}
"""Names whose modules import torch, and the modules."""


def __getattr__(name: str) -> Any:
    if name not in LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{LATE[name]}"), name)
