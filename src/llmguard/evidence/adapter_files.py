"""`adapter_files`: the adapter's folder as it is, also when it cannot be used; `adapter` is the same where it can."""

from __future__ import annotations

from llmguard.errors import MissingEvidence
from llmguard.evidence import Evidence
from llmguard.evidence.adapter import Adapter, read_adapter

__all__ = ["provide"]


def provide(evidence: Evidence, target: str) -> Adapter:
    """The adapter that the project names, with everything that is wrong with its files."""
    path = evidence.project.adapter_path
    if path is None:
        raise MissingEvidence("adapter", 'add `[model] adapter = "out/adapter"` to llmguard.toml')
    return read_adapter(path, evidence.project.relative(path))
