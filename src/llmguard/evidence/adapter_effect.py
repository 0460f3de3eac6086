"""`adapter_effect`: what the model says with its adapter on and off, from a supervised child that loads both."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmguard.errors import EvidenceError, MissingEvidence
from llmguard.evidence import Evidence
from llmguard.evidence.adapter import Adapter
from llmguard.evidence.model import ModelFolder, read_model

__all__ = ["Effect", "measure", "provide"]

DEADLINE = 1800.0
"""Seconds after which the child is ended although it still makes progress."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class Effect:
    """What `llmguard.collect.effect` found (see there), for the adapter and the model of these names. `error` is empty where both load."""

    adapter: str
    model: str
    found: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    base: str = ""


def provide(evidence: Evidence, target: str) -> Effect:
    """The effect of the project's adapter on the project's model.

    Raises:
        EvidenceError: the adapter's files or the model's folder cannot be used; the check that says why is named.
    """
    adapter: Adapter = evidence.get("adapter")
    model: ModelFolder = evidence.get("model")
    if model.path is None:
        raise EvidenceError("model", f"{model.name} is not here", told_by="model_path_exists")
    project = evidence.project
    request = {
        "model": str(model.path),
        "adapter": str(adapter.path),
        "tokenizer": project.tokenizer_path if project.schema.model.tokenizer else None,
        "named": _named(adapter, model),
        "trust_remote_code": project.schema.model.trust_remote_code,
    }
    return measure(request, adapter.name, model.name, adapter.base, no_progress=evidence.options.deadline)


def _named(adapter: Adapter, model: ModelFolder) -> str | None:
    """The base that the adapter names, where it is on this machine and is not the project's model."""
    named = read_model(adapter.base, root=adapter.path.parent) if adapter.base else None
    if named is None or named.path is None or not named.has_weights or model.path is None:
        return None
    return None if named.path.resolve() == model.path.resolve() else str(named.path)


def measure(
    request: Mapping[str, Any], adapter: str, model: str, base: str = "", *, no_progress: float = 60.0
) -> Effect:
    """One request to a child of its own.

    Raises:
        MissingEvidence: torch, transformers or peft is not installed.
    """
    from importlib.util import find_spec

    from llmguard import probe

    if not all(find_spec(name) for name in ("torch", "transformers", "peft")):
        raise MissingEvidence(
            "adapter_effect", "install torch, transformers and peft: pip install 'pytest-llmguard[train]'"
        )
    with tempfile.TemporaryDirectory(prefix="llmguard-effect-") as scratch:
        asked, answered = Path(scratch, "request.json"), Path(scratch, "response.json")
        asked.write_text(json.dumps(request), "utf-8")
        ended = probe.run(
            "llmguard.collect.effect",
            [str(asked), str(answered)],
            timeout=DEADLINE,
            no_progress=no_progress,
            env=OFFLINE,
            hide_gpus=True,
            what="the model with its adapter",
        )
        if not answered.exists():
            return Effect(adapter, model, error=ended.explain(), base=base)
        found = json.loads(answered.read_text("utf-8"))
    if "error" in found:
        told = found["error"]
        return Effect(adapter, model, error=f"{told['what']}: {told['type']}: {told['message']}", base=base)
    return Effect(adapter, model, found, base=base)
