"""Every error of the core: each message says where, what with numbers, why it matters, and what to do.

LLMGuardError
└── CoreError
    ├── LoadRefused           a model, tokenizer or adapter that is not what was asked for
    ├── SettingsError         a run's settings: every problem at once, each with file, line and column
    ├── DataRefused           training rows that cannot be trained on
    ├── TrainingStopped       a guard stopped a run: the step, the reason, where the evidence was written
    ├── OutOfMemory           no memory left: what was asked for, what there is, what helps
    ├── CheckpointError       a checkpoint that is incomplete, damaged or another model's
    └── QueueError            a queue that another daemon holds, or that cannot be worked on
"""

from __future__ import annotations

from llmguard.errors import LLMGuardError

__all__ = [
    "CheckpointError",
    "CoreError",
    "DataRefused",
    "LoadRefused",
    "OutOfMemory",
    "QueueError",
    "SettingsError",
    "TrainingStopped",
]


class CoreError(LLMGuardError):
    """The root of the core's errors; `where` is the file, folder or step, `remedy` what to do next."""

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what, self.where, self.remedy = what, where, remedy
        super().__init__("\n".join(p for p in (f"{where}: {what}" if where else what, remedy) if p))


class LoadRefused(CoreError):
    """A model, tokenizer or adapter is not what was asked for."""


class SettingsError(CoreError):
    """The settings of a run cannot be used; `what` holds one line for each problem."""


class DataRefused(CoreError):
    """Training or evaluation rows cannot be used."""


class TrainingStopped(CoreError):
    """A guard stopped a run; nothing was saved after the fault."""

    def __init__(self, what: str, *, step: int, where: str = "", remedy: str = "") -> None:
        self.step = step
        super().__init__(what, where=where or f"step {step}", remedy=remedy)


class OutOfMemory(CoreError):
    """There is no memory left for what was asked."""


class CheckpointError(CoreError):
    """A checkpoint is incomplete, damaged, or another model's."""


class QueueError(CoreError):
    """A queue is held by another daemon, or cannot be worked on."""
