"""`model`: what the model's folder holds, by its config and the headers of its weights; no weight is read."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from llmguard.errors import MissingEvidence
from llmguard.evidence import Evidence
from llmguard.evidence.weights import read_weights
from llmguard.hub import cache_folder, snapshot
from llmguard.tensors import Tensor

__all__ = ["ModelFolder", "provide", "read_model"]

EMBEDDINGS = (
    "embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight", "embeddings.weight", "embedding.weight",
)  # fmt: skip
WIDTH = ("hidden_size", "n_embd", "d_model")
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


@dataclass(frozen=True)
class ModelFolder:
    """A model folder, or what stands in its place.

    `name`: as the project writes it. `path`: the folder, None where there is none here. `problems`: (file, what is wrong with it).
    `generation`: what generation_config.json says. `tensors`: every tensor by name, empty where there are no safetensors weights.
    `is_hub_id`: the name is no path; `near`: folders (cached hub ids) with names like it; `offline`: nothing may be downloaded.
    """

    name: str
    path: Path | None
    config: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    problems: Sequence[tuple[str, str]] = ()
    other_weights: Sequence[str] = ()
    is_hub_id: bool = False
    near: Sequence[str] = ()
    offline: bool = False
    generation: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_weights(self) -> bool:
        """Whether there are weights of any kind."""
        return bool(self.tensors or self.other_weights)

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """The config, with that of the text model of a model of several modalities laid over it."""
        text = self.config.get("text_config")
        return {**self.config, **(text if isinstance(text, dict) else {})}

    @property
    def embedding(self) -> Tensor | None:
        """The tensor of the input embedding, where there are safetensors weights."""
        found = (t for n, t in self.tensors.items() if n.endswith(EMBEDDINGS) and "position" not in n)
        return next(found, None)

    @property
    def embedding_rows(self) -> int | None:
        """Rows of the input embedding: from its tensor, else from the config's vocab_size."""
        if self.embedding is not None and self.embedding.shape:
            return self.embedding.shape[0]
        size = self.settings.get("vocab_size")
        return int(size) if isinstance(size, int) else None

    @property
    def width(self) -> int | None:
        """The hidden size, from the config."""
        return self._setting(WIDTH)

    @property
    def layers(self) -> int | None:
        """The number of layers, from the config."""
        return self._setting(LAYERS)

    def _setting(self, names: Sequence[str]) -> int | None:
        return next((int(self.settings[k]) for k in names if isinstance(self.settings.get(k), int)), None)


def provide(evidence: Evidence, target: str) -> ModelFolder:
    """The model that the project names."""
    path = evidence.project.model_path
    if path is None:
        raise MissingEvidence("model", 'add `[model] path = "…"` to llmguard.toml')
    return read_model(path, evidence.project.relative(path), evidence.project.folder)


def read_model(text: str, shown: str = "", root: Path | None = None) -> ModelFolder:
    """What a folder (or a hub id, looked up in the local cache) holds; never raises for what is in it.

    `root`: the folder that a relative path starts from.
    """
    folder, name = Path(root or Path(), text), shown or text
    if folder.is_dir():
        return _of_folder(folder, name)
    is_id = text.count("/") == 1 and not text.startswith((".", "/", "~"))
    cached = snapshot(text) if is_id else None
    if cached is not None:
        return replace(_of_folder(cached, name), is_hub_id=True)
    near = _near_folders(folder)
    offline = any(os.environ.get(v, "").lower() in ("1", "true", "yes", "on") for v in OFFLINE)
    if is_id and not near:
        return ModelFolder(name, None, is_hub_id=True, near=_near_ids(text), offline=offline)
    return ModelFolder(name, None, near=near, offline=offline)


def _of_folder(folder: Path, name: str) -> ModelFolder:
    problems: list[tuple[str, str]] = []
    config, generation = (
        _config(folder, f"{kind}.json", problems) for kind in ("config", "generation_config")
    )
    tensors, others = read_weights(folder, problems)
    return ModelFolder(name, folder, config, tensors, problems, others, generation=generation)


def _near_folders(folder: Path) -> list[str]:
    """Folders like the one that is not there: beside it, or under a parent with another spelling."""
    parent = folder.parent
    if parent.is_dir():
        beside = [p.name for p in _listed(parent)]
        return difflib.get_close_matches(folder.name, beside, n=3, cutoff=0.6)
    wanted = f"{parent.name}/{folder.name}"
    others = [f"{p.name}/{c.name}" for p in _listed(parent.parent) if p.is_dir() for c in _listed(p)]
    return difflib.get_close_matches(wanted, others, n=3, cutoff=0.8)


def _listed(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(folder.iterdir())[:500]
    except OSError:
        return


def _near_ids(hub_id: str) -> list[str]:
    """Hub ids in the local cache that are like this one."""
    ids = [
        p.name.removeprefix("models--").replace("--", "/")
        for p in _listed(cache_folder())
        if p.name.startswith("models--")
    ]
    return difflib.get_close_matches(hub_id, ids, n=3, cutoff=0.6)


def _config(folder: Path, name: str, problems: list[tuple[str, str]]) -> dict[str, Any]:
    file = folder / name
    if not file.exists():
        return {}
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as bad:
        problems.append((name, f"cannot be read: {bad}"))
        return {}
    return found if isinstance(found, dict) else {}
