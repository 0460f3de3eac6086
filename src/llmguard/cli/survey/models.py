"""Model and adapter folders: by the files they hold; base or chat is a guess that says why."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from llmguard.cli.survey.tree import Tree

__all__ = ["Adapter", "Model", "adapters_in", "models_in", "read_json"]

TOKENIZER = {"tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model"}
CHAT = re.compile(r"(^|[^a-z])(instruct|chat|it|sft|dpo|rlhf|assistant)([^a-z]|$)")
BASE = re.compile(r"(^|[^a-z])(base|pretrained|pt)([^a-z]|$)")
CHECKPOINT = re.compile(r"(^|/)checkpoint-\d+(/|$)")
LARGEST = 32 << 20
"""Bytes of a JSON file that is read whole."""


@dataclass(frozen=True)
class Model:
    """A model folder, or the folder of a tokenizer alone; `reason` is why it is taken for `kind`."""

    path: str
    kind: str
    reason: str
    architecture: str = ""
    tokenizer_only: bool = False
    checkpoint: bool = False


@dataclass(frozen=True)
class Adapter:
    """A PEFT adapter folder and the base that it names."""

    path: str
    base: str
    checkpoint: bool = False


def models_in(tree: Tree) -> list[Model]:
    """Folders with a tokenizer, whole models first, checkpoints of a run last."""
    folders = {str(PurePosixPath(f).parent) for f in tree.named("config.json", "tokenizer_config.json")}
    found = [_model(tree, folder) for folder in sorted(folders)]
    return sorted((m for m in found if m is not None), key=lambda m: (m.checkpoint, m.tokenizer_only, m.path))


def _model(tree: Tree, folder: str) -> Model | None:
    beside = tree.beside(folder)
    if "adapter_config.json" in beside or not (beside & TOKENIZER):
        return None
    config = read_json(tree.root / folder / "config.json") if "config.json" in beside else {}
    whole = bool(config.get("model_type") or config.get("architectures"))
    if not whole and "tokenizer_config.json" not in beside:
        return None
    kind, reason = _kind(tree.root / folder, beside, str(config.get("_name_or_path") or ""))
    architectures = config.get("architectures") or [""]
    return Model(folder, kind, reason, str(architectures[0]), not whole, bool(CHECKPOINT.search(folder)))


def _kind(folder: Path, beside: set[str], original: str) -> tuple[str, str]:
    for name in (folder.resolve().name.lower(), original.lower()):
        if BASE.search(name):
            return "base", f"guessed: the name `{name}` says so"
        if CHAT.search(name):
            return "chat", f"guessed: the name `{name}` says so"
    own = read_json(folder / "tokenizer_config.json").get("chat_template")
    if own or beside & {"chat_template.jinja", "chat_template.json"}:
        return "chat", "guessed: its tokenizer has a chat template (some base models have one too)"
    return "base", "guessed: its tokenizer has no chat template"


def adapters_in(tree: Tree) -> list[Adapter]:
    """Folders with an adapter_config.json, checkpoints of a run last."""
    found = []
    for file in tree.named("adapter_config.json"):
        folder = str(PurePosixPath(file).parent)
        base = str(read_json(tree.root / file).get("base_model_name_or_path") or "")
        found.append(Adapter(folder, base, bool(CHECKPOINT.search(folder))))
    return sorted(found, key=lambda a: (a.checkpoint, a.path))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; {} where there is none."""
    try:
        if path.stat().st_size > LARGEST:
            return {}
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
