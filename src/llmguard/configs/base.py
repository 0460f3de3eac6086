"""What the base model's own config.json says that a training config can contradict: its context and its number format."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmguard.configs.config import Config
from llmguard.configs.places import find, hub_cache
from llmguard.configs.runs import Run

__all__ = ["Base", "base_of"]

_CACHED_NAME = re.compile(r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")
_CONTEXT = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "seq_length",
    "max_seq_len",
    "n_ctx",
)


@dataclass(frozen=True)
class Base:
    """The base model of a run: where its config.json lies, its context in tokens, its dtype (`bfloat16`, …)."""

    file: Path
    context: int | None
    dtype: str
    context_key: str = ""


def base_of(config: Config, run: Run) -> Base | None:
    """The base model's facts, where its config.json is on this machine: the run's own model, else the project's."""
    setting = run.get("model")
    named = setting.value if setting else config.model
    if not isinstance(named, str) or not named:
        return None
    place, _ = find(config, named)
    file = place / "config.json" if place is not None and place.is_dir() else _cached(named)
    return _read(file) if file is not None and file.is_file() else None


def _cached(hub_id: str) -> Path | None:
    if not _CACHED_NAME.fullmatch(hub_id):
        return None
    snapshots = hub_cache() / f"models--{hub_id.replace('/', '--')}" / "snapshots"
    try:
        found = sorted(snapshots.glob("*/config.json"))
    except OSError:  # a name that no file system takes
        return None
    return found[-1] if found else None


def _read(file: Path) -> Base | None:
    try:
        said = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(said, dict):
        return None
    inner = said.get("text_config")
    said = {**said, **inner} if isinstance(inner, dict) else said
    key = next((k for k in _CONTEXT if isinstance(said.get(k), int)), "")
    return Base(file, _context(said, key), str(said.get("torch_dtype") or said.get("dtype") or ""), key)


def _context(said: dict[str, Any], key: str) -> int | None:
    """The context that the model was made for; a rope scaling that multiplies an original one is counted in."""
    if not key:
        return None
    context = int(said[key])
    scaling = said.get("rope_scaling") or said.get("rope_parameters")
    if isinstance(scaling, dict):
        factor, original = scaling.get("factor"), scaling.get("original_max_position_embeddings")
        if isinstance(factor, (int, float)):
            return max(context, int((original if isinstance(original, int) else context) * factor))
    return context
