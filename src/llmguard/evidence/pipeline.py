"""`pipeline`: how the user's own functions fared in their child: one outcome a step, failed or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmguard.errors import MissingEvidence
from llmguard.evidence import Evidence

__all__ = ["Pipeline", "provide"]


@dataclass(frozen=True)
class Pipeline:
    """Outcomes by step: `{"ok": True, …}` or `{"ok": False, "error": {"what", "type", "message", "file", "line", "row"}}`."""

    outcomes: Mapping[str, Mapping[str, Any]]


def provide(evidence: Evidence, target: str) -> Pipeline:
    """The steps that the project asks for, all run to their end."""
    steps = ("prompts", "encode", "collate", "trainer")
    found = {s: o for s in steps if (o := evidence.collected.outcome(s)) is not None}
    if not found:
        raise MissingEvidence(
            "pipeline",
            'add `[pipeline] encode = "module:function"` (or `collate`, `trainer`) to llmguard.toml',
        )
    return Pipeline(found)
