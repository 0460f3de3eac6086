"""The compact training and evaluation core: load, format, encode, train, evaluate, compare. It trusts nothing.

Importing this package loads the standard library alone; every name below is imported when it is first used:

    from llmguard_core import Encoder, evaluate, format_for, load_base, train

    base = load_base("models/base")                       # no template, no instruct model taken for a base, nothing downloaded
    encoder = Encoder(base.tokenizer, format_for(base.tokenizer, "alpaca", "base"), max_length=512)
    result = train(base.model, base.tokenizer, encoder.rows(rows), settings)

Whole runs from a config: `python -m llmguard_core sft --config run.yaml`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmguard_core.checkpoints import newest as newest
    from llmguard_core.checkpoints import verify as verify
    from llmguard_core.collating import Collator as Collator
    from llmguard_core.config import load_config as load_config
    from llmguard_core.encoding import Encoder as Encoder
    from llmguard_core.encoding import read_rows as read_rows
    from llmguard_core.errors import CoreError as CoreError
    from llmguard_core.evaluation import evaluate as evaluate
    from llmguard_core.fewshot import FewShot as FewShot
    from llmguard_core.formats import format_for as format_for
    from llmguard_core.generation import generate as generate
    from llmguard_core.loading import Loaded as Loaded
    from llmguard_core.loading import load_base as load_base
    from llmguard_core.loading import load_chat as load_chat
    from llmguard_core.memory import pick_device as pick_device
    from llmguard_core.memory import release as release
    from llmguard_core.packing import pack as pack
    from llmguard_core.queue import run_queue as run_queue
    from llmguard_core.settings import RunConfig as RunConfig
    from llmguard_core.settings import TrainSettings as TrainSettings
    from llmguard_core.training import Guards as Guards
    from llmguard_core.training import dpo as dpo
    from llmguard_core.training import sft as sft
    from llmguard_core.training import train as train

_HOME = {
    "Collator": "collating",
    "CoreError": "errors",
    "Encoder": "encoding",
    "FewShot": "fewshot",
    "Guards": "training",
    "Loaded": "loading",
    "RunConfig": "settings",
    "TrainSettings": "settings",
    "dpo": "training",
    "evaluate": "evaluation",
    "format_for": "formats",
    "generate": "generation",
    "load_base": "loading",
    "load_chat": "loading",
    "load_config": "config",
    "newest": "checkpoints",
    "pack": "packing",
    "pick_device": "memory",
    "read_rows": "encoding",
    "release": "memory",
    "run_queue": "queue",
    "sft": "training",
    "train": "training",
    "verify": "checkpoints",
}

__all__ = sorted(_HOME)  # noqa: PLE0605  # one list: a test compares it with what can be imported


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"llmguard_core.{_HOME[name]}"), name)
    raise AttributeError(f"module 'llmguard_core' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
