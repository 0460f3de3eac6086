"""`adapter`: a PEFT directory by its config and the headers of its weights."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from llmguard.errors import EvidenceError
from llmguard.evidence import Evidence
from llmguard.tensors import BadFile, Tensor, read_header

__all__ = ["Adapter", "Module", "provide", "read_adapter"]

WEIGHTS, LEGACY = "adapter_model.safetensors", "adapter_model.bin"
LORA = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.*?)\.(?P<side>lora_(?:embedding_)?[AB])(?:\.\w+)?(?:\.weight)?$"
)
PEFT_KEY = re.compile(
    r"lora_|ia3_|prompt_|modules_to_save|vera_|oft_|hada_|lokr_|boft_|hra_|shira_|c3a_|bone_|ln_tuning|base_model\.model\."
)
"""What names in an adapter's file have and names in a model's file have not."""


@dataclass(frozen=True)
class Module:
    """One adapted module of LoRA: the shapes of A [rank, in] and B [out, rank], as far as both are there."""

    name: str
    a: tuple[int, ...] | None = None
    b: tuple[int, ...] | None = None


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
    def kind(self) -> str:
        """LORA, IA3, PROMPT_TUNING, …"""
        return str(self.config.get("peft_type") or "LORA").upper()

    @property
    def b_tensors(self) -> list[Tensor]:
        """The B matrices of LoRA, zero before training."""
        return [t for n, t in self.tensors.items() if ".lora_B" in n or ".lora_embedding_B" in n]

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(t.stop - t.start for t in self.tensors.values())

    @cached_property
    def modules(self) -> Mapping[str, Module]:
        """The modules that LoRA adapts, by name."""
        found: dict[str, dict[str, tuple[int, ...]]] = {}
        for name, tensor in self.tensors.items():
            match = LORA.match(name)
            if match and "embedding" not in match["side"]:
                found.setdefault(match["module"], {})[match["side"][-1].lower()] = tensor.shape
        return {name: Module(name, **shapes) for name, shapes in found.items()}

    @property
    def saved_whole(self) -> dict[str, Tensor]:
        """Modules that are saved whole (`modules_to_save`, resized embeddings): the tensors that are no adapter matrices."""
        return {
            n: t
            for n, t in self.tensors.items()
            if not LORA.match(n) and "lora_magnitude" not in n and n.endswith("weight")
        }

    @cached_property
    def added_tokens(self) -> Mapping[str, int]:
        """Tokens that the tokenizer saved with the adapter adds to its vocabulary; empty where none is saved."""
        try:
            found = json.loads((self.path / "tokenizer.json").read_text("utf-8"))["added_tokens"]
            return {str(t["content"]): int(t["id"]) for t in found}
        except (OSError, ValueError, KeyError, TypeError):
            return {}


def provide(evidence: Evidence, target: str) -> Adapter:
    """The adapter that the project names.

    Raises:
        EvidenceError: its files cannot be judged; the check that says why is named.
    """
    adapter: Adapter = evidence.get("adapter_files")
    if not adapter.tensors:
        reason = "; ".join(f"{file} {what}" for file, what in adapter.problems) or "it holds no tensors"
        raise EvidenceError("adapter", reason, told_by="adapter_files_are_whole")
    return adapter


def read_adapter(path: Path, shown: str = "") -> Adapter:
    """What an adapter folder holds; never raises for what is in it."""
    name = shown or str(path)
    if not path.is_dir():
        what = "is a file, not a PEFT directory" if path.exists() else f"does not exist{_near(path)}"
        return Adapter(name, path, problems=[(name, what)])
    problems: list[tuple[str, str]] = []
    config = _config(path / "adapter_config.json", problems)
    tensors = _tensors(path, problems)
    legacy = not tensors and (path / LEGACY).exists()
    changed = (path / WEIGHTS).stat().st_mtime if tensors else None
    return Adapter(name, path, config, tensors, problems, legacy, changed)


def _tensors(path: Path, problems: list[tuple[str, str]]) -> dict[str, Tensor]:
    try:
        return read_header(path / WEIGHTS)
    except FileNotFoundError:
        held = ", ".join(sorted(p.name for p in path.iterdir())[:8]) or "nothing"
        problems.append((WEIGHTS, f"is not there; the folder holds {held}{_inside(path)}"))
    except BadFile as bad:
        problems.append((WEIGHTS, str(bad)))
    except OSError as bad:
        problems.append((WEIGHTS, f"cannot be read: {bad.strerror}"))
    return {}


def _inside(path: Path) -> str:
    """Adapters in the folders of this folder: a run's folder was named instead of its checkpoint."""
    found = sorted(p.parent.name for p in path.glob(f"*/{WEIGHTS}"))
    return f"; adapters lie in its folders {', '.join(found[:5])}" if found else ""


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
    if not isinstance(found, dict):
        problems.append((file.name, f"holds a JSON {type(found).__name__}, expected an object"))
        return {}
    return found
