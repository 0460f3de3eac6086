"""`model`: what the model's folder holds, by its config and the headers of its weights; no weight is read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmguard.errors import MissingEvidence
from llmguard.evidence import Evidence
from llmguard.tensors import BadFile, Tensor, read_header

__all__ = ["ModelFolder", "provide", "read_model"]

EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight", "embedding.weight")
WIDTH = ("hidden_size", "n_embd", "d_model")


@dataclass(frozen=True)
class ModelFolder:
    """A model folder, or what stands in its place.

    `name`: as the project writes it. `path`: the folder, None for a hub id that is in no cache. `problems`: (file, what is
    wrong with it). `tensors`: every tensor by name, empty where there are no safetensors weights.
    """

    name: str
    path: Path | None
    config: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    problems: Sequence[tuple[str, str]] = ()
    other_weights: Sequence[str] = ()
    is_hub_id: bool = False

    @property
    def has_weights(self) -> bool:
        """Whether there are weights of any kind."""
        return bool(self.tensors or self.other_weights)

    @property
    def embedding_rows(self) -> int | None:
        """Rows of the input embedding: from its tensor, else from the config's vocab_size."""
        found = next((t for n, t in self.tensors.items() if n.endswith(EMBEDDINGS)), None)
        if found is not None and found.shape:
            return found.shape[0]
        size = self.config.get("vocab_size", self.config.get("text_config", {}).get("vocab_size"))
        return int(size) if isinstance(size, int) else None

    @property
    def width(self) -> int | None:
        """The hidden size, from the config."""
        nested = {**self.config, **self.config.get("text_config", {})}
        return next((int(nested[k]) for k in WIDTH if isinstance(nested.get(k), int)), None)


def provide(evidence: Evidence, target: str) -> ModelFolder:
    """The model that the project names."""
    path = evidence.project.model_path
    if path is None:
        raise MissingEvidence("model", 'add `[model] path = "…"` to llmguard.toml')
    return read_model(path, evidence.project.relative(path))


def read_model(text: str, shown: str = "") -> ModelFolder:
    """What a folder (or a hub id, looked up in the local cache) holds; never raises for what is in it."""
    folder, hub = Path(text), False
    if not folder.is_dir() and text.count("/") == 1 and not text.startswith((".", "/", "~")):
        cached = _cached(text)
        if cached is None:
            return ModelFolder(shown or text, None, is_hub_id=True)
        folder, hub = cached, True
    if not folder.is_dir():
        return ModelFolder(shown or text, None)
    problems: list[tuple[str, str]] = []
    config = _config(folder, problems)
    tensors = _tensors(folder, problems)
    others = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".gguf", ".h5") and "training_args" not in p.name)
    return ModelFolder(shown or text, folder, config, tensors, problems, others, hub)


def _cached(hub_id: str) -> Path | None:
    """The newest snapshot of a hub id in the local cache (the cache's documented layout; nothing is asked over the network)."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    snapshots = cache / f"models--{hub_id.replace('/', '--')}" / "snapshots"
    found = sorted(snapshots.iterdir(), key=lambda p: p.stat().st_mtime) if snapshots.is_dir() else []
    return found[-1] if found else None


def _config(folder: Path, problems: list[tuple[str, str]]) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.exists():
        return {}
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as bad:
        problems.append(("config.json", f"cannot be read: {bad}"))
        return {}
    return found if isinstance(found, dict) else {}


def _tensors(folder: Path, problems: list[tuple[str, str]]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    index = folder / "model.safetensors.index.json"
    wanted = _index(index, problems) if index.exists() else {}
    for name in sorted({*wanted.values()} or {p.name for p in folder.glob("*.safetensors") if not p.name.startswith("adapter")}):
        try:
            tensors.update(read_header(folder / name))
        except FileNotFoundError:
            problems.append((name, "is named by the index and not there"))
        except BadFile as bad:
            problems.append((name, str(bad)))
        except OSError as bad:
            problems.append((name, f"cannot be read: {bad.strerror}"))
    broken = {name for name, _ in problems}
    lost = [t for t, shard in wanted.items() if t not in tensors and shard not in broken]
    if lost:
        problems.append((index.name, f"names {len(lost)} tensors that no shard holds ({lost[0]} …)"))
    return tensors


def _index(file: Path, problems: list[tuple[str, str]]) -> dict[str, str]:
    try:
        return {str(k): str(v) for k, v in json.loads(file.read_text("utf-8"))["weight_map"].items()}
    except (OSError, ValueError, KeyError, AttributeError) as bad:
        problems.append((file.name, f"cannot be read: {bad}"))
        return {}
