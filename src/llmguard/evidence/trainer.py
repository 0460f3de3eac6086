"""`trainer`: what the user's Trainer is set to, as it was built: class, arguments, rows, tokenizer, model."""

from __future__ import annotations

from typing import Any

from llmguard.errors import MissingEvidence
from llmguard.evidence import Evidence

__all__ = ["provide"]


def provide(evidence: Evidence, target: str) -> dict[str, Any]:
    """The facts that the child wrote down (`class`, `arguments`, `rows`, `evaluation_rows`, `tokenizer`, `model`, `collator`)."""
    if not evidence.project.schema.pipeline.trainer:
        raise MissingEvidence("trainer", 'add `[pipeline] trainer = "module:function"` to llmguard.toml')
    return evidence.collected.step("trainer")
