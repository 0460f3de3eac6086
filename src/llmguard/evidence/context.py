"""`context`: how many tokens the model takes, from its config.json or its tokenizer's model_max_length."""

from __future__ import annotations

from pathlib import Path

from llmguard.errors import MissingEvidence
from llmguard.evidence import Evidence
from llmguard.evidence.stops import read_json

__all__ = ["provide"]

KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "n_ctx")
UNSET = 10**8
"""Tokenizers without a limit say something astronomical."""


def provide(evidence: Evidence, target: str) -> int:
    """The context length in tokens."""
    path = evidence.project.model_path
    config = read_json(Path(path) / "config.json") if path else {}
    found = next((config[k] for k in KEYS if isinstance(config.get(k), int)), None)
    if found is not None:
        return int(found)
    limit = int(evidence.get("tokenizer").model_max_length)
    if limit >= UNSET:
        raise MissingEvidence("context", "the model's folder has no config.json that says its context length")
    return limit
