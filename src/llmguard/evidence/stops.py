"""`stops` and `context`: what the model's config files say about ends and length, read without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmguard.errors import MissingEvidence
from llmguard.evidence import Evidence

__all__ = ["provide", "read_json"]


def provide(evidence: Evidence, target: str) -> dict[str, list[int]]:
    """`eos_token_id` of config.json and generation_config.json as lists; files that are not there are left out."""
    path = evidence.project.model_path
    if path is None:
        raise MissingEvidence("stops", 'add `[model] path = "…"` to llmguard.toml')
    found = {
        name: _ids(read_json(Path(path) / f"{name}.json").get("eos_token_id"))
        for name in ("config", "generation_config")
    }
    return {name: ids for name, ids in found.items() if ids}


def _ids(value: Any) -> list[int]:
    ids = value if isinstance(value, list) else [value]
    return [i for i in ids if isinstance(i, int)]


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file; empty where there is none that can be read (which a check on the model's files says)."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
