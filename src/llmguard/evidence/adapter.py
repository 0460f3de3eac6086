"""`adapter`: a PEFT directory by its config and the headers of its weights."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmguard.errors import EvidenceError, MissingEvidence
from llmguard.evidence import Evidence
from llmguard.tensors import BadFile, Tensor, read_header

__all__ = ["Adapter", "provide", "read_adapter"]

WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Adapter:
    """A PEFT adapter. `problems`: (file, what is wrong with it); `changed`: when its weights were written, seconds since the epoch."""

    name: str
    path: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    problems: Sequence[tuple[str, str]] = ()
    legacy: bool = False
    changed: float | None = None

    @property
    def base(self) -> str:
        """The base model that it says it was trained on."""
        return str(self.config.get("base_model_name_or_path") or "")

    @property
    def b_tensors(self) -> list[Tensor]:
        """The B matrices of LoRA, zero before training."""
        return [t for n, t in self.tensors.items() if ".lora_B." in n or ".lora_embedding_B" in n]


def provide(evidence: Evidence, target: str) -> Adapter:
    """The adapter that the project names."""
    path = evidence.project.adapter_path
    if path is None:
        raise MissingEvidence("adapter", 'add `[model] adapter = "out/adapter"` to llmguard.toml')
    return read_adapter(path, evidence.project.relative(path))


def usable(adapter: Adapter) -> Adapter:
    """The adapter, if its files can be judged.

    Raises:
        EvidenceError: they cannot; the check that says why is named.
    """
    if not adapter.tensors:
        raise EvidenceError("adapter", adapter.problems[0][1] if adapter.problems else "no weights", told_by="adapter_files_are_whole")
    return adapter


def read_adapter(path: Path, shown: str = "") -> Adapter:
    """What an adapter folder holds; never raises for what is in it."""
    name = shown or str(path)
    if not path.is_dir():
        return Adapter(name, path, problems=[(name, f"does not exist{_near(path)}")])
    problems: list[tuple[str, str]] = []
    config = _config(path / "adapter_config.json", problems)
    weights = path / WEIGHTS
    tensors: dict[str, Tensor] = {}
    try:
        tensors = read_header(weights)
    except FileNotFoundError:
        problems.append((WEIGHTS, f"is not there; the folder holds {', '.join(sorted(p.name for p in path.iterdir())[:8]) or 'nothing'}"))
    except BadFile as bad:
        problems.append((WEIGHTS, str(bad)))
    except OSError as bad:
        problems.append((WEIGHTS, f"cannot be read: {bad.strerror}"))
    legacy = not tensors and (path / "adapter_model.bin").exists()
    changed = weights.stat().st_mtime if tensors else None
    return Adapter(name, path, config, tensors, problems, legacy, changed)


def _near(path: Path) -> str:
    try:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir()], n=3, cutoff=0.5)
    except OSError:
        return f", and neither does {path.parent.name}/"
    return f"; near it lies {', '.join(near)}" if near else ""


def _config(file: Path, problems: list[tuple[str, str]]) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        problems.append((file.name, "is not there: this is no PEFT directory"))
        return {}
    except (OSError, ValueError) as bad:
        problems.append((file.name, f"cannot be read: {bad}"))
        return {}
    return found if isinstance(found, dict) else {}
